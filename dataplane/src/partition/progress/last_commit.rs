//! Drain whose last commit the group permanently rejects: the member stops without it.

use lighterman_proto::units::Moment;

use crate::partition::core::PartitionCore;
use crate::partition::effects::{CoreContext, PartitionEffects};

/// State of a drain's last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::partition) enum LastCommit {
    /// The group is expected to acknowledge it.
    Awaited,
    /// The group permanently rejects it, and this member stops.
    GivenUp,
}

impl PartitionCore {
    /// Handles the permanent rejection of commits: the member stops, and the drain does not wait for them.
    pub fn commit_given_up(&mut self, now: Moment, context: &mut CoreContext<'_>) -> PartitionEffects {
        let mut out = PartitionEffects::new();
        self.progress.last_commit = LastCommit::GivenUp;
        self.advance(now, context, &mut out);
        out
    }
}
