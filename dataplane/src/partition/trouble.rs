//! What a partition does when its log cannot be read, or is not the log that it was.

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::records::RecordError;
use lighterman_proto::units::Moment;

use super::core::{Flight, PartitionCore, Phase, REST};
use super::effects::{Effect, Effects, Note};
use super::ledger::Outcome;
use super::progress::Inherited;
use super::unreadable::{BatchEnd, Damage};

impl PartitionCore {
    /// Records that retention took are accounted once everything before them is.
    pub(super) fn pass_lost_records(&mut self, out: &mut Effects) {
        let idle = self.is_idle_and_empty();
        if let Some(log_start) = self.lost_before.take_if(|_| idle) {
            let range = OffsetRange { first: self.ledger.frontier(), end: log_start };
            self.unread.forget_before(log_start);
            out.push(Effect::Note(Note::Lost(range)));
            self.go_behind(range, Outcome::Lost, out);
        }
    }

    /// Whether nothing is being tried, and nothing is here that could be.
    pub(super) fn is_idle_and_empty(&self) -> bool {
        matches!(self.flight, Flight::Idle)
            && self.buffer.is_empty()
            && self.work.cut.is_empty()
            && self.later.is_empty()
    }

    /// The front of the buffer cannot be read: everything from there on is fetched again after a rest.
    pub(super) fn reread(&mut self, now: Moment, error: RecordError, out: &mut Effects) {
        self.position = self.work.cut.range.end;
        let end = self.buffer.front_end().unwrap_or(self.position.next());
        self.buffer.clear();
        let damage = Damage { end: BatchEnd::Certain(end), error };
        self.cannot_read(now, self.position, damage, true, out);
    }

    /// The log was cut off since an owner before us knew it: what that one tried and resolved are not these records.
    pub(super) fn disinherit(&mut self, out: &mut Effects) {
        self.inherited = Inherited::default();
        out.push(Effect::Note(Note::Rewritten { from: self.ledger.frontier() }));
    }

    pub(super) fn diverged_into(&mut self, end: Offset, out: &mut Effects) {
        self.end(out);
        // What is decided and not acknowledged is decided again: its account would be lost with this ownership.
        let at = mutant!("truncation-not-gone-back-for", end.min(self.acknowledged), self.position);
        let leader_epoch = self.buffer.leaders().before(at);
        out.push(Effect::Rebuild { at, leader_epoch });
    }

    pub(super) fn rest(&mut self, now: Moment, note: Note, out: &mut Effects) {
        out.push(Effect::Note(note));
        self.wanted = false;
        if matches!(self.phase, Phase::Running | Phase::Resting { .. }) {
            self.phase = Phase::Resting { until: now + REST };
            out.push(Effect::Forget);
            out.push(Effect::WakeAt(now + REST));
        }
    }
}
