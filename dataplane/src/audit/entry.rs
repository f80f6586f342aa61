//! Line format of the audit. Lines are readable text, and a checksum identifies a line that a crash has torn.
//!
//! ```text
//! 1c291ca3 1700000000123 3 100 250 delivered
//! ```
//!
//! Fields: CRC-32C of the rest, milliseconds since the epoch, partition, first offset, end offset (exclusive), kind.
//! When the file is rewritten, merged ranges carry their totals: `stretch delivered=89,filtered=10`. An
//! operator's skip reason has a line of its own, as a JSON string: `reason "the order was cancelled"`. A `began` line
//! carries the topic's id if the brokers have ids. A deleted and recreated topic is another log: `recreated` closes
//! the audit of the previous topic, whose totals remain as `earlier`.

use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::topic_id::TopicId;
use lighterman_proto::units::TimestampMs;

use crate::messages::outcome::Outcome;

/// Maximum length of an operator's reason, in bytes.
pub const REASON_BYTES_MAX: usize = 256;

/// Kind of an audit entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Every offset of the range had this outcome, and was committed.
    Ended(Outcome),
    /// This node started the partition at the range's first offset, in the topic of this id.
    Began(Option<TopicId>),
    /// As [`Self::Began`], in a recreated topic: earlier entries belong to another log.
    Recreated(Option<TopicId>),
    /// Totals of a deleted topic of the same name. The range is what its audit covered.
    Earlier(Option<TopicId>, OutcomeTotals),
    /// The group held this offset beyond the log's end, and Lighterman had not committed it. The range starts at the
    /// offset at which the partition started instead.
    BeyondEnd(Offset),
    /// Range of several outcomes, with the number of offsets of each.
    Stretch(OutcomeTotals),
    /// The outcome is not known here.
    Elsewhere,
    /// Totals of older ranges that are not listed. The range starts at the audit's first offset.
    Forgotten(OutcomeTotals),
    /// The range was resolved, but the cluster rejected its commit until the mapping stopped.
    Uncommitted,
    /// Operator's reason for skipping the range, at most [`REASON_BYTES_MAX`] bytes.
    Reason(Arc<str>),
}

/// One line of the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Wall-clock time of the entry.
    pub at: TimestampMs,
    /// Partition index.
    pub partition: i32,
    /// Offsets that the entry covers.
    pub range: OffsetRange,
    /// Kind of the entry.
    pub what: EntryKind,
}

/// Number of offsets per outcome, in the order of [`Outcome::ALL`].
pub type OutcomeTotals = [u64; Outcome::ALL.len()];

const BEGAN: &str = "began";
const RECREATED: &str = "recreated";
const EARLIER: &str = "earlier ";
const BEYOND_END: &str = "beyond-end ";
/// Placeholder for the topic id if the brokers have none.
const NO_ID: &str = "-";
const STRETCH: &str = "stretch ";
const ELSEWHERE: &str = "elsewhere";
const UNCOMMITTED: &str = "uncommitted";
const FORGOTTEN: &str = "forgotten ";
const REASON: &str = "reason ";

impl AuditEntry {
    /// Returns the line, with its line feed.
    pub fn line(&self) -> String {
        let what = self.what.text();
        let (first, end) = (self.range.first.0, self.range.end.0);
        let text = format!("{} {} {first} {end} {what}", self.at.0, self.partition);
        let mut line = String::with_capacity(text.len() + 10);
        // Writing into a string cannot fail.
        let _ = writeln!(line, "{:08x} {text}", checksum(text.as_bytes()));
        line
    }

    /// Parses a line without its line feed. Returns `None` if it is damaged.
    pub fn parse(line: &str) -> Option<Self> {
        let (sum, text) = line.split_once(' ')?;
        if u32::from_str_radix(sum, 16).ok()? != checksum(text.as_bytes()) {
            return None;
        }
        let fields: Vec<&str> = text.splitn(5, ' ').collect();
        let [at, partition, first, end, what] = fields[..] else { return None };
        let range = OffsetRange { first: Offset(first.parse().ok()?), end: Offset(end.parse().ok()?) };
        let what = EntryKind::parse(what)?;
        Some(Self { at: TimestampMs(at.parse().ok()?), partition: partition.parse().ok()?, range, what })
    }
}

impl EntryKind {
    fn text(&self) -> String {
        match self {
            Self::Ended(outcome) => outcome.label().to_owned(),
            Self::Began(None) => BEGAN.to_owned(),
            Self::Began(Some(topic)) => format!("{BEGAN} {topic}"),
            Self::Recreated(topic) => format!("{RECREATED} {}", id_text(*topic)),
            Self::Earlier(topic, sums) => format!("{EARLIER}{} {}", id_text(*topic), sums_text(sums)),
            Self::BeyondEnd(held) => format!("{BEYOND_END}{held}"),
            Self::Stretch(sums) => format!("{STRETCH}{}", sums_text(sums)),
            Self::Elsewhere => ELSEWHERE.to_owned(),
            Self::Uncommitted => UNCOMMITTED.to_owned(),
            Self::Forgotten(sums) => format!("{FORGOTTEN}{}", sums_text(sums)),
            Self::Reason(reason) => format!("{REASON}{}", serde_json::Value::from(&**reason)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some(sums) = text.strip_prefix(STRETCH) {
            return parse_sums(sums).map(Self::Stretch);
        }
        if let Some(sums) = text.strip_prefix(FORGOTTEN) {
            return parse_sums(sums).map(Self::Forgotten);
        }
        if let Some(reason) = text.strip_prefix(REASON) {
            let reason: String = serde_json::from_str(reason).ok()?;
            return (reason.len() <= REASON_BYTES_MAX).then(|| Self::Reason(reason.into()));
        }
        if let Some(earlier) = text.strip_prefix(EARLIER) {
            let (topic, sums) = earlier.split_once(' ')?;
            return Some(Self::Earlier(parse_id(topic).ok()?, parse_sums(sums)?));
        }
        if let Some(held) = text.strip_prefix(BEYOND_END) {
            return Some(Self::BeyondEnd(Offset(held.parse().ok()?)));
        }
        match text.split_once(' ') {
            Some((BEGAN, topic)) => return Some(Self::Began(Some(topic.parse().ok()?))),
            Some((RECREATED, topic)) => return parse_id(topic).ok().map(Self::Recreated),
            _ => {}
        }
        match text {
            BEGAN => Some(Self::Began(None)),
            ELSEWHERE => Some(Self::Elsewhere),
            UNCOMMITTED => Some(Self::Uncommitted),
            other => outcome_named(other).map(Self::Ended),
        }
    }
}

fn outcome_named(label: &str) -> Option<Outcome> {
    Outcome::ALL.into_iter().find(|outcome| outcome.label() == label)
}

fn id_text(topic: Option<TopicId>) -> String {
    topic.map_or_else(|| NO_ID.to_owned(), |topic| topic.to_string())
}

fn parse_id(text: &str) -> Result<Option<TopicId>, <TopicId as FromStr>::Err> {
    if text == NO_ID { Ok(None) } else { text.parse().map(Some) }
}

fn sums_text(sums: &OutcomeTotals) -> String {
    let one = |(outcome, sum): (Outcome, &u64)| (*sum > 0).then(|| format!("{}={sum}", outcome.label()));
    Outcome::ALL.into_iter().zip(sums).filter_map(one).collect::<Vec<_>>().join(",")
}

fn parse_sums(text: &str) -> Option<OutcomeTotals> {
    let mut sums = OutcomeTotals::default();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (label, sum) = pair.split_once('=')?;
        sums[outcome_named(label)? as usize] = sum.parse().ok()?;
    }
    Some(sums)
}

fn checksum(bytes: &[u8]) -> u32 {
    lighterman_proto::records::crc32c(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_id() -> impl Strategy<Value = Option<TopicId>> {
        prop_oneof![Just(0), any::<u128>()].prop_map(|id| TopicId::of(uuid::Uuid::from_u128(id)))
    }

    fn any_what() -> impl Strategy<Value = EntryKind> {
        prop_oneof![
            (0..Outcome::ALL.len()).prop_map(|outcome| EntryKind::Ended(Outcome::ALL[outcome])),
            any_id().prop_map(EntryKind::Began),
            any_id().prop_map(EntryKind::Recreated),
            (any_id(), any::<OutcomeTotals>()).prop_map(|(topic, sums)| EntryKind::Earlier(topic, sums)),
            any::<i64>().prop_map(|held| EntryKind::BeyondEnd(Offset(held))),
            Just(EntryKind::Elsewhere),
            Just(EntryKind::Uncommitted),
            any::<OutcomeTotals>().prop_map(EntryKind::Stretch),
            any::<OutcomeTotals>().prop_map(EntryKind::Forgotten),
            "(?s).{0,60}".prop_map(|reason| EntryKind::Reason(reason.into())),
        ]
    }

    fn any_entry() -> impl Strategy<Value = AuditEntry> {
        (any::<i64>(), 0..1000i32, any::<i64>(), any::<i64>(), any_what()).prop_map(
            |(at, partition, first, end, what)| AuditEntry {
                at: TimestampMs(at),
                partition,
                range: OffsetRange { first: Offset(first), end: Offset(end) },
                what,
            },
        )
    }

    proptest! {
        #[test]
        fn lines_round_trip_and_damage_is_detected(entry in any_entry(), at: prop::sample::Index, byte: u8) {
            let line = entry.line();
            prop_assert_eq!(AuditEntry::parse(line.trim_end()), Some(entry.clone()));
            let mut damaged = line.trim_end().as_bytes().to_vec();
            let at = at.index(damaged.len());
            if damaged[at] != byte {
                damaged[at] = byte;
                if let Ok(text) = std::str::from_utf8(&damaged) {
                    // Hexadecimal digits in another case are equal.
                    prop_assert!(AuditEntry::parse(text).is_none_or(|read| read == entry));
                }
            }
            prop_assert_eq!(AuditEntry::parse(&line[..line.len() - 2]), None);
        }
    }
}
