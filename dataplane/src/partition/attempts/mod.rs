//! Attempts at a partition's records: offered, sealed, failed, split, given up or skipped.

pub mod attempt;
mod give_up;
mod offer;
mod resolve;
pub mod skip;

use std::collections::BTreeSet;

use lighterman_proto::commit_metadata::ProgressPiece;
use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use self::attempt::RecordAttempt;
use super::core::is_for;
use super::effects::{CoreContext, PartitionConfig, PartitionEffect, PartitionEffects};
use super::progress::inherited::InheritedPiece;
use super::reader::PartitionReader;
use super::reader::fetch_buffer::{BatchOpener, FillLimits, FillStop};
use super::reader::release::keep_only;
use crate::messages::batch::BatchId;
use crate::messages::outcome::ResolvedRange;
use crate::messages::records::PartitionBatch;
use crate::messages::resolution::KnownFailures;

/// State of the attempt under way.
#[derive(Debug)]
enum AttemptState {
    Idle,
    /// The progress of the attempt is being committed; the attempt starts once the group has acknowledged it.
    AwaitingCommit,
    Offered {
        seq: u64,
        /// Time at which the first of the offered records exceeds the maximum age.
        expires: Option<Moment>,
    },
    Sealed {
        batch: BatchId,
    },
    BackingOff {
        until: Moment,
    },
    DeadLettering {
        request_id: u64,
        subject: DeadLetterSubject,
    },
}

/// Subject of a dead letter that is being sent to the on-failure destination.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeadLetterSubject {
    /// The current records.
    Records,
    /// The bytes of offsets that cannot be read; nothing is fetched while they are sent.
    Unreadable(OffsetRange),
}

/// Attempt under way, and those that follow it.
pub(super) struct PartitionAttempts {
    state: AttemptState,
    /// Records being filled, offered, invoked, retried or sent to the destination.
    current: RecordAttempt,
    /// Attempts after `current`, split from the same batch, in reverse order: the next one is the last element.
    remaining: Vec<RecordAttempt>,
    offer_seq: u64,
    dead_letter_id: u64,
    /// Records of the current attempt to be skipped once it ends, as requested by an operator; at most one batch of
    /// them.
    skips_wanted: BTreeSet<Offset>,
    /// Time of the next wake-up scheduled for an expiry. It may have been scheduled for an earlier offer.
    expiry_wake: Option<Moment>,
}

impl PartitionAttempts {
    pub(super) fn new(config: &PartitionConfig) -> Self {
        Self {
            state: AttemptState::Idle,
            current: RecordAttempt::none(config.committed),
            remaining: Vec::new(),
            offer_seq: 0,
            dead_letter_id: 0,
            skips_wanted: BTreeSet::new(),
            expiry_wake: None,
        }
    }

    /// The current attempt.
    pub(super) fn current(&self) -> &RecordAttempt {
        &self.current
    }

    /// True if records are current, or remain to be attempted after them.
    pub(super) fn has_records(&self) -> bool {
        !self.current.batch.is_empty() || self.has_remaining()
    }

    /// True if records split from the batch remain to be attempted after the current ones.
    pub(super) fn has_remaining(&self) -> bool {
        !self.remaining.is_empty()
    }

    /// End of all records held here.
    pub(super) fn end(&self) -> Offset {
        self.remaining.first().unwrap_or(&self.current).batch.range.end
    }

    /// Arrival time of the first record held here.
    pub(super) fn oldest(&self) -> Option<Moment> {
        let mut batches =
            std::iter::once(&self.current).chain(self.remaining.last()).map(|attempt| &attempt.batch);
        batches.find(|batch| !batch.is_empty()).map(|batch| batch.oldest)
    }

    /// Time of the first failure of the records held here.
    pub(super) fn first_failure_ms(&self) -> Option<i64> {
        self.current
            .first_failure_ms
            .or_else(|| self.remaining.iter().find_map(|attempt| attempt.first_failure_ms))
    }

    /// Returns the pieces that remain to be attempted after the current one.
    pub(super) fn remaining_pieces(&self, frontier: Offset) -> impl Iterator<Item = ProgressPiece> {
        self.remaining.iter().rev().map(move |attempt| attempt.piece(frontier, attempt.attempts_used))
    }

    /// True if no attempt is under way or waited for.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, AttemptState::Idle)
    }

    /// True if the attempt starts once its progress is committed and acknowledged.
    pub(super) fn is_awaiting_commit(&self) -> bool {
        matches!(self.state, AttemptState::AwaitingCommit)
    }

    /// True if the current records are offered and not sealed.
    pub(super) fn is_offered(&self) -> bool {
        matches!(self.state, AttemptState::Offered { .. })
    }

    /// True if no offer, invocation or dead letter is under way, so that the partition may be handed over (DRN-1).
    pub(super) fn may_hand_over(&self) -> bool {
        mutant!("drain-does-not-wait", self.is_at_rest(), true)
    }

    /// True if no offer, invocation or dead letter is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(
            self.state,
            AttemptState::Idle | AttemptState::BackingOff { .. } | AttemptState::AwaitingCommit
        )
    }

    /// True if the next attempt waits for a later time.
    pub(super) fn is_backing_off(&self, now: Moment) -> bool {
        matches!(self.state, AttemptState::BackingOff { until } if until > now)
    }

    /// True while the bytes of unreadable offsets are being sent to the destination.
    pub(super) fn is_sending_unreadable(&self) -> bool {
        matches!(self.state, AttemptState::DeadLettering { subject: DeadLetterSubject::Unreadable(_), .. })
    }

    /// True if the current records have been attempted or are on their way to the destination, and are still
    /// unresolved.
    pub(super) fn is_held_up(&self) -> bool {
        match self.state {
            AttemptState::BackingOff { .. } | AttemptState::DeadLettering { .. } => true,
            AttemptState::Idle
            | AttemptState::AwaitingCommit
            | AttemptState::Offered { .. }
            | AttemptState::Sealed { .. } => self.current.is_retry && !self.current.may_grow(),
        }
    }

    /// Waits until the group has acknowledged the attempt's progress.
    pub(super) fn wait_for_commit(&mut self) {
        self.state = AttemptState::AwaitingCommit;
    }

    /// Ends the wait for an acknowledgement or for the time of a retry.
    pub(super) fn end_wait(&mut self) {
        self.state = AttemptState::Idle;
    }

    /// Waits until `until` before the current records are attempted again.
    pub(super) fn back_off(&mut self, until: Moment, out: &mut PartitionEffects) {
        self.state = AttemptState::BackingOff { until };
        self.current.is_retry = true;
        out.push(PartitionEffect::WakeAt(until));
    }

    /// Ends the invocation of `batch`; returns false if that is not the sealed batch.
    pub(super) fn end_invocation(&mut self, batch: BatchId) -> bool {
        let sealed = match self.state {
            AttemptState::Sealed { batch } => Some(batch),
            _ => None,
        };
        let is_ours = is_for(Some(batch), sealed);
        if is_ours {
            self.state = AttemptState::Idle;
        }
        is_ours
    }

    /// Starts a dead letter; returns its ticket.
    pub(super) fn start_dead_letter(&mut self, subject: DeadLetterSubject) -> u64 {
        self.dead_letter_id += 1;
        self.state = AttemptState::DeadLettering { request_id: self.dead_letter_id, subject };
        self.dead_letter_id
    }

    /// Ends the dead letter of `request_id` and returns its subject; `None` if that one is not under way.
    pub(super) fn end_dead_letter(&mut self, request_id: u64) -> Option<DeadLetterSubject> {
        match self.state {
            AttemptState::DeadLettering { request_id: sent, subject } if sent == request_id => {
                self.state = AttemptState::Idle;
                Some(subject)
            }
            _ => None,
        }
    }

    /// Withdraws an offer or stops a dead letter that is under way.
    pub(super) fn call_back(&self) -> Option<PartitionEffect> {
        match self.state {
            AttemptState::Offered { seq, .. } => Some(PartitionEffect::Withdraw { seq }),
            AttemptState::DeadLettering { request_id, .. } => {
                Some(PartitionEffect::CancelDeadLetter { request_id })
            }
            AttemptState::Idle
            | AttemptState::AwaitingCommit
            | AttemptState::BackingOff { .. }
            | AttemptState::Sealed { .. } => None,
        }
    }

    /// Discards all records; a late answer matches nothing from then on.
    pub(super) fn discard(&mut self, frontier: Offset) {
        self.state = AttemptState::Idle;
        self.remaining.clear();
        self.current = RecordAttempt::none(frontier);
    }

    /// Continues with the next records split from the batch; returns false if there are none.
    pub(super) fn continue_with_next(&mut self) -> bool {
        let Some(next) = self.take_next() else { return false };
        self.current = next;
        true
    }

    /// Takes the next records split from the batch. They come in order: later ones wait until the earlier ones are
    /// resolved (ORD-1).
    fn take_next(&mut self) -> Option<RecordAttempt> {
        mutant!(
            "retry-reorders",
            self.remaining.pop(),
            (!self.remaining.is_empty()).then(|| self.remaining.remove(0))
        )
    }

    /// Fills the current batch from the buffer, as far as `fill_limits` allows.
    pub(super) fn fill(
        &mut self,
        reader: &mut PartitionReader,
        fill_limits: FillLimits<'_>,
        context: &mut CoreContext<'_>,
    ) -> FillStop {
        reader.grow(&mut self.current.batch, fill_limits, context)
    }

    /// Takes the ranges left out of the current batch, with their outcomes.
    pub(super) fn take_excluded(&mut self) -> Vec<ResolvedRange> {
        std::mem::take(&mut self.current.batch.excluded)
    }

    /// Ends a batch without records and starts the next one after it; returns its range.
    pub(super) fn pass_empty_batch(&mut self) -> OffsetRange {
        let range = self.current.batch.range;
        self.current.batch = PartitionBatch::empty(range.end);
        range
    }

    /// Moves the start of the current batch to `frontier`: the offsets before it have an outcome.
    pub(super) fn move_start_to(&mut self, frontier: Offset) {
        self.current.move_start_to(frontier);
    }

    /// Starts a batch at `first`, behind the current records, which have an outcome; returns these.
    pub(super) fn pass_to(&mut self, first: Offset) -> RecordAttempt {
        std::mem::replace(&mut self.current, RecordAttempt::none(first))
    }

    /// Continues an earlier owner's piece, whose records are the current ones.
    pub(super) fn resume(&mut self, piece: &InheritedPiece, known: Option<&KnownFailures>) {
        self.current.resume(piece);
        if let Some(known) = known.filter(|_| piece.first_failure_ms.is_some()) {
            self.current.remember(known);
        }
    }

    /// Releases the memory around records that wait to be attempted again. Records that are offered or in flight are
    /// never touched.
    pub(super) fn release_memory(&mut self, batch_opener: &mut dyn BatchOpener) {
        if matches!(self.state, AttemptState::BackingOff { .. }) {
            let attempts = std::iter::once(&mut self.current).chain(&mut self.remaining);
            keep_only(attempts.flat_map(|attempt| &mut attempt.batch.runs), batch_opener);
        }
    }
}
