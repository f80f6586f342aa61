//! What a partition does, decided: when to ask for records, what to offer, when an offset counts, when it has drained.
//!
//! Two rules carry the promises. The next attempt begins only when the last one is resolved (ORD-1) *and what was decided is
//! acknowledged by the group*: a process that dies can therefore repeat at most one batch of each partition. And the
//! ledger's frontier is the only thing ever committed (COM-1).

use std::collections::BTreeSet;
use std::time::Duration;

use lighterman_proto::commit_metadata::Progress;
use lighterman_proto::ids::{Epoch, Offset, OffsetRange};
use lighterman_proto::units::Moment;

use super::effects::{Buried, Effect, Effects, Frame, Note, Resolution, Start, Tools};
use super::fetch_buffer::FetchBuffer;
use super::giving_up::LastCommit;
use super::ledger::{Ledger, Outcome};
use super::progress::{Inherited, restore};
use super::unreadable::Unread;
use super::work::Work;
use crate::batcher::BatchId;

/// How long a partition that cannot be read rests before it is asked for again.
pub const REST: Duration = Duration::from_secs(5);
const FETCH_BYTES_MIN: usize = 64 * 1024;

#[derive(Debug)]
pub(super) enum Flight {
    Idle,
    /// The attempt is being put on record; it begins when the group has acknowledged it.
    Recording,
    Offered {
        seq: u64,
    },
    Sealed {
        batch: BatchId,
    },
    Waiting {
        until: Moment,
    },
    /// The records are on their way to the on-failure destination.
    Burying {
        ticket: u64,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Resting {
        until: Moment,
    },
    Draining,
    Drained,
    /// Waits to be rebuilt; does nothing any more.
    Ended,
}

/// Whether a message that is meant for the ownership `meant` is for `ours`: what was sent under an earlier one finds its way
/// to the partition as it is now (OWN-1).
pub fn is_for(meant: Epoch, ours: Epoch) -> bool {
    mutant!("late-answer-not-matched", meant == ours, true)
}

/// The last commit that was asked for.
#[derive(Debug)]
pub(super) struct Sent {
    pub seq: u64,
    pub offset: Offset,
    pub progress: Option<Progress>,
}

/// The state machine of one partition under one epoch.
pub struct PartitionCore {
    pub(super) start: Start,
    pub(super) phase: Phase,
    pub(super) flight: Flight,
    pub(super) buffer: FetchBuffer,
    pub(super) ledger: Ledger,
    /// What is being filled, offered, invoked, retried or buried.
    pub(super) work: Work,
    /// What lies behind it, cut from the same batch; the next one is the last.
    pub(super) later: Vec<Work>,
    /// What an owner before us left, behind all that.
    pub(super) inherited: Inherited,
    pub(super) offer_seq: u64,
    pub(super) ticket: u64,
    /// Records of the attempt under way that a person wants skipped after it: no more than a batch holds.
    pub(super) skips_wanted: BTreeSet<Offset>,
    /// When the first record of what is offered grows too old.
    pub(super) offered_until: Option<Moment>,
    /// The next call for that reason that is arranged.
    pub(super) judged_at: Option<Moment>,
    pub(super) position: Offset,
    pub(super) sent: Sent,
    acknowledged_seq: u64,
    pub(super) last_commit: LastCommit,
    /// The last offset that the group is known to have.
    pub(super) acknowledged: Offset,
    pub(super) wanted: bool,
    /// Others were short of bytes since.
    pub(super) gave_back: bool,
    pub(super) lost_before: Option<Offset>,
    pub(super) unread: Unread,
}

impl PartitionCore {
    /// A partition that goes on at `start.committed`.
    pub fn new(start: Start) -> Self {
        Self {
            phase: Phase::Running,
            flight: Flight::Idle,
            buffer: FetchBuffer::after(start.leader_epoch),
            ledger: Ledger::new(start.committed),
            work: Work::none(start.committed),
            later: Vec::new(),
            inherited: restore(&start),
            offer_seq: 0,
            ticket: 0,
            skips_wanted: BTreeSet::new(),
            offered_until: None,
            judged_at: None,
            position: start.committed,
            sent: Sent { seq: 0, offset: start.committed, progress: start.progress.clone() },
            acknowledged_seq: 0,
            last_commit: LastCommit::Awaited,
            acknowledged: start.committed,
            wanted: false,
            gave_back: false,
            lost_before: None,
            unread: Unread::default(),
            start,
        }
    }

    /// Where the next fetch begins.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// Bytes received and not yet cut.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.wire_bytes()
    }

    /// True when all that was received is cut.
    pub fn is_buffer_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Arrival of the first record that is here and has no outcome; `None` without one.
    pub fn oldest(&self) -> Option<Moment> {
        let mut cuts = std::iter::once(&self.work).chain(self.later.last()).map(|work| &work.cut);
        let first = cuts.find(|cut| !cut.is_empty());
        first.map(|cut| cut.oldest).or_else(|| self.buffer.oldest())
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What is in work.
    pub fn work(&self) -> &Work {
        &self.work
    }

    pub(super) fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Whether the group has acknowledged all that was decided.
    pub(super) fn is_acknowledged(&self) -> bool {
        mutant!("acknowledgement-not-awaited", self.acknowledged_seq == self.sent.seq, true)
    }

    /// A fetch has brought records; one that was asked for elsewhere changes nothing.
    pub fn fetched(&mut self, now: Moment, frame: Frame<'_>, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        if mutant!("fetch-not-matched", frame.position != self.position, false)
            || !matches!(self.phase, Phase::Running)
        {
            return out;
        }
        self.wanted = false;
        if self.take_unreadable(&frame, &mut out) {
            return out;
        }
        let Frame { position, records, aborted, hold } = frame;
        let received = self.buffer.receive(records, position, aborted, hold, now);
        self.position = received.position;
        if let Some(damage) = received.damage {
            self.cannot_read(now, received.position, damage, false, &mut out);
        }
        self.advance(now, tools, &mut out);
        out
    }

    /// What became of `batch`. A batch that is not ours any more changes nothing (OWN-1).
    pub fn resolved(
        &mut self,
        now: Moment,
        batch: BatchId,
        resolution: Resolution,
        tools: &mut Tools<'_>,
    ) -> Effects {
        let mut out = Effects::new();
        let awaited = matches!(self.flight, Flight::Sealed { batch: sealed } if sealed == batch);
        if !mutant!("late-answer-not-matched", awaited, true) {
            return out;
        }
        self.flight = Flight::Idle;
        self.judge(resolution, tools, &mut out);
        self.advance(now, tools, &mut out);
        out
    }

    /// The group has acknowledged commit `seq`, and all before it.
    pub fn committed(&mut self, now: Moment, seq: u64, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        self.acknowledged_seq = self.acknowledged_seq.max(seq.min(self.sent.seq));
        if self.is_acknowledged() {
            self.acknowledged = self.sent.offset;
            self.buffer.forget_leaders_before(self.acknowledged);
        }
        self.advance(now, tools, &mut out);
        out
    }

    /// What became of the records that were sent to the destination under `ticket`.
    pub fn buried(&mut self, now: Moment, ticket: u64, buried: Buried, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        if !matches!(self.flight, Flight::Burying { ticket: sent } if sent == ticket) {
            return out;
        }
        self.flight = Flight::Idle;
        if self.raw_buried(now, buried, &mut out) {
            self.advance(now, tools, &mut out);
            return out;
        }
        match buried {
            Buried::Acknowledged => self.resolve_work(Outcome::DeadLettered, &mut out),
            Buried::Dropped => self.resolve_work(
                mutant!("dropped-counts-as-arrived", Outcome::Dropped, Outcome::DeadLettered),
                &mut out,
            ),
            Buried::Stopped => self.wait(now + REST, &mut out),
        }
        self.advance(now, tools, &mut out);
        out
    }

    /// Time has passed, or credit may be there.
    pub fn wake(&mut self, now: Moment, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        self.advance(now, tools, &mut out);
        out
    }

    /// Finish what is in flight, then say so.
    pub fn drain(&mut self, now: Moment, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        if matches!(self.phase, Phase::Draining | Phase::Drained | Phase::Ended) {
            return out;
        }
        self.phase = Phase::Draining;
        self.wanted = false;
        self.buffer.clear();
        out.push(Effect::Forget);
        self.call_back(&mut out);
        self.advance(now, tools, &mut out);
        out
    }

    /// Takes back what has not begun yet.
    pub(super) fn call_back(&self, out: &mut Effects) {
        match self.flight {
            Flight::Offered { seq } => out.push(Effect::Withdraw { seq }),
            Flight::Burying { ticket } => out.push(Effect::StopBurying { ticket }),
            Flight::Idle | Flight::Recording | Flight::Waiting { .. } | Flight::Sealed { .. } => {}
        }
    }

    pub(super) fn advance(&mut self, now: Moment, tools: &mut Tools<'_>, out: &mut Effects) {
        if let Phase::Resting { until } = self.phase
            && until <= now
        {
            self.phase = Phase::Running;
        }
        match self.phase {
            Phase::Draining => self.finish_drain(tools, out),
            Phase::Drained | Phase::Ended => {}
            Phase::Running | Phase::Resting { .. } => {
                self.go_on(now, tools, out);
                self.pass_lost_records(out);
                self.pass_unreadable(out);
                self.want(out);
            }
        }
    }

    fn finish_drain(&mut self, tools: &Tools<'_>, out: &mut Effects) {
        let nothing_runs = mutant!(
            "drain-does-not-wait",
            matches!(self.flight, Flight::Idle | Flight::Waiting { .. } | Flight::Recording),
            true
        );
        if !nothing_runs {
            return;
        }
        self.skip_wanted(tools, out);
        self.pass_unreadable(out);
        if self.last_commit == LastCommit::Awaited {
            if !self.is_acknowledged() {
                return;
            }
            let at_rest = self.progress_at_rest();
            if !self.is_on_record(at_rest.as_ref()) {
                self.commit(at_rest, out);
                return;
            }
        }
        self.phase = Phase::Drained;
        out.push(Effect::Drained);
    }

    fn want(&mut self, out: &mut Effects) {
        let held = self.buffer.wire_bytes();
        let target = self.start.buffer_bytes_target;
        let must_wait = self.holds_back() || self.lost_before.is_some() || self.unread.is_under_way();
        if self.wanted || self.phase != Phase::Running || must_wait || held >= target {
            return;
        }
        self.wanted = true;
        let bytes_max = (target - held).max(FETCH_BYTES_MIN);
        out.push(Effect::Want {
            position: self.position,
            leader_epoch: self.buffer.leaders().before(self.position),
            bytes_max,
        });
    }

    /// Gives every offset of `range` that has none an outcome.
    pub(super) fn resolve(&mut self, range: OffsetRange, outcome: Outcome, out: &mut Effects) {
        for open in self.ledger.open_in(range) {
            if let Err(refused) = self.ledger.resolve(open, outcome) {
                self.phase = Phase::Ended;
                out.push(Effect::Note(Note::LedgerRefused(refused)));
                return;
            }
        }
        self.inherited.forget_before(self.ledger.frontier());
    }
}
