//! The committer's port onto the group.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use kafka_protocol::error::ResponseError;
use lighterman_proto::commit_metadata::CommitMetadata;

use crate::kafka::group::Membership;
use crate::kafka::group::effects::is_fencing;
use crate::kafka::offsets::CommitOffset;
use crate::offsets::actor::{CommitAnswer, CommitPort};
use crate::offsets::committer::{CommitOutcome, Frontier};

/// Commits as our member, with the activation's partition count beside each offset.
pub struct GroupCommits {
    membership: Membership,
    activated: Arc<AtomicI32>,
}

impl GroupCommits {
    /// Commits through `membership`; `activated` is filled in when the first starts are known.
    pub fn new(membership: Membership, activated: Arc<AtomicI32>) -> Self {
        Self { membership, activated }
    }
}

impl CommitPort for GroupCommits {
    fn commit(&self, frontiers: Vec<Frontier>) -> Pin<Box<dyn Future<Output = CommitAnswer> + Send>> {
        let partitions_at_activation = self.activated.load(Ordering::Relaxed);
        let offsets = frontiers
            .into_iter()
            .map(|frontier| CommitOffset {
                partition: frontier.partition,
                offset: frontier.offset,
                leader_epoch: frontier.leader_epoch,
                metadata: CommitMetadata { partitions_at_activation, progress: frontier.progress }.encode(),
            })
            .collect();
        let membership = self.membership.clone();
        Box::pin(async move {
            let codes = membership.commit(offsets).await.map_err(|error| error.to_string())?;
            Ok(codes
                .into_iter()
                .map(|(partition, code)| (partition, outcome_of(code)))
                .collect::<HashMap<_, _>>())
        })
    }
}

fn outcome_of(code: Option<ResponseError>) -> CommitOutcome {
    match code {
        None => CommitOutcome::Done,
        Some(code) if is_fencing(code) => CommitOutcome::Fenced,
        // Rebalancing, loading, moved, timed out: the offsets are as true in a moment.
        Some(_) => CommitOutcome::Again,
    }
}
