//! Handling of a log that cannot be read, or that was replaced by another one.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use super::{PartitionCore, PartitionPhase};
use crate::messages::outcome::Outcome;
use crate::partition::effects::{CoreContext, PartitionEffect, PartitionEffects, PartitionEvent};

impl PartitionCore {
    /// Handles a position outside the log. If it is beyond the log end, the cause is unknown and the log is treated
    /// as replaced.
    pub fn out_of_range(
        &mut self,
        now: Moment,
        log_start: Offset,
        log_end: Offset,
        context: &mut CoreContext<'_>,
    ) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.reader.end_fetch();
        if self.reader.position() > log_end {
            return self.parted();
        }
        self.reader.lose_before(log_start);
        self.advance(now, context, &mut out);
        out
    }

    /// Handles a divergence: the leader's log has another history from `end` on (KIP-320).
    pub fn diverged(&mut self, end: Offset) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if self.is_active() {
            self.end(&mut out);
            let at = self.restart_offset(end);
            let leader_epoch = self.reader.leader_epoch_before(at);
            out.push(PartitionEffect::Restart { at, leader_epoch });
        }
        out
    }

    /// Returns the offset to restart at, if the log was truncated at `end`. Offsets resolved but not acknowledged are
    /// processed again: the account of their outcomes is lost with this ownership.
    fn restart_offset(&self, end: Offset) -> Offset {
        mutant!("truncation-not-gone-back-for", end.min(self.progress.acknowledged()), self.reader.position())
    }

    /// Handles the replacement of the log: everything known of the old one is discarded, and late responses are
    /// ignored.
    pub fn parted(&mut self) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        if !self.is_active() {
            // A draining partition is handed over as it is; its next owner detects the new log.
            return out;
        }
        self.end(&mut out);
        out.push(PartitionEffect::StartNewLog);
        out
    }

    /// Stops the partition, so that a late response or dead-letter result matches nothing. Records are released at
    /// once, since their invocation may run until the function's timeout.
    fn end(&mut self, out: &mut PartitionEffects) {
        self.phase = PartitionPhase::Stopped;
        out.push(PartitionEffect::CancelFetch);
        out.extend(self.attempts.call_back());
        self.reader.forget_unreadable();
        self.reader.discard_buffered();
        self.attempts.discard(self.progress.frontier());
    }

    /// Handles a fetch error that is not in the partition's bytes: pauses, then fetches again.
    pub fn unreadable(&mut self, now: Moment) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.reader.end_fetch();
        if self.is_running() {
            self.pause(now, &mut out);
        }
        out
    }

    /// Resolves records deleted by retention as lost, once all earlier ones are resolved.
    pub(super) fn pass_lost_records(&mut self, out: &mut PartitionEffects) {
        if !self.is_idle_and_empty() {
            return;
        }
        if let Some(log_start) = self.reader.take_lost() {
            let range = OffsetRange { first: self.progress.frontier(), end: log_start };
            out.push(PartitionEffect::Log(PartitionEvent::Lost(range)));
            self.pass(range, Outcome::Lost, out);
        }
    }

    /// Discards an earlier owner's progress, as the log was truncated since: it refers to other records.
    pub(super) fn discard_inherited(&mut self, out: &mut PartitionEffects) {
        self.progress.discard_inherited();
        out.push(PartitionEffect::Log(PartitionEvent::Rewritten { from: self.progress.frontier() }));
    }
}
