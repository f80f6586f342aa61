//! Metadata string committed with each offset: the progress that the partition's next owner needs to resume.
//!
//! ASCII, versioned, at most [`BYTES_MAX`] bytes (brokers allow 4096 unless `offset.metadata.max.bytes` sets
//! less), and readable in any tool that shows a group's offsets:
//!
//! ```text
//! lighterman/1 n=8 t=bGlnaHRlcm1hbi10ZXN0cw h=2166136261 e=7 p=100x3,1x7! f=1700000000123 r=2+40,5+1
//! ```
//!
//! - `n`: number of partitions at activation.
//! - `t`: id of the topic that the offset belongs to, if its brokers assign ids.
//! - `h`: fingerprint of the filters under which the pieces were formed, if there are filters.
//! - `e`: last leader epoch among the records that the other fields describe.
//! - `p`: pieces from the committed offset on. Each is its length in offsets (0 for a last piece of undecided
//!   length), `x`, the number of attempts started, and `!` if it has failed in a batch of its own.
//! - `f`: time of the first failure, in milliseconds since the epoch.
//! - `r`: ranges after the committed offset that are resolved already, each a gap, `+` and a length.
//! - `s`: set when the partition's leader could not be asked for its starting offset. It holds the timestamp for
//!   ListOffsets (−2, or milliseconds since the epoch); the committed offset is then meaningless.
//!
//! Fields after `n` are present only when they carry information. A reader skips unknown fields, so that an older
//! node can read a newer node's text.

use std::fmt::Write as _;
use std::str::FromStr;

use crate::topic_id::TopicId;

/// Maximum length of a metadata text, in bytes.
pub const BYTES_MAX: usize = 1024;

const FORMAT: &str = "lighterman/1 ";

/// Contents of the metadata committed with an offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitMetadata {
    /// Number of partitions of the topic when the mapping's starting position was resolved; 0 while that is
    /// unknown.
    pub partitions_at_activation: i32,
    /// Topic that the committed offset belongs to. `None` if its brokers have no ids, or the writer did not keep
    /// them.
    pub topic: Option<TopicId>,
    /// Progress after the committed offset; `None` when nothing there has failed or is resolved.
    pub progress: Option<CommittedProgress>,
}

/// Failures and resolved ranges after the committed offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommittedProgress {
    /// Pieces of the failing stretch, from the committed offset on, without gaps.
    pub pieces: Vec<ProgressPiece>,
    /// Fingerprint of the filters under which the pieces were formed; 0 without filters. Under other filters a
    /// piece holds other records, and its attempt count does not apply to those.
    pub filters: u32,
    /// Last leader epoch among the records described here. If the log has a later epoch there, it was truncated
    /// since and holds other records (KIP-101). `None` when unknown.
    pub leader_epoch: Option<i32>,
    /// Time of the first failure, in milliseconds since the Unix epoch.
    pub first_failure_ms: Option<i64>,
    /// Resolved ranges as pairs of gap and length. The gap is the number of offsets since the end of the previous
    /// range (for the first: since the committed offset).
    pub resolved: Vec<(u64, u64)>,
}

impl CommittedProgress {
    /// Returns the number of offsets described, from the committed one on. A last piece of undecided length counts
    /// as 0.
    pub fn length(&self) -> u64 {
        let pieces = self.pieces.iter().map(|piece| piece.length).fold(0, u64::saturating_add);
        let resolved = self.resolved.iter().flat_map(|(gap, length)| [*gap, *length]);
        pieces.max(resolved.fold(0, u64::saturating_add))
    }
}

/// Part of a batch that is retried on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressPiece {
    /// Number of offsets, from the end of the previous piece. 0 for a last piece whose end was not decided.
    pub length: u64,
    /// Number of attempts started.
    pub attempts: u32,
    /// True if it failed in a batch without records of other partitions.
    pub alone: bool,
}

impl CommitMetadata {
    /// Encodes the metadata as a text of at most [`BYTES_MAX`] bytes.
    ///
    /// Entries that do not fit are dropped from the end. Resolved ranges are dropped first, and their records are
    /// then delivered once more; then pieces, whose attempts are then counted from zero. Entries beyond the
    /// largest possible offset, pieces after one of undecided length, and empty ranges are dropped too.
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

    /// Parses a text. Returns `None` for another program's text, and for one that [`Self::encode`] cannot have
    /// produced.
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

/// Marks the offset of a text from [`CommitMetadata::encode`] as unresolved. `timestamp` is the one to look it up
/// with in ListOffsets.
pub fn with_open_start(text: &str, timestamp: i64) -> String {
    format!("{text} s={timestamp}")
}

/// Returns the ListOffsets timestamp of a text whose offset is still unresolved; `None` if the offset is resolved
/// or the text is another program's.
pub fn open_start(text: &str) -> Option<i64> {
    CommitMetadata::parse(text)?;
    signed(text.split(' ').find_map(|field| field.strip_prefix("s="))?)
}

/// Appends `name` and the items, separated by commas, while they fit into `limit` bytes.
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

/// Formats the pieces up to the largest possible offset.
fn pieces(progress: &CommittedProgress) -> impl Iterator<Item = String> {
    let mut reach = Some(0);
    progress.pieces.iter().map_while(move |piece| {
        let here = further(reach?, piece.length)?;
        reach = (piece.length > 0).then_some(here);
        let alone = if piece.alone { "!" } else { "" };
        Some(format!("{}x{}{alone}", piece.length, piece.attempts))
    })
}

/// Formats the resolved ranges up to the largest possible offset. An empty range is merged into the next gap.
fn resolved(progress: &CommittedProgress) -> impl Iterator<Item = String> {
    let (mut reach, mut end) = (Some(0), 0);
    let ranges = progress.resolved.iter().map_while(move |(gap, length)| {
        let first = further(reach?, *gap)?;
        reach = further(first, *length);
        reach.map(|_| (first, *length))
    });
    ranges.filter(|(_, length)| *length > 0).map(move |(first, length)| {
        let mut text = String::new();
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{}+{length}", first - end);
        end = first + length;
        text
    })
}

/// Returns the sum if it is a valid offset.
fn further(reach: u64, by: u64) -> Option<u64> {
    reach.checked_add(by).filter(|sum| i64::try_from(*sum).is_ok())
}

fn within_offsets(mut lengths: impl Iterator<Item = u64>) -> Option<u64> {
    lengths.try_fold(0, further)
}

/// Parses a comma-separated list. The text's length bounds the number of items.
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

/// Parses a number of digits only. `parse` also accepts a `+` sign, which `encode` never writes.
fn decimal<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests;
