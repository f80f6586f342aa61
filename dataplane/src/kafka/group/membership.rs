//! A membership as the rest of the node holds it, and the thread that all of them live on, so that nothing the node does can
//! keep a heartbeat waiting. Each has three connections to its coordinator: heartbeats, joins (which block for as long as the
//! others need), commits. Commits are sent from the thread that asks for them, as who the member is at that moment: they are
//! as many as the batches, and two threads woken for each cost more than the request.

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
use crate::kafka::offsets::{CommitIdentity, CommitOffset, CommittedOffset};

/// What a membership needs to know.
#[derive(Clone, Debug)]
pub struct MembershipSettings {
    /// Consumer group.
    pub group: String,
    /// The one topic.
    pub topic: String,
    /// How the members agree on who owns what.
    pub protocol: GroupProtocol,
    /// Session and rebalance timeouts, as they are at the start.
    pub timing: MemberTiming,
    /// The rebalance timeout from then on.
    pub rebalance: RebalanceTimeout,
}

/// What happens to a membership, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    /// Partitions were given to us.
    Assigned {
        /// Generation.
        generation: i32,
        /// All that we own and keep.
        owned: Vec<i32>,
        /// Those that are new: find out where they begin, then run them.
        added: Vec<i32>,
    },
    /// Drain and commit these, then call [`Membership::released`].
    Revoke {
        /// Which ones.
        partitions: Vec<i32>,
    },
    /// These are gone at once.
    Lost {
        /// Which ones.
        partitions: Vec<i32>,
        /// Why.
        reason: String,
    },
    /// Something a person should know.
    Trouble(String),
    /// The group works (again).
    Healthy,
    /// The membership has ended, and not because it was left: nothing of it holds any more, and nobody beats for it.
    Ended,
}

/// Receives a membership's events; called on the group thread, must not block.
pub type EventSink = Arc<dyn Fn(GroupEvent) + Send + Sync>;

/// Each partition's error, if it has one.
pub type CommitErrors = Result<BTreeMap<i32, Option<ResponseError>>, KafkaError>;

/// Answer to a commit as whoever we are: each partition's error, if it has one.
pub type CommitReply = Result<BTreeMap<i32, Option<ResponseError>>, CommitFailure>;

/// Why a commit has no answer for each partition.
#[derive(Debug, thiserror::Error)]
pub enum CommitFailure {
    /// We are in no generation now.
    #[error("not a member of the consumer group now")]
    NotAMember,
    /// The request failed; its outcome may be unknown.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// What the group has committed, or why that is not known.
pub(super) type CommittedReply = Result<BTreeMap<i32, Option<CommittedOffset>>, KafkaError>;

/// What the group holds, or why that is not known.
pub type ReadBackReply = Result<BTreeMap<i32, Option<CommittedOffset>>, CommitFailure>;

/// One node's membership in one mapping's group.
#[derive(Clone)]
pub struct Membership {
    commands: CommandSender,
    pub(super) lease: OwnershipLease,
    pub(super) published: SharedView,
    pub(super) settings: Arc<MembershipSettings>,
    pub(super) lines: Arc<CoordinatorConnections>,
}

/// What commits go under; nothing while the member is in no generation.
pub(super) type SharedView = Arc<Mutex<Option<MembershipView>>>;

type MemberStart = Box<dyn FnOnce() + Send>;

/// The thread of all memberships.
#[derive(Clone)]
pub struct GroupThread {
    /// As many wait here as there are mappings, each once.
    starts: Arc<Mutex<mpsc::UnboundedSender<MemberStart>>>,
}

impl GroupThread {
    /// Starts the thread; it ends when the last handle and the last membership are gone.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self { starts: Arc::new(Mutex::new(start_thread()?)) })
    }

    /// Joins a group; events go to `sink` from now on.
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

    /// A thread that has ended took its members with it, each of which has said so: those that come get another. Without one,
    /// `start` is dropped, and the member in it says that it has ended.
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
    /// The right to start invocations.
    pub fn lease(&self) -> OwnershipLease {
        self.lease.clone()
    }

    /// These partitions are drained and committed.
    pub fn released(&self, partitions: Vec<i32>) {
        self.commands.send_command(GroupCommand::Released(partitions));
    }

    /// No invocation of ours can run any more (H5).
    pub fn all_invocations_ended(&self) {
        self.commands.send_command(GroupCommand::Quiesced);
    }

    /// What was sent under `generation` and not answered must not be served any more. Nothing of ours may run.
    pub fn force_rejoin(&self, generation: i32) {
        self.commands.send_command(GroupCommand::StartOver(generation));
    }

    /// Who we are to the group now, and what is ours in it.
    pub fn standing(&self) -> Option<MembershipView> {
        self.published.lock().clone()
    }

    /// Commits in one request, under the generation of the moment it is sent.
    pub async fn commit(&self, offsets: Vec<CommitOffset>) -> CommitReply {
        let who = self.published.lock().as_ref().map(|standing| commit_as(&self.settings, standing));
        Ok(self.send_commit(who.ok_or(CommitFailure::NotAMember)?, offsets).await?)
    }

    /// Commits in one request, under `standing`: refused when the group has moved on since. What was decided under it may be
    /// another member's by now.
    pub async fn commit_under(&self, standing: &MembershipView, offsets: Vec<CommitOffset>) -> CommitErrors {
        self.send_commit(commit_as(&self.settings, standing), offsets).await
    }

    async fn send_commit(&self, who: CommitIdentity, offsets: Vec<CommitOffset>) -> CommitErrors {
        let codes = commits::commit(&self.lines, &self.settings, &who, &offsets).await?;
        if let Some(code) = codes.values().flatten().next() {
            let sent_as = MemberIdentity { member: who.member, generation: who.generation };
            self.commands.refused(sent_as, *code);
        }
        Ok(codes)
    }

    /// The id of the subscribed topic now, among those of its name, as far as metadata has told.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.lines.cluster().topic_id(&self.settings.topic)
    }

    /// What the group has committed for these partitions, as it tells it to `standing`.
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

    /// What the group holds of what we have committed for these partitions; on the thread that commits.
    pub async fn read_back(&self, partitions: &[i32]) -> ReadBackReply {
        let standing = self.standing().ok_or(CommitFailure::NotAMember)?;
        let who = commit_as(&self.settings, &standing);
        let answer = commits::read_back(&self.lines, &self.settings, &who, partitions).await;
        if let Some(code) = answer.as_ref().err().and_then(KafkaError::code) {
            self.commands.refused(standing.identity(), code);
        }
        Ok(answer?)
    }

    /// How long the others wait for us to let go, from the next time on that the group is told.
    pub fn set_rebalance_timeout(&self, timeout: Duration) {
        self.settings.rebalance.set(timeout.max(self.settings.timing.session_timeout));
    }

    /// Leaves the group; everything must have been drained.
    pub async fn leave(&self) {
        let (reply, answer) = oneshot::channel();
        self.commands.send_command(GroupCommand::Leave(reply));
        let _ = answer.await;
    }
}

/// The committer that a standing is.
pub(super) fn commit_as(settings: &MembershipSettings, standing: &MembershipView) -> CommitIdentity {
    CommitIdentity {
        group: settings.group.clone(),
        generation: standing.generation,
        member: standing.member.clone(),
        protocol: settings.protocol,
    }
}
