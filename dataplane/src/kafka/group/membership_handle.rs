//! Handle of a group membership. A commit is sent on the thread that requests it, under the member's identity at that
//! moment: each batch commits, and waking two threads for each would cost more than the request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::topic_id::TopicId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::client::CoordinatorClient;
use super::commands::{CommandSender, GroupCommand};
use super::effects::{GroupProtocol, MemberIdentity, MemberTiming};
use super::member::MembershipView;
use super::ownership_lease::OwnershipLease;
use super::rebalance::RebalanceTimeout;
use crate::kafka::error::KafkaError;
use crate::kafka::group::effects::GroupEvent;
use crate::kafka::offsets::{CommitIdentity, OffsetAndMetadata};

/// Configuration of a membership.
#[derive(Clone, Debug)]
pub struct MembershipSettings {
    /// Consumer group.
    pub group: String,
    /// Subscribed topic; there is exactly one.
    pub topic: String,
    /// Protocol by which the members agree on the assignment.
    pub protocol: GroupProtocol,
    /// Session and rebalance timeouts at the start.
    pub timing: MemberTiming,
    /// Rebalance timeout from then on; it may change while the member is in the group.
    pub rebalance: RebalanceTimeout,
}

/// Callback for a membership's events. It runs on the group thread and must not block.
pub type EventSink = Arc<dyn Fn(GroupEvent) + Send + Sync>;

/// Error of each partition in a commit, `None` where the commit succeeded.
pub type CommitErrors = Result<BTreeMap<i32, Option<ResponseError>>, KafkaError>;

/// Result of a commit under the member's current identity: the error of each partition, `None` where it succeeded.
pub type CommitReply = Result<BTreeMap<i32, Option<ResponseError>>, CommitFailure>;

/// Failure of a commit as a whole, without a result for each partition.
#[derive(Debug, thiserror::Error)]
pub enum CommitFailure {
    /// The member is in no generation.
    #[error("not a member of the consumer group now")]
    NotAMember,
    /// The request failed; its outcome may be unknown.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// Committed offset of each partition, or the error of the look-up.
pub(super) type CommittedReply = Result<BTreeMap<i32, Option<OffsetAndMetadata>>, KafkaError>;

/// Committed offset of each partition, or the failure to read it back.
pub type ReadBackReply = Result<BTreeMap<i32, Option<OffsetAndMetadata>>, CommitFailure>;

/// Handle of one node's membership in one mapping's group.
#[derive(Clone)]
pub struct Membership {
    pub(super) commands: CommandSender,
    pub(super) lease: OwnershipLease,
    pub(super) published: SharedView,
    pub(super) settings: Arc<MembershipSettings>,
    pub(super) client: Arc<CoordinatorClient>,
}

/// Identity that commits are sent under; `None` while the member is in no generation.
pub(super) type SharedView = Arc<Mutex<Option<MembershipView>>>;

impl Membership {
    /// Returns the lease, which is the right to start invocations.
    pub fn lease(&self) -> OwnershipLease {
        self.lease.clone()
    }

    /// Reports that these partitions are drained and committed.
    pub fn released(&self, partitions: Vec<i32>) {
        self.commands.send_command(GroupCommand::Released(partitions));
    }

    /// Reports that no invocation of this member can still run (H5).
    pub fn all_invocations_ended(&self) {
        self.commands.send_command(GroupCommand::AllInvocationsEnded);
    }

    /// Invalidates requests that were sent under `generation` and not answered: the member rejoins, so that the
    /// coordinator rejects them. No invocation of this member may run.
    pub fn force_rejoin(&self, generation: i32) {
        self.commands.send_command(GroupCommand::ForceRejoin(generation));
    }

    /// Returns the member's identity and kept partitions, or `None` while it is in no generation.
    pub fn view(&self) -> Option<MembershipView> {
        self.published.lock().clone()
    }

    /// Commits in one request, under the generation that is current when it is sent.
    pub async fn commit(&self, offsets: BTreeMap<i32, OffsetAndMetadata>) -> CommitReply {
        let who = self.published.lock().as_ref().map(|view| self.client.commit_identity(view));
        Ok(self.send_commit(who.ok_or(CommitFailure::NotAMember)?, offsets).await?)
    }

    /// Commits in one request, under the identity in `view`. The coordinator rejects it if the group has moved
    /// on: the partitions may belong to another member by then.
    pub async fn commit_under(
        &self,
        view: &MembershipView,
        offsets: BTreeMap<i32, OffsetAndMetadata>,
    ) -> CommitErrors {
        self.send_commit(self.client.commit_identity(view), offsets).await
    }

    async fn send_commit(
        &self,
        who: CommitIdentity,
        offsets: BTreeMap<i32, OffsetAndMetadata>,
    ) -> CommitErrors {
        let codes = self.client.commit(&who, &offsets).await?;
        if let Some(code) = codes.values().flatten().next() {
            let sent_as = MemberIdentity { member: who.member, generation: who.generation };
            self.commands.refused(sent_as, *code);
        }
        Ok(codes)
    }

    /// Returns the id of the current topic of the subscribed name, if metadata has reported one.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.client.cluster().topic_id(&self.settings.topic)
    }

    /// Returns the group's committed offsets for these partitions, requested under the identity in `view`.
    pub async fn committed(&self, view: &MembershipView, partitions: Vec<i32>) -> CommittedReply {
        let (reply, answer) = oneshot::channel();
        self.commands.send_command(GroupCommand::FetchCommitted(view.clone(), partitions, reply));
        answer.await.unwrap_or_else(|_| {
            Err(KafkaError::broker(
                kafka_protocol::messages::ApiKey::OffsetFetch,
                "membership",
                ResponseError::UnknownMemberId,
            ))
        })
    }

    /// Reads back the group's committed offsets for these partitions. Call it on the thread that commits.
    pub async fn read_back(&self, partitions: &[i32]) -> ReadBackReply {
        let view = self.view().ok_or(CommitFailure::NotAMember)?;
        let response = self.client.read_back(&self.client.commit_identity(&view), partitions).await;
        if let Some(code) = response.as_ref().err().and_then(KafkaError::code) {
            self.commands.refused(view.identity(), code);
        }
        Ok(response?)
    }

    /// Sets the rebalance timeout: the time for which the group waits for this member to release partitions. It takes
    /// effect when the member next reports it to the group.
    pub fn set_rebalance_timeout(&self, timeout: Duration) {
        self.settings.rebalance.set(timeout.max(self.settings.timing.session_timeout));
    }

    /// Leaves the group. All partitions must have been drained.
    pub async fn leave(&self) {
        let (reply, answer) = oneshot::channel();
        self.commands.send_command(GroupCommand::Leave(reply));
        let _ = answer.await;
    }
}
