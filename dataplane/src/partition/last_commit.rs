//! Drain whose last commit the group permanently rejects: the member stops without it.

use actix::{Context, Handler};
use lighterman_proto::units::Moment;

use super::actor::PartitionActor;
use super::core::{PartitionCore, is_for};
use super::effects::{CoreContext, PartitionEffects};
use crate::messages::commit::CommitGivenUp;
use crate::runtime::clock;

/// State of a drain's last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastCommit {
    /// The group is expected to acknowledge it.
    Awaited,
    /// The group permanently rejects it, and this member stops.
    GivenUp,
}

impl PartitionCore {
    /// Handles the permanent rejection of commits: the member stops, and the drain does not wait for them.
    pub fn commit_given_up(&mut self, now: Moment, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.last_commit = LastCommit::GivenUp;
        self.advance(now, context, &mut out);
        out
    }
}

impl Handler<CommitGivenUp> for PartitionActor {
    type Result = ();

    fn handle(&mut self, given_up: CommitGivenUp, ctx: &mut Context<Self>) {
        if is_for(given_up.epoch, self.epoch) {
            self.step(ctx, |core, context| core.commit_given_up(clock::now(), context));
        }
    }
}
