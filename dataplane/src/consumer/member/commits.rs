//! The committer's port onto the group.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use kafka_protocol::error::ResponseError;
use lighterman_proto::commit_metadata::CommitMetadata;
use lighterman_proto::ids::MappingId;

use crate::audit::{AuditLog, Entry, What};
use crate::kafka::group::Membership;
use crate::kafka::offsets::CommitOffset;
use crate::offsets::actor::{CommitAnswer, CommitPort};
use crate::offsets::committer::{CommitOutcome, Frontier};
use crate::partition::ledger::Passed;
use crate::runtime::clock;

/// Commits as our member, with the activation's partition count beside each offset.
pub struct GroupCommits {
    mapping: MappingId,
    membership: Membership,
    activated: Arc<AtomicI32>,
    audit: AuditLog,
}

impl GroupCommits {
    /// Commits through `membership`; `activated` is filled in when the first starts are known.
    pub fn new(
        mapping: MappingId,
        membership: Membership,
        activated: Arc<AtomicI32>,
        audit: AuditLog,
    ) -> Self {
        Self { mapping, membership, activated, audit }
    }
}

impl CommitPort for GroupCommits {
    fn commit(&self, frontiers: Vec<Frontier>) -> Pin<Box<dyn Future<Output = CommitAnswer> + Send>> {
        let partitions_at_activation = self.activated.load(Ordering::Relaxed);
        let entries = entries(&frontiers);
        let offsets = offsets_of(frontiers, partitions_at_activation);
        let (membership, audit, mapping) = (self.membership.clone(), self.audit.clone(), self.mapping);
        Box::pin(async move {
            // Before the commit: what is committed has its outcome on record, whenever the process dies.
            if !entries.is_empty() {
                audit.append(mapping, entries).await;
            }
            let codes = membership.commit(offsets).await.map_err(|error| error.to_string())?;
            Ok(codes
                .into_iter()
                .map(|(partition, code)| (partition, outcome_of(code)))
                .collect::<HashMap<_, _>>())
        })
    }
}

/// As the request carries them.
pub(crate) fn offsets_of(frontiers: Vec<Frontier>, partitions_at_activation: i32) -> Vec<CommitOffset> {
    frontiers
        .into_iter()
        .map(|frontier| CommitOffset {
            partition: frontier.partition,
            offset: frontier.offset,
            leader_epoch: frontier.leader_epoch,
            metadata: CommitMetadata { partitions_at_activation, progress: frontier.progress }.encode(),
        })
        .collect()
}

fn entries(frontiers: &[Frontier]) -> Vec<Entry> {
    let at = clock::wall_ms();
    let of = |frontier: &Frontier| {
        let partition = frontier.partition;
        let entry = move |passed: &Passed| Entry {
            at,
            partition,
            range: passed.range,
            what: What::Ended(passed.outcome),
        };
        frontier.passed.iter().map(entry).collect::<Vec<_>>()
    };
    frontiers.iter().flat_map(of).collect()
}

/// Rebalancing, loading, moved, timed out: the offsets are as true in a moment. A code that fences may speak of the generation
/// before, while the next is being joined; when it does not, the group takes the partitions away, and their commits with them.
pub(crate) fn outcome_of(code: Option<ResponseError>) -> CommitOutcome {
    if code.is_none() { CommitOutcome::Done } else { CommitOutcome::Again }
}
