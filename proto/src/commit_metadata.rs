//! The text beside each committed offset: what the next owner of a partition must know to go on where this one stops.
//!
//! ASCII, versioned, at most [`BYTES_MAX`] bytes (brokers allow 4096 unless `offset.metadata.max.bytes` says less), and
//! readable in any tool that shows a group's offsets:
//!
//! ```text
//! lighterman/1 n=8 t=bGlnaHRlcm1hbi10ZXN0cw h=2166136261 e=7 p=100x3,1x7! f=1700000000123 r=2+40,5+1
//! ```
//!
//! `n`: partitions at activation. `t`: the id of the topic whose offset this is, where its brokers have ids. `h`: which filters the pieces were cut under, when there are any. `e`: the last leader
//! epoch among the records that the rest speaks of. `p`: pieces from the committed offset on, each its length in offsets (0
//! for the last one: whatever comes), `x`, its attempts begun, and `!` when it has failed in a batch of its own. `f`: when
//! the first failure was, in milliseconds since the epoch. `r`: what lies behind the committed offset and is resolved
//! already, each a gap, `+` and a length. `s`: the partition's leader could not be asked where it begins; what ListOffsets is to
//! be asked with (−2, or milliseconds since the epoch), and the offset says nothing. Fields after `n` are there when they say
//! something; a field that is not known is skipped, so that a newer node's text is still read by an older one.

use std::fmt::Write as _;
use std::str::FromStr;

use crate::topic_id::TopicId;

/// Length of a text at most.
pub const BYTES_MAX: usize = 1024;

const FORMAT: &str = "lighterman/1 ";

/// What a commit says beside its offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitMetadata {
    /// How many partitions the topic had when the mapping's starting position was resolved; 0 while that is not known.
    pub partitions_at_activation: i32,
    /// The topic whose offset stands beside this text. `None`: its brokers have no ids, or whoever wrote this did not keep them.
    pub topic: Option<TopicId>,
    /// How far the stretch behind the committed offset has come; `None` when nothing there has failed or is resolved.
    pub progress: Option<CommittedProgress>,
}

/// What happened behind the committed offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommittedProgress {
    /// How the failing stretch is divided, from the committed offset on, without gaps.
    pub pieces: Vec<ProgressPiece>,
    /// The fingerprint of the filters that the pieces were cut under; 0 without filters. Under other filters a piece has other
    /// records, and attempts say nothing of those that were not tried.
    pub filters: u32,
    /// The last leader epoch among the records that this speaks of: where a later one stands, the log was cut off since and
    /// holds other records (KIP-101). `None` when it is not known.
    pub leader_epoch: Option<i32>,
    /// When it failed first, in milliseconds since the Unix epoch.
    pub first_failure_ms: Option<i64>,
    /// Ranges with a good outcome: offsets between the one before (at first: the committed offset) and this one, and the
    /// offsets in it.
    pub resolved: Vec<(u64, u64)>,
}

impl CommittedProgress {
    /// How many offsets it speaks of, from the committed one on. A last piece without an end counts for nothing.
    pub fn length(&self) -> u64 {
        let pieces = self.pieces.iter().map(|piece| piece.length).fold(0, u64::saturating_add);
        let resolved = self.resolved.iter().flat_map(|(gap, length)| [*gap, *length]);
        pieces.max(resolved.fold(0, u64::saturating_add))
    }
}

/// A part of a batch that is tried by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressPiece {
    /// Offsets, from the end of the piece before. 0 when its end was not decided: whatever comes, and nothing behind it.
    pub length: u64,
    /// How many attempts have begun.
    pub attempts: u32,
    /// Whether it failed while no other partition's records were in the batch.
    pub alone: bool,
}

impl CommitMetadata {
    /// The text; never longer than [`BYTES_MAX`].
    ///
    /// What does not fit is left out from the far end: resolved ranges first, which are then delivered once more, then
    /// pieces, whose attempts are then counted anew. So is what would reach beyond the last offset there can be, or lies behind
    /// a piece without an end. Empty ranges are left out too.
    pub fn encode(&self) -> String {
        let mut text = format!("{FORMAT}n={}", self.partitions_at_activation.max(0));
        if let Some(topic) = self.topic {
            let _ = write!(text, " t={topic}");
        }
        let Some(progress) = &self.progress else { return text };
        if progress.filters > 0 {
            let _ = write!(text, " h={}", progress.filters);
        }
        if let Some(leader_epoch) = progress.leader_epoch {
            let _ = write!(text, " e={}", leader_epoch.max(0));
        }
        let first_failure = progress.first_failure_ms.map(|ms| format!(" f={ms}")).unwrap_or_default();
        append_list(&mut text, " p=", BYTES_MAX - first_failure.len(), pieces(progress));
        text.push_str(&first_failure);
        append_list(&mut text, " r=", BYTES_MAX, resolved(progress));
        text
    }

    /// Reads a text of ours; `None` for another program's, and for one that cannot have come from [`Self::encode`].
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > BYTES_MAX {
            return None;
        }
        let (mut partitions, mut topic) = (None, None);
        let (mut progress, mut seen) = (CommittedProgress::default(), Vec::new());
        for field in text.strip_prefix(FORMAT)?.split(' ') {
            let (name, value) = field.split_once('=')?;
            if seen.contains(&name) {
                return None;
            }
            seen.push(name);
            match name {
                "n" => partitions = Some(decimal(value)?),
                "t" => topic = Some(value.parse().ok()?),
                "h" => progress.filters = decimal(value)?,
                "e" => progress.leader_epoch = Some(decimal(value)?),
                "p" => progress.pieces = list(value, piece)?,
                "f" => progress.first_failure_ms = Some(signed(value)?),
                "r" => progress.resolved = list(value, range)?,
                _ => {}
            }
        }
        within_offsets(progress.pieces.iter().map(|piece| piece.length))?;
        let open = progress.pieces.iter().position(|piece| piece.length == 0);
        if open.is_some_and(|at| at + 1 < progress.pieces.len()) {
            return None;
        }
        within_offsets(progress.resolved.iter().flat_map(|(gap, length)| [*gap, *length]))?;
        let progress = Some(progress).filter(|progress| *progress != CommittedProgress::default());
        Some(Self { partitions_at_activation: partitions?, topic, progress })
    }
}

/// `text` of [`CommitMetadata::encode`], saying that the offset beside it is still to be found: with this timestamp of
/// ListOffsets.
pub fn with_open_start(text: &str, timestamp: i64) -> String {
    format!("{text} s={timestamp}")
}

/// The timestamp that a text of ours says the offset is to be found with; `None` of one whose offset stands.
pub fn open_start(text: &str) -> Option<i64> {
    CommitMetadata::parse(text)?;
    signed(text.split(' ').find_map(|field| field.strip_prefix("s="))?)
}

/// Appends `name` and the items with commas between them, while they fit into `limit` bytes.
fn append_list(text: &mut String, name: &str, limit: usize, items: impl Iterator<Item = String>) {
    let mut before = name;
    for item in items {
        if text.len() + before.len() + item.len() > limit {
            return;
        }
        text.push_str(before);
        text.push_str(&item);
        before = ",";
    }
}

/// The pieces as texts, as far as offsets reach.
fn pieces(progress: &CommittedProgress) -> impl Iterator<Item = String> {
    let mut reach = Some(0);
    progress.pieces.iter().map_while(move |piece| {
        let here = further(reach?, piece.length)?;
        reach = (piece.length > 0).then_some(here);
        let alone = if piece.alone { "!" } else { "" };
        Some(format!("{}x{}{alone}", piece.length, piece.attempts))
    })
}

/// The resolved ranges as texts, as far as offsets reach. An empty range widens the gap of the next.
fn resolved(progress: &CommittedProgress) -> impl Iterator<Item = String> {
    let (mut reach, mut end) = (Some(0), 0);
    let ranges = progress.resolved.iter().map_while(move |(gap, length)| {
        let first = further(reach?, *gap)?;
        reach = further(first, *length);
        reach.map(|_| (first, *length))
    });
    ranges.filter(|(_, length)| *length > 0).map(move |(first, length)| {
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = write!(text, "{}+{length}", first - end);
        end = first + length;
        text
    })
}

/// The sum, if it is an offset.
fn further(reach: u64, by: u64) -> Option<u64> {
    reach.checked_add(by).filter(|sum| i64::try_from(*sum).is_ok())
}

fn within_offsets(mut lengths: impl Iterator<Item = u64>) -> Option<u64> {
    lengths.try_fold(0, further)
}

/// The items of a list; their number is bounded by the length of the text.
fn list<T>(value: &str, item: fn(&str) -> Option<T>) -> Option<Vec<T>> {
    value.split(',').map(item).collect()
}

fn piece(text: &str) -> Option<ProgressPiece> {
    let (text, alone) = text.strip_suffix('!').map_or((text, false), |text| (text, true));
    let (length, attempts) = text.split_once('x')?;
    Some(ProgressPiece { length: decimal(length)?, attempts: decimal(attempts)?, alone })
}

fn range(text: &str) -> Option<(u64, u64)> {
    let (gap, length) = text.split_once('+')?;
    Some((decimal(gap)?, positive(length)?))
}

fn positive(text: &str) -> Option<u64> {
    decimal(text).filter(|number| *number > 0)
}

fn signed(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A number of digits alone: what `parse` accepts beside them is not ours.
fn decimal<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
