//! What a partition does, decided: when to ask for records, what to offer, when an offset counts, when it has drained.
//!
//! Two rules carry the promises. The next cut is offered only when the last one is resolved (ORD-1) *and its commit is
//! acknowledged*: a process that dies can therefore repeat at most one batch of each partition. And the ledger's frontier
//! is the only thing ever committed (COM-1).

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;
use std::time::Duration;

use super::cut::Cut;
use super::effects::{Effect, Effects, Frame, Note, Resolution, Start, Tools};
use super::fetch_buffer::{FetchBuffer, Stop};
use super::ledger::{Ledger, Outcome};
use crate::batcher::BatchId;

/// How long a partition that cannot be read rests before it is asked for again.
pub const REST: Duration = Duration::from_secs(5);
const FETCH_BYTES_MIN: usize = 64 * 1024;

#[derive(Debug)]
enum Flight {
    Idle,
    Offered { seq: u64, attempt: u32 },
    Sealed { batch: BatchId, attempt: u32 },
    Waiting { until: Moment, attempt: u32 },
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Resting {
        until: Moment,
    },
    Draining,
    Drained,
    /// Waits to be rebuilt; does nothing any more.
    Ended,
}

/// The state machine of one partition under one epoch.
pub struct PartitionCore {
    start: Start,
    phase: Phase,
    flight: Flight,
    buffer: FetchBuffer,
    ledger: Ledger,
    /// The cut that is being filled, offered, invoked or retried.
    cut: Cut,
    offer_seq: u64,
    position: Offset,
    leader_epoch: i32,
    frontier_leader_epoch: i32,
    committed: Offset,
    wanted: bool,
    lost_before: Option<Offset>,
}

impl PartitionCore {
    /// A partition that goes on at `start.committed`.
    pub fn new(start: Start) -> Self {
        Self {
            start,
            phase: Phase::Running,
            flight: Flight::Idle,
            buffer: FetchBuffer::default(),
            ledger: Ledger::new(start.committed),
            cut: Cut::empty(start.committed),
            offer_seq: 0,
            position: start.committed,
            leader_epoch: -1,
            frontier_leader_epoch: -1,
            committed: start.committed,
            wanted: false,
            lost_before: None,
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

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The first offset in flight or waiting for its retry, and the attempt.
    pub fn failing(&self) -> Option<(Offset, u32)> {
        match self.flight {
            Flight::Waiting { attempt, .. } => Some((self.cut.range.first, attempt)),
            Flight::Offered { attempt, .. } | Flight::Sealed { attempt, .. } if attempt > 1 => {
                Some((self.cut.range.first, attempt))
            }
            Flight::Idle | Flight::Offered { .. } | Flight::Sealed { .. } => None,
        }
    }

    /// True while an invocation holds the cut.
    pub fn is_in_flight(&self) -> bool {
        matches!(self.flight, Flight::Sealed { .. })
    }

    /// A fetch has brought records; one that was asked for elsewhere changes nothing.
    pub fn fetched(&mut self, now: Moment, frame: Frame<'_>, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        let Frame { position, records, aborted, hold } = frame;
        if position != self.position || !matches!(self.phase, Phase::Running) {
            return out;
        }
        self.wanted = false;
        let received = self.buffer.receive(records, position, aborted, hold, now);
        self.position = received.position;
        if received.leader_epoch >= 0 {
            self.leader_epoch = received.leader_epoch;
        }
        if let Some(error) = received.corrupt {
            self.rest(now, Note::Corrupt { offset: self.position, error }, &mut out);
        }
        self.advance(now, tools, &mut out);
        out
    }

    /// The position lies outside the log.
    pub fn out_of_range(
        &mut self,
        now: Moment,
        log_start: Offset,
        log_end: Offset,
        tools: &mut Tools<'_>,
    ) -> Effects {
        let mut out = Effects::new();
        self.wanted = false;
        if self.position > log_end {
            self.diverged_into(log_end, &mut out);
        } else if self.position < log_start {
            self.lost_before = Some(log_start);
        }
        self.advance(now, tools, &mut out);
        out
    }

    /// The leader's log has another history from `end` on (KIP-320).
    pub fn diverged(&mut self, end: Offset) -> Effects {
        let mut out = Effects::new();
        self.diverged_into(end, &mut out);
        out
    }

    /// The partition cannot be read for a reason that is not in its bytes.
    pub fn unreadable(&mut self, now: Moment) -> Effects {
        let mut out = Effects::new();
        self.wanted = false;
        if self.phase == Phase::Running {
            self.phase = Phase::Resting { until: now + REST };
            out.push(Effect::WakeAt(now + REST));
        }
        out
    }

    /// The batcher fixed offer `seq` as `batch`; false when that offer is not out any more.
    pub fn sealed(&mut self, seq: u64, batch: BatchId) -> bool {
        match self.flight {
            Flight::Offered { seq: offered, attempt } if offered == seq => {
                self.flight = Flight::Sealed { batch, attempt };
                true
            }
            Flight::Idle | Flight::Offered { .. } | Flight::Sealed { .. } | Flight::Waiting { .. } => false,
        }
    }

    /// The batcher gave offer `seq` back.
    pub fn withdrawn(&mut self, now: Moment, seq: u64, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        if let Flight::Offered { seq: offered, attempt } = self.flight
            && offered == seq
        {
            self.flight = if attempt > 1 { Flight::Waiting { until: now, attempt } } else { Flight::Idle };
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
        let Flight::Sealed { batch: sealed, attempt } = self.flight else { return out };
        if sealed != batch {
            return out;
        }
        match resolution {
            Resolution::Delivered => {
                self.flight = Flight::Idle;
                self.resolve_cut(Outcome::Delivered, &mut out);
            }
            Resolution::Again { at, counts } => {
                self.flight = Flight::Waiting { until: at, attempt: attempt + u32::from(counts) };
                out.push(Effect::WakeAt(at));
            }
        }
        self.advance(now, tools, &mut out);
        out
    }

    /// The group has acknowledged `offset`.
    pub fn committed(&mut self, now: Moment, offset: Offset, tools: &mut Tools<'_>) -> Effects {
        let mut out = Effects::new();
        self.committed = self.committed.max(offset);
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
        if let Flight::Offered { seq, .. } = self.flight {
            out.push(Effect::Withdraw { seq });
        }
        self.advance(now, tools, &mut out);
        out
    }

    fn advance(&mut self, now: Moment, tools: &mut Tools<'_>, out: &mut Effects) {
        if let Phase::Resting { until } = self.phase
            && until <= now
        {
            self.phase = Phase::Running;
        }
        match self.phase {
            Phase::Draining => self.finish_drain(out),
            Phase::Drained | Phase::Ended => {}
            Phase::Running | Phase::Resting { .. } => {
                self.offer(now, tools, out);
                self.pass_lost_records(out);
                self.want(out);
            }
        }
    }

    fn finish_drain(&mut self, out: &mut Effects) {
        let nothing_runs = matches!(self.flight, Flight::Idle | Flight::Waiting { .. });
        if nothing_runs && self.committed == self.ledger.frontier() {
            self.phase = Phase::Drained;
            out.push(Effect::Drained);
        }
    }

    fn want(&mut self, out: &mut Effects) {
        let held = self.buffer.wire_bytes();
        let target = self.start.buffer_bytes_target;
        if self.wanted || self.phase != Phase::Running || self.lost_before.is_some() || held >= target {
            return;
        }
        self.wanted = true;
        let bytes_max = (target - held).max(FETCH_BYTES_MIN);
        out.push(Effect::Want { position: self.position, leader_epoch: self.leader_epoch, bytes_max });
    }

    fn offer(&mut self, now: Moment, tools: &mut Tools<'_>, out: &mut Effects) {
        match self.flight {
            Flight::Sealed { .. } => {}
            Flight::Waiting { until, attempt } if until <= now => self.show(attempt, out),
            Flight::Waiting { .. } => {}
            // A retry is never extended: the same records under the same key.
            Flight::Offered { attempt, .. } if attempt > 1 => {}
            Flight::Idle if self.committed != self.ledger.frontier() => {}
            Flight::Idle | Flight::Offered { .. } => {
                let records_before = self.cut.records;
                self.fill(now, tools, out);
                if self.cut.records > records_before {
                    self.show(1, out);
                }
            }
        }
    }

    fn show(&mut self, attempt: u32, out: &mut Effects) {
        if !matches!(self.flight, Flight::Offered { .. }) {
            self.offer_seq += 1;
        }
        let seq = self.offer_seq;
        self.flight = Flight::Offered { seq, attempt };
        out.push(Effect::Offer { seq, cut: self.cut.clone(), attempt });
    }

    fn fill(&mut self, now: Moment, tools: &mut Tools<'_>, out: &mut Effects) {
        loop {
            match self.buffer.grow(&mut self.cut, self.start.limits, tools.sizer, tools.opener) {
                Stop::Done => break,
                Stop::NoCredit => {
                    out.push(Effect::AwaitCredit);
                    break;
                }
                Stop::Oversized { offset, bytes } => {
                    self.cut.range.end = offset;
                    self.resolve_cut(Outcome::Absent, out);
                    self.cut.range.end = offset.next();
                    self.resolve_cut(Outcome::Oversized, out);
                    self.buffer.skip(offset);
                    out.push(Effect::Note(Note::Oversized { offset, bytes }));
                }
                Stop::Corrupt(error) => {
                    self.position = self.cut.range.end;
                    self.buffer.clear();
                    self.rest(now, Note::Corrupt { offset: self.position, error }, out);
                    break;
                }
            }
        }
        if self.cut.is_empty() && !self.cut.range.is_empty() {
            self.resolve_cut(Outcome::Absent, out);
        }
    }

    /// Gives the cut's whole range an outcome and begins the next one behind it.
    fn resolve_cut(&mut self, outcome: Outcome, out: &mut Effects) {
        let range = self.cut.range;
        if self.cut.leader_epoch >= 0 {
            self.frontier_leader_epoch = self.cut.leader_epoch;
        }
        self.cut = Cut::empty(range.end);
        self.resolve(range, outcome, out);
    }

    fn resolve(&mut self, range: OffsetRange, outcome: Outcome, out: &mut Effects) {
        match self.ledger.resolve(range, outcome) {
            Ok(false) => {}
            Ok(true) => {
                let (offset, leader_epoch) = (self.ledger.frontier(), self.frontier_leader_epoch);
                out.push(Effect::Commit { offset, leader_epoch });
            }
            Err(refused) => {
                self.phase = Phase::Ended;
                out.push(Effect::Note(Note::LedgerRefused(refused)));
            }
        }
    }

    /// Records that retention took are accounted once everything before them is.
    fn pass_lost_records(&mut self, out: &mut Effects) {
        let idle = matches!(self.flight, Flight::Idle) && self.buffer.is_empty() && self.cut.range.is_empty();
        if let Some(log_start) = self.lost_before.take_if(|_| idle) {
            let range = OffsetRange { first: self.position, end: log_start };
            self.position = log_start;
            self.cut = Cut::empty(log_start);
            out.push(Effect::Note(Note::Lost(range)));
            self.resolve(range, Outcome::Lost, out);
        }
    }

    fn diverged_into(&mut self, end: Offset, out: &mut Effects) {
        self.phase = Phase::Ended;
        out.push(Effect::Forget);
        out.push(Effect::Rebuild { at: end.min(self.ledger.frontier()) });
    }

    fn rest(&mut self, now: Moment, note: Note, out: &mut Effects) {
        out.push(Effect::Note(note));
        self.wanted = false;
        if matches!(self.phase, Phase::Running | Phase::Resting { .. }) {
            self.phase = Phase::Resting { until: now + REST };
            out.push(Effect::Forget);
            out.push(Effect::WakeAt(now + REST));
        }
    }
}
