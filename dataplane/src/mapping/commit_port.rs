//! Port through which the committer reaches the consumer group.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use kafka_protocol::error::ResponseError;
use lighterman_proto::ids::{MappingId, Offset, OffsetRange};
use lighterman_proto::topic_id::TopicId;

use super::wiring::MappingActors;
use crate::audit::{AuditEntry, AuditLog, EntryKind};
use crate::commits::actor::{CommitAnswer, CommitError, CommitFuture, CommitPort, MemberStops};
use crate::commits::coalescing::{CommitOutcome, offsets_of, split_by_topic};
use crate::commits::verify::mismatched_partitions;
use crate::kafka::group::effects::is_fencing;
use crate::kafka::group::{CommitFailure, Membership};
use crate::messages::commit::CommitRequest;
use crate::messages::outcome::ResolvedRange;
use crate::runtime::clock;

/// Commit port of this member. Each offset is committed with the partition count at activation.
pub struct GroupCommits {
    mapping: MappingId,
    membership: Membership,
    activated: Arc<AtomicI32>,
    audit: AuditLog,
}

impl GroupCommits {
    /// Creates a port on `membership`. `activated` is filled in once the first starts are known.
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
    fn commit(&self, requests: Vec<CommitRequest>) -> CommitFuture<CommitAnswer> {
        let partitions_at_activation = self.activated.load(Ordering::Relaxed);
        let audit_entries = audit_entries(&requests);
        let (requests, outdated) = split_by_topic(requests, self.membership.topic_id());
        // Their topic is gone, and its committed offsets with it.
        let outdated = outdated.into_iter().map(|frontier| (frontier.partition, CommitOutcome::Done));
        let offsets = offsets_of(requests, partitions_at_activation);
        let (membership, audit, mapping) = (self.membership.clone(), self.audit.clone(), self.mapping);
        let mut outcomes: HashMap<i32, CommitOutcome> = outdated.collect();
        Box::pin(async move {
            // Audit before the commit: a committed offset has its outcome on record even if the process dies.
            for (topic, entries) in audit_entries {
                audit.append_of(mapping, topic, entries).await;
            }
            if !offsets.is_empty() {
                let codes = membership.commit(offsets).await.map_err(no_answer)?;
                outcomes.extend(codes.into_iter().map(|(partition, code)| (partition, outcome_of(code))));
            }
            Ok(outcomes)
        })
    }

    fn read_back(&self, requests: Vec<CommitRequest>) -> CommitFuture<Option<Vec<i32>>> {
        let (membership, activated) = (self.membership.clone(), self.activated.load(Ordering::Relaxed));
        let (requests, _) = split_by_topic(requests, self.membership.topic_id());
        Box::pin(async move {
            let partitions: Vec<i32> = requests.iter().map(|frontier| frontier.partition).collect();
            if partitions.is_empty() {
                return Some(Vec::new());
            }
            match membership.read_back(&partitions).await {
                Ok(theirs) => Some(mismatched_partitions(requests, activated, &theirs)),
                Err(error) => {
                    tracing::debug!(%error, "what is committed could not be read back; trying again");
                    None
                }
            }
        })
    }

    fn given_up(&self, frontier: &CommitRequest, acknowledged: Option<Offset>) {
        let CommitRequest { partition, offset, .. } = *frontier;
        let held = acknowledged.map(|held| held.0);
        tracing::error!(
            mapping = %self.mapping,
            partition,
            offset = offset.0,
            ?held,
            "the mapping stops without its last commit, which the cluster refuses: what is behind it is delivered again if the \
             topic is read again"
        );
        let range = OffsetRange { first: acknowledged.unwrap_or(offset), end: offset };
        let entry = AuditEntry { at: clock::wall_ms(), partition, range, what: EntryKind::Uncommitted };
        self.audit.note(self.mapping, vec![entry]);
    }
}

impl MappingActors {
    /// Tells the committer that the member stops without handing over.
    pub(super) fn stop_commits(&self) {
        self.committer.do_send(MemberStops);
    }
}

fn no_answer(failure: CommitFailure) -> CommitError {
    let may_be_served = match &failure {
        CommitFailure::NotAMember => false,
        CommitFailure::Kafka(error) => error.may_still_apply(),
    };
    CommitError { why: failure.to_string(), may_still_apply: may_be_served }
}

/// Groups the passed offset ranges by topic. There is more than one topic only while a topic is recreated.
fn audit_entries(requests: &[CommitRequest]) -> BTreeMap<Option<TopicId>, Vec<AuditEntry>> {
    let at = clock::wall_ms();
    let of = |frontier: &CommitRequest| {
        let partition = frontier.partition;
        let entry = move |passed: &ResolvedRange| AuditEntry {
            at,
            partition,
            range: passed.range,
            what: EntryKind::Ended(passed.outcome),
        };
        frontier.passed.iter().map(entry).collect::<Vec<_>>()
    };
    let mut audit_entries: BTreeMap<Option<TopicId>, Vec<AuditEntry>> = BTreeMap::new();
    for frontier in requests.iter().filter(|frontier| !frontier.passed.is_empty()) {
        audit_entries.entry(frontier.topic).or_default().extend(of(frontier));
    }
    audit_entries
}

/// Maps an error code to the outcome of a commit. Rebalancing, loading, moved coordinators and timeouts are retried:
/// the offsets stay valid. A fencing code may refer to the previous generation while the next is being joined. If it
/// does not, the group takes the partitions and their pending commits away. Waiting does not help if the topic is
/// gone or forbidden, or if the commit is too long.
pub fn outcome_of(code: Option<ResponseError>) -> CommitOutcome {
    use ResponseError as E;
    match code {
        None => CommitOutcome::Done,
        Some(
            E::UnknownTopicOrPartition
            | E::UnknownTopicId
            | E::TopicAuthorizationFailed
            | E::GroupAuthorizationFailed
            | E::OffsetMetadataTooLarge
            | E::InvalidCommitOffsetSize,
        ) => CommitOutcome::Refused,
        Some(code) if is_fencing(code) => fenced_outcome(),
        Some(_) => CommitOutcome::Again,
    }
}

/// Returns the outcome of a commit under an identity that the group no longer accepts: it has not been applied.
fn fenced_outcome() -> CommitOutcome {
    mutant!("fenced-commit-acknowledged", CommitOutcome::Again, CommitOutcome::Done)
}
