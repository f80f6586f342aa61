//! Attempts at a partition's records: started, offered, resolved, split, given up or skipped.

pub mod attempt;
pub(in crate::partition) mod give_up;
pub(in crate::partition) mod offer;
pub(in crate::partition) mod resolve;
pub mod skip;
pub(in crate::partition) mod start;

use std::collections::BTreeSet;

use lighterman_proto::ids::{Offset, OffsetRange};
use lighterman_proto::units::Moment;

use self::attempt::RecordAttempt;
use super::effects::PartitionConfig;
use crate::messages::batch::BatchId;

/// State of the attempt under way.
#[derive(Debug)]
pub(super) enum AttemptState {
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
        ticket: u64,
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
    pub(super) state: AttemptState,
    /// Records being filled, offered, invoked, retried or sent to the destination.
    pub(super) current: RecordAttempt,
    /// Attempts after `current`, split from the same batch, in reverse order: the next one is the last element.
    pub(super) remaining: Vec<RecordAttempt>,
    pub(super) offer_seq: u64,
    pub(super) dead_letter_id: u64,
    /// Records of the current attempt to be skipped once it ends, as requested by an operator; at most one batch of
    /// them.
    pub(super) skips_wanted: BTreeSet<Offset>,
    /// Time of the next wake-up scheduled for an expiry. It may have been scheduled for an earlier offer.
    pub(super) expiry_wake: Option<Moment>,
}

impl PartitionAttempts {
    pub(super) fn new(start: &PartitionConfig) -> Self {
        Self {
            state: AttemptState::Idle,
            current: RecordAttempt::none(start.committed),
            remaining: Vec::new(),
            offer_seq: 0,
            dead_letter_id: 0,
            skips_wanted: BTreeSet::new(),
            expiry_wake: None,
        }
    }

    /// Starts a dead letter; returns its ticket.
    pub(super) fn start_dead_letter(&mut self, subject: DeadLetterSubject) -> u64 {
        self.dead_letter_id += 1;
        self.state = AttemptState::DeadLettering { ticket: self.dead_letter_id, subject };
        self.dead_letter_id
    }

    /// Ends the dead letter of `ticket` and returns its subject; `None` if that one is not under way.
    pub(super) fn end_dead_letter(&mut self, ticket: u64) -> Option<DeadLetterSubject> {
        match self.state {
            AttemptState::DeadLettering { ticket: sent, subject } if sent == ticket => {
                self.state = AttemptState::Idle;
                Some(subject)
            }
            _ => None,
        }
    }

    /// True while the bytes of unreadable offsets are being sent to the destination.
    pub(super) fn is_sending_unreadable(&self) -> bool {
        matches!(self.state, AttemptState::DeadLettering { subject: DeadLetterSubject::Unreadable(_), .. })
    }

    /// Batch that is invoked, if there is one.
    pub(super) fn sealed_batch(&self) -> Option<BatchId> {
        match self.state {
            AttemptState::Sealed { batch } => Some(batch),
            _ => None,
        }
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

    /// Takes the next records split from the batch. They come in order: later ones wait until the earlier ones are
    /// resolved (ORD-1).
    pub(super) fn take_next(&mut self) -> Option<RecordAttempt> {
        mutant!(
            "retry-reorders",
            self.remaining.pop(),
            (!self.remaining.is_empty()).then(|| self.remaining.remove(0))
        )
    }
}
