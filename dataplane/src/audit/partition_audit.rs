//! Audit of one partition: its ranges in order, the totals of each outcome, and any gap.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::topic_id::{TopicId, is_another};
use lighterman_proto::units::TimestampMs;

use super::entry::{AuditEntry, EntryKind, OutcomeTotals};
use crate::messages::outcome::Outcome;

/// Maximum number of ranges kept per partition. Older ones remain in the totals.
pub const RANGES_MAX: usize = 10_000;
/// Maximum number of skip reasons kept per partition. Those of the oldest records are removed first.
pub const REASONS_MAX: usize = 1_000;
/// Maximum number of earlier topics, and of offsets beyond the end, kept per partition.
const NOTES_MAX: usize = 16;
/// Maximum number of recent ranges that are not merged yet. A node that dies between audit and commit resumes before
/// some of them.
const FRESH_MAX: usize = 64;

/// Range of offsets as shown. Ordinary outcomes (delivered, filtered, absent) are merged into one range. An outcome
/// that operators may ask about has a range of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditRange {
    /// Offsets of the range.
    pub range: OffsetRange,
    /// Time at which the range's last commit was prepared.
    pub at: TimestampMs,
    /// Number of offsets per outcome.
    pub sums: OutcomeTotals,
    /// Set if the outcome is not known here: another node had the partition, or the offsets were set by hand.
    pub not_ours: bool,
}

/// Audit summary of one partition of a deleted topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierTopic {
    /// Id of the topic, which tells it from others of its name.
    pub topic: Option<TopicId>,
    /// Time at which the new topic was found.
    pub at: TimestampMs,
    /// Offsets covered by the audit.
    pub range: OffsetRange,
    /// Number of offsets per outcome.
    pub sums: OutcomeTotals,
}

/// Committed offset beyond the log's end that Lighterman did not commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeyondEnd {
    /// Time at which it was found.
    pub at: TimestampMs,
    /// Offset that the group held.
    pub held: Offset,
    /// Offset at which the partition started instead.
    pub began: Offset,
}

/// Audit of one partition.
#[derive(Clone, Debug, Default)]
pub struct PartitionAudit {
    topic: Option<TopicId>,
    earlier: VecDeque<EarlierTopic>,
    beyond_end: VecDeque<BeyondEnd>,
    joined: VecDeque<AuditRange>,
    fresh: VecDeque<AuditRange>,
    forgotten: u64,
    sums: OutcomeTotals,
    began: Option<Offset>,
    reasons: BTreeMap<Offset, SkipReason>,
    uncommitted: Option<UncommittedRange>,
}

/// Range that was resolved but not committed when the mapping last stopped without its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UncommittedRange {
    /// Time of the stop.
    pub at: TimestampMs,
    /// Offsets from the group's committed offset on.
    pub range: OffsetRange,
}

/// Operator's reason for skipping a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkipReason {
    /// Time of the request.
    pub at: TimestampMs,
    /// End offset (exclusive) of the request.
    pub end: Offset,
    /// Text of the reason.
    pub text: Arc<str>,
}

/// Audit of a partition as shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditReport {
    /// Id of the audited topic, which tells it from others of its name.
    pub topic: Option<TopicId>,
    /// Most recent earlier topics.
    pub earlier: Vec<EarlierTopic>,
    /// Most recent times that the group held an offset beyond the log's end.
    pub beyond_end: Vec<BeyondEnd>,
    /// First offset of the audit.
    pub began: Option<Offset>,
    /// End offset (exclusive) of the audit.
    pub end: Option<Offset>,
    /// Number of offsets per outcome since the start of the audit.
    pub sums: OutcomeTotals,
    /// Most recent ranges.
    pub stretches: Vec<AuditRange>,
    /// Number of older ranges that are only in the totals.
    pub forgotten: u64,
    /// Reasons of the skipped records in the ranges.
    pub reasons: BTreeMap<Offset, SkipReason>,
    /// Range left uncommitted when the mapping last stopped without its commit.
    pub uncommitted: Option<UncommittedRange>,
}

/// Result of checking the audit against the committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditVerdict {
    /// Every offset before the committed one has an outcome, or is known to have been processed elsewhere.
    Accounted,
    /// Committed offsets without an outcome.
    Missing(OffsetRange),
    /// No offset is committed yet, or the committed offset is not known.
    Unknown,
}

impl PartitionAudit {
    /// Applies the next entry.
    pub fn enter(&mut self, entry: &AuditEntry) {
        match &entry.what {
            EntryKind::Began(topic) => {
                if is_another(self.topic, *topic) {
                    self.close(entry.at);
                }
                self.topic = topic.or(self.topic);
                self.begin(entry.range.first, entry.at);
            }
            EntryKind::Recreated(topic) => {
                if topic.is_none() || *topic != self.topic {
                    self.close(entry.at);
                }
                self.topic = *topic;
                self.begin(entry.range.first, entry.at);
            }
            EntryKind::Earlier(topic, sums) => {
                self.remember(EarlierTopic { topic: *topic, at: entry.at, range: entry.range, sums: *sums });
            }
            EntryKind::BeyondEnd(held) => {
                let (at, held, began) = (entry.at, *held, entry.range.first);
                push_bounded(&mut self.beyond_end, BeyondEnd { at, held, began });
            }
            EntryKind::Ended(outcome) => {
                let mut sums = OutcomeTotals::default();
                sums[*outcome as usize] = entry.range.first.distance_to(entry.range.end);
                self.push(AuditRange { range: entry.range, at: entry.at, sums, not_ours: false });
            }
            EntryKind::Stretch(sums) => {
                self.push(AuditRange { range: entry.range, at: entry.at, sums: *sums, not_ours: false });
            }
            EntryKind::Elsewhere => {
                let sums = OutcomeTotals::default();
                self.push(AuditRange { range: entry.range, at: entry.at, sums, not_ours: true });
            }
            EntryKind::Forgotten(sums) => {
                self.began = Some(entry.range.first);
                self.forgotten += 1;
                self.add(sums);
            }
            EntryKind::Uncommitted => {
                self.uncommitted = Some(UncommittedRange { at: entry.at, range: entry.range });
            }
            EntryKind::Reason(text) => {
                let reason = SkipReason { at: entry.at, end: entry.range.end, text: Arc::clone(text) };
                self.reasons.insert(entry.range.first, reason);
                if self.reasons.len() > REASONS_MAX {
                    self.reasons.pop_first();
                }
            }
        }
    }

    /// Returns `entry` as it is to be written: a start in another topic becomes `Recreated`.
    pub fn worded(&self, entry: &AuditEntry) -> AuditEntry {
        match entry.what {
            EntryKind::Began(topic) if is_another(self.topic, topic) => {
                AuditEntry { what: EntryKind::Recreated(topic), ..entry.clone() }
            }
            _ => entry.clone(),
        }
    }

    /// Returns true if `topic` is another than the audited one.
    pub fn is_of_another_topic(&self, topic: Option<TopicId>) -> bool {
        is_another(self.topic, topic)
    }

    /// Closes the audit of a deleted topic.
    fn close(&mut self, at: TimestampMs) {
        let topic = self.topic;
        if let (Some(first), Some(end)) = (self.began, self.end()) {
            self.remember(EarlierTopic { topic, at, range: OffsetRange { first, end }, sums: self.sums });
        }
        let (earlier, beyond_end) = (std::mem::take(&mut self.earlier), std::mem::take(&mut self.beyond_end));
        *self = Self { earlier, beyond_end, ..Self::default() };
    }

    fn remember(&mut self, earlier: EarlierTopic) {
        push_bounded(&mut self.earlier, earlier);
    }

    /// Returns the end offset of the audit.
    pub fn end(&self) -> Option<Offset> {
        let last = self.fresh.back().or(self.joined.back());
        last.map(|stretch| stretch.range.end).or(self.began)
    }

    /// Returns the shortest list of entries that reproduces this audit.
    pub fn lines(&self, partition: i32) -> impl Iterator<Item = AuditEntry> {
        let page = self.page();
        let listed = page.stretches.iter().fold(OutcomeTotals::default(), |mut listed, stretch| {
            for (sum, more) in listed.iter_mut().zip(stretch.sums) {
                *sum += more;
            }
            listed
        });
        let mut older = page.sums;
        for (sum, less) in older.iter_mut().zip(listed) {
            *sum = sum.saturating_sub(less);
        }
        let began = page.began.unwrap_or(Offset(0));
        let at = page.stretches.first().map_or(TimestampMs(0), |stretch| stretch.at);
        let range = OffsetRange { first: began, end: began };
        let closed = page.earlier.into_iter().map(move |earlier| {
            let EarlierTopic { topic, at, range, sums } = earlier;
            AuditEntry { at, partition, range, what: EntryKind::Earlier(topic, sums) }
        });
        let beyond_end = page.beyond_end.into_iter().map(move |beyond| {
            let range = OffsetRange { first: beyond.began, end: beyond.began };
            AuditEntry { at: beyond.at, partition, range, what: EntryKind::BeyondEnd(beyond.held) }
        });
        let began =
            page.began.map(|_| AuditEntry { at, partition, range, what: EntryKind::Began(page.topic) });
        let forgotten = AuditEntry { at, partition, range, what: EntryKind::Forgotten(older) };
        let head = began.into_iter().chain((page.forgotten > 0).then_some(forgotten));
        let stretches = page.stretches.into_iter().map(move |stretch| {
            let what = if stretch.not_ours { EntryKind::Elsewhere } else { EntryKind::Stretch(stretch.sums) };
            AuditEntry { at: stretch.at, partition, range: stretch.range, what }
        });
        let reasons = page.reasons.into_iter().map(move |(first, reason)| {
            let range = OffsetRange { first, end: reason.end };
            AuditEntry { at: reason.at, partition, range, what: EntryKind::Reason(reason.text) }
        });
        let uncommitted = page.uncommitted.map(|uncommitted| {
            let UncommittedRange { at, range } = uncommitted;
            AuditEntry { at, partition, range, what: EntryKind::Uncommitted }
        });
        closed.chain(beyond_end).chain(head).chain(stretches).chain(reasons).chain(uncommitted)
    }

    /// Returns the audit as shown.
    pub fn page(&self) -> AuditReport {
        let mut stretches: Vec<AuditRange> = Vec::new();
        for stretch in self.joined.iter().chain(&self.fresh) {
            match stretches.last_mut() {
                Some(last) if last.takes(stretch) => last.join(stretch),
                _ => stretches.push(*stretch),
            }
        }
        let from = stretches.first().map_or(Offset(i64::MAX), |stretch| stretch.range.first);
        let reasons = self.reasons.range(from..).map(|(offset, reason)| (*offset, reason.clone())).collect();
        let (began, end, forgotten) = (self.began, self.end(), self.forgotten);
        let (topic, earlier) = (self.topic, self.earlier.iter().cloned().collect());
        let beyond_end = self.beyond_end.iter().copied().collect();
        let (sums, uncommitted) = (self.sums, self.uncommitted);
        AuditReport {
            topic,
            earlier,
            beyond_end,
            began,
            end,
            sums,
            stretches,
            forgotten,
            reasons,
            uncommitted,
        }
    }

    /// Starts at `at`. The outcomes recorded from there on were not committed, and offsets skipped before it were not
    /// processed here.
    fn begin(&mut self, at: Offset, when: TimestampMs) {
        self.began.get_or_insert(at);
        // A skip requested for a record that was not reached is lost with its process.
        self.reasons.split_off(&at);
        while let Some(last) = self.fresh.back().filter(|last| last.range.first >= at).copied() {
            self.fresh.pop_back();
            self.subtract(&last.sums);
        }
        if let Some(end) = self.end().filter(|end| *end < at) {
            let range = OffsetRange { first: end, end: at };
            self.push(AuditRange { range, at: when, sums: OutcomeTotals::default(), not_ours: true });
        }
    }

    fn push(&mut self, stretch: AuditRange) {
        self.began.get_or_insert(stretch.range.first);
        self.add(&stretch.sums);
        self.fresh.push_back(stretch);
        if self.fresh.len() > FRESH_MAX
            && let Some(settled) = self.fresh.pop_front()
        {
            match self.joined.back_mut() {
                Some(last) if last.takes(&settled) => last.join(&settled),
                _ => self.joined.push_back(settled),
            }
        }
        if self.joined.len() + self.fresh.len() > RANGES_MAX {
            self.joined.pop_front();
            self.forgotten += 1;
        }
    }

    fn add(&mut self, sums: &OutcomeTotals) {
        for (sum, more) in self.sums.iter_mut().zip(sums) {
            *sum = sum.saturating_add(*more);
        }
    }

    fn subtract(&mut self, sums: &OutcomeTotals) {
        for (sum, less) in self.sums.iter_mut().zip(sums) {
            *sum = sum.saturating_sub(*less);
        }
    }
}

fn push_bounded<T>(list: &mut VecDeque<T>, next: T) {
    list.push_back(next);
    if list.len() > NOTES_MAX {
        list.pop_front();
    }
}

impl AuditRange {
    fn is_ordinary(&self) -> bool {
        let notable = |(outcome, sum): (Outcome, u64)| outcome.is_notable() && sum > 0;
        !self.not_ours && !Outcome::ALL.into_iter().zip(self.sums).any(notable)
    }

    /// Returns true if `next` can be merged into this range.
    fn takes(&self, next: &Self) -> bool {
        let both_ordinary = self.is_ordinary() && next.is_ordinary();
        let one_outcome = Outcome::ALL
            .into_iter()
            .zip(self.sums.iter().zip(next.sums))
            .all(|(_, (ours, theirs))| (*ours > 0) == (theirs > 0));
        self.range.end == next.range.first && (both_ordinary || one_outcome && self.not_ours == next.not_ours)
    }

    fn join(&mut self, next: &Self) {
        self.range.end = next.range.end;
        self.at = next.at;
        for (sum, more) in self.sums.iter_mut().zip(next.sums) {
            *sum += more;
        }
    }
}

impl AuditReport {
    /// Checks the audit against the group's committed offset.
    pub fn verify(&self, committed: Option<Offset>) -> AuditVerdict {
        let (Some(committed), Some(began)) = (committed, self.began) else { return AuditVerdict::Unknown };
        let kept_from = self.stretches.first().map_or(began, |stretch| stretch.range.first);
        let mut reached = if self.forgotten > 0 { kept_from } else { began };
        for stretch in &self.stretches {
            if stretch.range.first > reached {
                return AuditVerdict::Missing(OffsetRange { first: reached, end: stretch.range.first });
            }
            reached = reached.max(stretch.range.end);
        }
        if reached < committed {
            return AuditVerdict::Missing(OffsetRange { first: reached, end: committed });
        }
        AuditVerdict::Accounted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(first: i64, end: i64, what: EntryKind) -> AuditEntry {
        let range = OffsetRange { first: Offset(first), end: Offset(end) };
        AuditEntry { at: TimestampMs(1), partition: 0, range, what }
    }

    fn ended(first: i64, end: i64, outcome: Outcome) -> AuditEntry {
        entry(first, end, EntryKind::Ended(outcome))
    }

    fn sum(page: &AuditReport, outcome: Outcome) -> u64 {
        page.sums[outcome as usize]
    }

    #[test]
    fn alo_1_only_ordinary_ranges_are_merged() {
        let mut book = PartitionAudit::default();
        book.enter(&entry(100, 100, EntryKind::Began(None)));
        book.enter(&ended(100, 150, Outcome::Delivered));
        book.enter(&ended(150, 160, Outcome::Filtered));
        book.enter(&ended(160, 161, Outcome::DeadLettered));
        book.enter(&ended(161, 200, Outcome::Delivered));
        let page = book.page();
        let ranges: Vec<(i64, i64)> =
            page.stretches.iter().map(|stretch| (stretch.range.first.0, stretch.range.end.0)).collect();
        assert_eq!(ranges, [(100, 160), (160, 161), (161, 200)]);
        assert_eq!(sum(&page, Outcome::Delivered), 89);
        assert_eq!(page.verify(Some(Offset(200))), AuditVerdict::Accounted);
        let missing = OffsetRange { first: Offset(200), end: Offset(201) };
        assert_eq!(page.verify(Some(Offset(201))), AuditVerdict::Missing(missing));
    }

    #[test]
    fn com_1_uncommitted_outcomes_are_discarded_after_crash() {
        let mut book = PartitionAudit::default();
        book.enter(&entry(0, 0, EntryKind::Began(None)));
        book.enter(&ended(0, 10, Outcome::Delivered));
        book.enter(&ended(10, 11, Outcome::Skipped));
        book.enter(&entry(10, 10, EntryKind::Began(None)));
        book.enter(&ended(10, 20, Outcome::Delivered));
        let page = book.page();
        assert_eq!((sum(&page, Outcome::Delivered), sum(&page, Outcome::Skipped)), (20, 0));
        assert_eq!(page.verify(Some(Offset(20))), AuditVerdict::Accounted);
    }

    #[test]
    fn range_of_another_node_is_no_gap() {
        let mut book = PartitionAudit::default();
        book.enter(&entry(0, 0, EntryKind::Began(None)));
        book.enter(&ended(0, 10, Outcome::Delivered));
        book.enter(&entry(500, 500, EntryKind::Began(None)));
        let page = book.page();
        assert!(page.stretches[1].not_ours);
        assert_eq!(page.verify(Some(Offset(500))), AuditVerdict::Accounted);
    }

    #[test]
    fn alo_1_recreated_topic_closes_previous_audit() {
        let id = |number| TopicId::of(uuid::Uuid::from_u128(number));
        let mut book = PartitionAudit::default();
        book.enter(&entry(0, 0, EntryKind::Began(id(1))));
        book.enter(&ended(0, 500, Outcome::Delivered));
        assert!(book.is_of_another_topic(id(2)) && !book.is_of_another_topic(id(1)));
        for line in [EntryKind::Recreated(id(2)), EntryKind::Began(id(2))] {
            book.enter(&entry(0, 0, line));
        }
        let missing = OffsetRange { first: Offset(0), end: Offset(40) };
        assert_eq!(
            book.page().verify(Some(Offset(40))),
            AuditVerdict::Missing(missing),
            "500 records of another log prove nothing"
        );
        book.enter(&ended(0, 40, Outcome::Delivered));
        let mut again = PartitionAudit::default();
        for line in book.lines(0) {
            again.enter(&AuditEntry::parse(line.line().trim_end()).expect("whole"));
        }
        let page = again.page();
        assert_eq!(page, book.page());
        assert_eq!((page.verify(Some(Offset(40))), page.topic), (AuditVerdict::Accounted, id(2)));
        let [earlier] = &page.earlier[..] else { panic!("{:?}", page.earlier) };
        let range = OffsetRange { first: Offset(0), end: Offset(500) };
        assert_eq!((earlier.topic, earlier.range, sum(&page, Outcome::Delivered)), (id(1), range, 40));
        assert_eq!(earlier.sums[Outcome::Delivered as usize], 500);
    }

    #[test]
    fn alo_1_recreated_entry_closes_audit_without_topic_ids() {
        let mut book = PartitionAudit::default();
        book.enter(&entry(0, 0, EntryKind::Began(None)));
        book.enter(&ended(0, 500, Outcome::Delivered));
        book.enter(&entry(0, 0, EntryKind::Recreated(None)));
        book.enter(&entry(0, 0, EntryKind::Began(None)));
        assert_eq!((book.page().earlier.len(), book.page().end), (1, Some(Offset(0))));
    }

    #[test]
    fn mem_1_earlier_topics_are_bounded() {
        let mut book = PartitionAudit::default();
        for number in 1..100 {
            book.enter(&entry(0, 0, EntryKind::Began(TopicId::of(uuid::Uuid::from_u128(number)))));
            book.enter(&entry(0, 0, EntryKind::BeyondEnd(Offset(7))));
        }
        assert_eq!((book.page().earlier.len(), book.page().beyond_end.len()), (NOTES_MAX, NOTES_MAX));
    }

    fn reason(offset: i64, text: &str) -> AuditEntry {
        entry(offset, offset + 1, EntryKind::Reason(text.into()))
    }

    #[test]
    fn skip_reason_kept_only_when_reached() {
        let mut book = PartitionAudit::default();
        book.enter(&entry(0, 0, EntryKind::Began(None)));
        book.enter(&ended(0, 5, Outcome::Delivered));
        book.enter(&ended(5, 6, Outcome::Skipped));
        for offset in [5, 9] {
            book.enter(&reason(offset, "a \"bad\"\norder"));
        }
        book.enter(&entry(3, 5, EntryKind::Reason("a torn batch".into())));
        book.enter(&entry(6, 6, EntryKind::Began(None)));
        let mut again = PartitionAudit::default();
        for line in book.lines(0) {
            again.enter(&AuditEntry::parse(line.line().trim_end()).expect("whole"));
        }
        assert_eq!(again.page(), book.page());
        let reasons = again.page().reasons;
        let ranges: Vec<_> = reasons.iter().map(|(first, reason)| (first.0, reason.end.0)).collect();
        assert_eq!(ranges, [(3, 5), (5, 6)], "the range that each skip requested");
        assert_eq!(&*reasons[&Offset(5)].text, "a \"bad\"\norder");
    }

    #[test]
    fn mem_1_skip_reasons_are_bounded() {
        let mut book = PartitionAudit::default();
        for offset in 0..3_000 {
            book.enter(&ended(offset, offset + 1, Outcome::Skipped));
            book.enter(&reason(offset, "r"));
        }
        let reasons = book.page().reasons;
        assert_eq!((reasons.len(), reasons.keys().next()), (REASONS_MAX, Some(&Offset(2_000))));
    }

    proptest! {
        #[test]
        fn mem_1_audit_stays_small_with_complete_totals(
            steps in prop::collection::vec((1i64..50, 0usize..Outcome::ALL.len()), 0..2_000)
        ) {
            let mut book = PartitionAudit::default();
            let (mut at, mut naive) = (0, OutcomeTotals::default());
            for (length, outcome) in steps {
                book.enter(&ended(at, at + length, Outcome::ALL[outcome]));
                naive[outcome] += length as u64;
                at += length;
            }
            let page = book.page();
            let mut again = PartitionAudit::default();
            for line in book.lines(7) {
                again.enter(&AuditEntry::parse(line.line().trim_end()).expect("whole"));
            }
            let rewritten = again.page();
            prop_assert_eq!((&rewritten.stretches, rewritten.sums), (&page.stretches, page.sums));
            prop_assert_eq!(page.sums, naive);
            prop_assert!(page.stretches.len() <= RANGES_MAX);
            prop_assert_eq!(page.verify(Some(Offset(at))), if at == 0 { AuditVerdict::Unknown } else { AuditVerdict::Accounted });
        }
    }
}
