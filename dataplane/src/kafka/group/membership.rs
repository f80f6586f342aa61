//! Handle of a group membership, and the thread that runs all memberships. Nothing else runs on that thread, so that
//! no other work of the node can delay a heartbeat. Each membership has three connections to its coordinator:
//! heartbeats, joins (blocked until the other members have joined) and commits. A commit is sent on the thread that
//! requests it, under the member's identity at that moment. Each batch commits, and waking two threads for each would
//! cost more than the request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::topic_id::TopicId;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::commands::{self, CommandSender, GroupCommand};
use super::commits;
use super::connections::CoordinatorConnections;
use super::driver::MemberDriver;
use super::effects::{GroupProtocol, MemberIdentity, MemberTiming};
use super::lease::OwnershipLease;
use super::member::MembershipView;
use super::rebalance::RebalanceTimeout;
use crate::kafka::cluster::KafkaCluster;
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
    commands: CommandSender,
    pub(super) lease: OwnershipLease,
    pub(super) published: SharedView,
    pub(super) settings: Arc<MembershipSettings>,
    pub(super) lines: Arc<CoordinatorConnections>,
}

/// Identity that commits are sent under; `None` while the member is in no generation.
pub(super) type SharedView = Arc<Mutex<Option<MembershipView>>>;

type MemberStart = Box<dyn FnOnce() + Send>;

/// Handle of the thread that runs all memberships.
#[derive(Clone)]
pub struct GroupThread {
    /// Queue of members to start. It is unbounded, but each mapping waits in it at most once.
    starts: Arc<Mutex<mpsc::UnboundedSender<MemberStart>>>,
}

impl GroupThread {
    /// Starts the thread, which ends when the last handle and the last membership are dropped.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self { starts: Arc::new(Mutex::new(start_thread()?)) })
    }

    /// Joins a group and delivers the membership's events to `sink`.
    pub fn join(&self, cluster: KafkaCluster, settings: MembershipSettings, sink: EventSink) -> Membership {
        let (commands, incoming) = commands::channel();
        let membership = Membership {
            commands,
            lease: OwnershipLease::default(),
            published: SharedView::default(),
            settings: Arc::new(settings),
            lines: Arc::new(CoordinatorConnections::new(cluster)),
        };
        let member = MemberDriver::new(&membership, sink);
        let start: MemberStart = Box::new(move || {
            tokio::task::spawn_local(member.run(incoming));
        });
        self.begin(start);
        membership
    }

    /// Starts a member, on a new thread if the last one has ended. The members of an ended thread have all reported
    /// [`GroupEvent::Ended`]. If no thread can be started, `start` is dropped with its member, which reports the
    /// same.
    fn begin(&self, start: MemberStart) {
        let mut starts = self.starts.lock();
        let Err(mpsc::error::SendError(start)) = starts.send(start) else { return };
        match start_thread() {
            Ok(fresh) => {
                *starts = fresh;
                let _ = starts.send(start);
            }
            Err(error) => tracing::error!(%error, "the thread of the group memberships cannot be started"),
        }
    }
}

fn start_thread() -> std::io::Result<mpsc::UnboundedSender<MemberStart>> {
    let (starts, mut incoming) = mpsc::unbounded_channel::<MemberStart>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("lighterman-group".to_owned()).spawn(move || {
        let local = LocalSet::new();
        runtime.block_on(local.run_until(async move {
            while let Some(start) = incoming.recv().await {
                start();
            }
        }));
        runtime.block_on(local);
    })?;
    Ok(starts)
}

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
        self.commands.send_command(GroupCommand::Quiesced);
    }

    /// Invalidates requests that were sent under `generation` and not answered: the member rejoins, so that the
    /// coordinator rejects them. No invocation of this member may run.
    pub fn force_rejoin(&self, generation: i32) {
        self.commands.send_command(GroupCommand::StartOver(generation));
    }

    /// Returns the member's identity and kept partitions, or `None` while it is in no generation.
    pub fn view(&self) -> Option<MembershipView> {
        self.published.lock().clone()
    }

    /// Commits in one request, under the generation that is current when it is sent.
    pub async fn commit(&self, offsets: BTreeMap<i32, OffsetAndMetadata>) -> CommitReply {
        let who = self.published.lock().as_ref().map(|standing| commit_as(&self.settings, standing));
        Ok(self.send_commit(who.ok_or(CommitFailure::NotAMember)?, offsets).await?)
    }

    /// Commits in one request, under the identity in `standing`. The coordinator rejects it if the group has moved
    /// on: the partitions may belong to another member by then.
    pub async fn commit_under(
        &self,
        standing: &MembershipView,
        offsets: BTreeMap<i32, OffsetAndMetadata>,
    ) -> CommitErrors {
        self.send_commit(commit_as(&self.settings, standing), offsets).await
    }

    async fn send_commit(
        &self,
        who: CommitIdentity,
        offsets: BTreeMap<i32, OffsetAndMetadata>,
    ) -> CommitErrors {
        let codes = commits::commit(&self.lines, &self.settings, &who, &offsets).await?;
        if let Some(code) = codes.values().flatten().next() {
            let sent_as = MemberIdentity { member: who.member, generation: who.generation };
            self.commands.refused(sent_as, *code);
        }
        Ok(codes)
    }

    /// Returns the id of the current topic of the subscribed name, if metadata has reported one.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.lines.cluster().topic_id(&self.settings.topic)
    }

    /// Returns the group's committed offsets for these partitions, requested under the identity in `standing`.
    pub async fn committed(&self, standing: &MembershipView, partitions: Vec<i32>) -> CommittedReply {
        let (reply, answer) = oneshot::channel();
        self.commands.send_command(GroupCommand::Committed(standing.clone(), partitions, reply));
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
        let standing = self.view().ok_or(CommitFailure::NotAMember)?;
        let who = commit_as(&self.settings, &standing);
        let answer = commits::read_back(&self.lines, &self.settings, &who, partitions).await;
        if let Some(code) = answer.as_ref().err().and_then(KafkaError::code) {
            self.commands.refused(standing.identity(), code);
        }
        Ok(answer?)
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

/// Returns the identity to commit with under `standing`.
pub(super) fn commit_as(settings: &MembershipSettings, standing: &MembershipView) -> CommitIdentity {
    CommitIdentity {
        group: settings.group.clone(),
        generation: standing.generation,
        member: standing.member.clone(),
        protocol: settings.protocol,
    }
}
