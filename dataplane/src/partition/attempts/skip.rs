//! View of failing records for operators, and the skipping of a record on an operator's request.

use std::collections::BTreeSet;

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use super::attempt::RecordAttempt;
use super::{AttemptState, PartitionAttempts};
use crate::messages::records::RecordSizer;

/// Records that are being retried, as shown to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailingRecords {
    /// Offset of the first failing record.
    pub offset: Offset,
    /// Number of records that fail together.
    pub records: u32,
    /// Number of attempts used up.
    pub attempts: u32,
    /// Time of the next attempt, if it is known.
    pub next_attempt: Option<Moment>,
}

impl PartitionAttempts {
    /// Failing records, if there are any.
    pub(in crate::partition) fn failing(&self) -> Option<FailingRecords> {
        if !self.current.has_failed() && !matches!(self.state, AttemptState::DeadLettering { .. }) {
            return None;
        }
        let next_attempt = match self.state {
            AttemptState::BackingOff { until } => Some(until),
            AttemptState::Idle
            | AttemptState::AwaitingCommit
            | AttemptState::Offered { .. }
            | AttemptState::Sealed { .. }
            | AttemptState::DeadLettering { .. } => None,
        };
        let offset = self.current.batch.walk().next()?.offset;
        Some(FailingRecords {
            offset,
            records: self.current.batch.records,
            attempts: self.current.attempts_used,
            next_attempt,
        })
    }

    /// Accepts a request to skip the record at `offset` once no attempt is being made.
    pub(in crate::partition) fn request_skip(&mut self, offset: Offset) {
        self.skips_wanted.insert(offset);
    }

    /// True if the record at `offset` is still to be skipped.
    pub(in crate::partition) fn is_skip_requested(&self, offset: Offset) -> bool {
        self.skips_wanted.contains(&offset)
    }

    /// Takes the offsets of the records to skip.
    pub(in crate::partition) fn take_requested_skips(&mut self) -> BTreeSet<Offset> {
        std::mem::take(&mut self.skips_wanted)
    }

    /// Returns the range of the batch that holds the record at `offset`; it may have been split since the request to
    /// skip the record was accepted.
    pub(in crate::partition) fn range_with(&self, offset: Offset) -> Option<OffsetRange> {
        let mut attempts = std::iter::once(&self.current).chain(&self.remaining);
        attempts.find(|attempt| attempt.holds(offset)).map(|attempt| attempt.batch.range)
    }

    /// Removes the record at `offset`, whose outcome has moved the frontier to `frontier`. Returns false if no record
    /// of its batch is left.
    pub(in crate::partition) fn skip(
        &mut self,
        offset: Offset,
        frontier: Offset,
        sizer: &dyn RecordSizer,
    ) -> bool {
        if self.current.holds(offset) {
            let end = self.current.batch.range.end;
            let rest = without(&self.current, offset, frontier, sizer);
            let is_left = rest.is_some();
            if !is_left {
                self.state = AttemptState::Idle;
            }
            self.current = rest.unwrap_or_else(|| RecordAttempt::none(end));
            return is_left;
        }
        let Some(index) = self.remaining.iter().position(|attempt| attempt.holds(offset)) else {
            return true;
        };
        match without(&self.remaining[index], offset, frontier, sizer) {
            Some(rest) => {
                self.remaining[index] = rest;
                true
            }
            None => {
                self.remaining.remove(index);
                false
            }
        }
    }
}

/// Returns `attempt` without the record at `offset`, or `None` if no record is left.
fn without(
    attempt: &RecordAttempt,
    offset: Offset,
    frontier: Offset,
    sizer: &dyn RecordSizer,
) -> Option<RecordAttempt> {
    let rest = attempt.batch.select(attempt.batch.range, sizer, |record| record.offset != offset);
    if rest.is_empty() {
        return None;
    }
    let mut rest = attempt.with_records(rest);
    rest.move_start_to(frontier);
    Some(rest)
}
