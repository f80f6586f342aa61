//! The member's shell. All memberships of a node live on one thread of their own, so that nothing the node does can keep a
//! heartbeat waiting; each has three connections to its coordinator: heartbeats, joins (which block for as long as the
//! others need), commits. Commits are sent from the thread that asks for them, as who the member is at that moment: they are
//! as many as the batches, and two threads woken for each cost more than the request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::core::GroupCore;
use super::effects::{Effect, Failure, Joined, Timing};
use super::lease::OwnershipLease;
use super::requests::{self, Lines};
use crate::kafka::backoff::random;
use crate::kafka::cluster::Cluster;
use crate::kafka::error::KafkaError;
use crate::kafka::offsets::{CommitAs, CommitOffset, CommittedOffset};
use crate::runtime::clock;

const COMMANDS_MAX: usize = 1024;
const EVENTS_MAX: usize = 64;
/// How often a leader looks whether the topic has grown (H18).
const METADATA_AGE_MAX: Duration = Duration::from_secs(30);

/// What a membership needs to know.
#[derive(Clone, Debug)]
pub struct MembershipSettings {
    /// Consumer group.
    pub group: String,
    /// The one topic.
    pub topic: String,
    /// Session and rebalance timeouts.
    pub timing: Timing,
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
}

/// Receives a membership's events; called on the group thread, must not block.
pub type Sink = Arc<dyn Fn(GroupEvent) + Send + Sync>;

/// Answer to a commit: each partition's error, if it has one.
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

enum Command {
    Released(Vec<i32>),
    Quiesced,
    CommitRefused(i32, ResponseError),
    Committed(Vec<i32>, oneshot::Sender<Result<BTreeMap<i32, Option<CommittedOffset>>, KafkaError>>),
    Leave(oneshot::Sender<()>),
}

pub(super) enum Event {
    CoordinatorFound(Result<(), String>),
    Joined(Result<Joined, Failure>),
    /// With how many partitions the topic had when we led the assignment.
    Synced(Result<Vec<i32>, Failure>, Option<usize>),
    HeartbeatAnswered(u64, Result<(), Failure>),
    TopicCounted(usize),
}

/// One node's membership in one mapping's group.
#[derive(Clone)]
pub struct Membership {
    commands: mpsc::Sender<Command>,
    lease: OwnershipLease,
    identity: Identity,
    settings: Arc<MembershipSettings>,
    lines: Arc<Lines>,
}

/// Generation and member id that commits go under; nothing while the member is in no generation.
type Identity = Arc<Mutex<Option<(i32, String)>>>;

type Start = Box<dyn FnOnce() + Send>;

/// The thread of all memberships.
#[derive(Clone)]
pub struct GroupThread {
    starts: mpsc::UnboundedSender<Start>,
}

impl GroupThread {
    /// Starts the thread; it ends when the last handle and the last membership are gone.
    pub fn start() -> std::io::Result<Self> {
        let (starts, mut incoming) = mpsc::unbounded_channel::<Start>();
        std::thread::Builder::new().name("lighterman-group".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            let local = LocalSet::new();
            runtime.block_on(local.run_until(async move {
                while let Some(start) = incoming.recv().await {
                    start();
                }
            }));
            runtime.block_on(local);
        })?;
        Ok(Self { starts })
    }

    /// Joins a group; events go to `sink` from now on.
    pub fn join(&self, cluster: Cluster, settings: MembershipSettings, sink: Sink) -> Membership {
        let (commands, incoming) = mpsc::channel(COMMANDS_MAX);
        let membership = Membership {
            commands,
            lease: OwnershipLease::default(),
            identity: Identity::default(),
            settings: Arc::new(settings),
            lines: Arc::new(Lines::new(cluster)),
        };
        let member = Member::new(&membership, sink);
        let start: Start = Box::new(move || {
            tokio::task::spawn_local(member.run(incoming));
        });
        let _ = self.starts.send(start);
        membership
    }
}

impl Membership {
    /// The right to start invocations.
    pub fn lease(&self) -> OwnershipLease {
        self.lease.clone()
    }

    /// These partitions are drained and committed.
    pub fn released(&self, partitions: Vec<i32>) {
        self.say(Command::Released(partitions));
    }

    /// No invocation of ours can run any more (H5).
    pub fn quiesced(&self) {
        self.say(Command::Quiesced);
    }

    /// Commits in one request, under the generation of the moment it is sent.
    pub async fn commit(&self, offsets: Vec<CommitOffset>) -> CommitReply {
        let identity = self.identity.lock().clone();
        self.commit_as(identity, offsets).await
    }

    /// Commits in one request under `generation`, and not at all when that is over: what was decided under it may be another
    /// member's by now, and the group would take it from us under the next.
    pub async fn commit_under(&self, generation: i32, offsets: Vec<CommitOffset>) -> CommitReply {
        let identity = self.identity.lock().clone().filter(|(current, _)| *current == generation);
        self.commit_as(identity, offsets).await
    }

    async fn commit_as(&self, identity: Option<(i32, String)>, offsets: Vec<CommitOffset>) -> CommitReply {
        let Some((generation, member)) = identity else {
            return Err(CommitFailure::NotAMember);
        };
        let who = CommitAs { group: self.settings.group.clone(), generation, member };
        let codes = requests::commit(&self.lines, &self.settings, &who, &offsets).await?;
        if let Some(code) = codes.values().flatten().next() {
            self.say(Command::CommitRefused(who.generation, *code));
        }
        Ok(codes)
    }

    /// What the group has committed for these partitions.
    pub async fn committed(
        &self,
        partitions: Vec<i32>,
    ) -> Result<BTreeMap<i32, Option<CommittedOffset>>, KafkaError> {
        let (reply, answer) = oneshot::channel();
        self.say(Command::Committed(partitions, reply));
        answer.await.unwrap_or_else(|_| {
            Err(KafkaError::broker(
                kafka_protocol::messages::ApiKey::OffsetFetch,
                "membership",
                ResponseError::UnknownMemberId,
            ))
        })
    }

    /// Leaves the group; everything must have been drained.
    pub async fn leave(&self) {
        let (reply, answer) = oneshot::channel();
        self.say(Command::Leave(reply));
        let _ = answer.await;
    }

    fn say(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            tracing::error!("the group thread does not keep up or has ended; a command is lost");
        }
    }
}

struct Member {
    core: GroupCore,
    settings: Arc<MembershipSettings>,
    sink: Sink,
    lease: OwnershipLease,
    identity: Identity,
    lines: Arc<Lines>,
    events: mpsc::Sender<Event>,
    incoming: mpsc::Receiver<Event>,
    counted: Option<usize>,
    next_count: Moment,
}

impl Member {
    fn new(membership: &Membership, sink: Sink) -> Self {
        let (events, incoming) = mpsc::channel(EVENTS_MAX);
        let now = clock::now();
        Self {
            core: GroupCore::new(membership.settings.timing, now),
            settings: Arc::clone(&membership.settings),
            sink,
            lease: membership.lease.clone(),
            identity: Arc::clone(&membership.identity),
            lines: Arc::clone(&membership.lines),
            events,
            incoming,
            counted: None,
            next_count: now + METADATA_AGE_MAX,
        }
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let now = clock::now();
            let effects = self.core.tick(now, random());
            self.carry_out(effects);
            self.publish_identity();
            self.count_topic(now);
            let wake = self.core.wake_at().map_or(METADATA_AGE_MAX, |at| at.since(clock::now()));
            tokio::select! {
                // Answers first: what is known before what is asked.
                biased;
                Some(event) = self.incoming.recv() => self.take(event),
                command = commands.recv() => match command {
                    Some(Command::Leave(done)) => {
                        self.leave().await;
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.obey(command),
                    None => {
                        self.leave().await;
                        return;
                    }
                },
                () = tokio::time::sleep(wake.min(METADATA_AGE_MAX)) => {}
            }
        }
    }

    fn publish_identity(&self) {
        let identity = self.core.commit_identity();
        let mut published = self.identity.lock();
        if published.as_ref().map(|(generation, member)| (*generation, member.as_str())) != identity {
            *published = identity.map(|(generation, member)| (generation, member.to_owned()));
        }
    }

    fn take(&mut self, event: Event) {
        let (now, random) = (clock::now(), random());
        let effects = match event {
            Event::CoordinatorFound(found) => self.core.coordinator_found(now, found, random),
            Event::Joined(answer) => self.core.joined(now, answer, random),
            Event::Synced(answer, assigned) => {
                // Growth is measured against what was assigned, not against what was seen first (H18).
                self.counted = assigned.or(self.counted);
                self.core.synced(now, answer, random)
            }
            Event::HeartbeatAnswered(seq, answer) => self.core.heartbeat_answered(now, seq, answer, random),
            Event::TopicCounted(partitions) => {
                let grown = self.counted.replace(partitions).is_some_and(|before| before != partitions);
                if grown { self.core.topic_changed(now) } else { Vec::new() }
            }
        };
        self.carry_out(effects);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Released(partitions) => {
                let effects = self.core.released(clock::now(), &partitions);
                self.carry_out(effects);
            }
            Command::Quiesced => self.core.quiesced(),
            Command::CommitRefused(generation, code) => {
                let effects = self.core.commit_refused(clock::now(), generation, code, random());
                self.carry_out(effects);
            }
            Command::Committed(partitions, reply) => {
                let (lines, settings) = (Arc::clone(&self.lines), Arc::clone(&self.settings));
                tokio::task::spawn_local(async move {
                    let _ = reply.send(requests::committed(&lines, &settings, &partitions).await);
                });
            }
            Command::Leave(_) => {}
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::ExtendLease(until) => self.lease.extend(until),
                Effect::EndLease => self.lease.end(),
                Effect::Assigned { generation, owned, added, .. } => {
                    metrics::counter!(crate::metrics::REBALANCES).increment(1);
                    (self.sink)(GroupEvent::Assigned { generation, owned, added });
                }
                Effect::Revoke { partitions } => (self.sink)(GroupEvent::Revoke { partitions }),
                Effect::Lost { partitions, reason } => (self.sink)(GroupEvent::Lost { partitions, reason }),
                Effect::Trouble(text) => (self.sink)(GroupEvent::Trouble(text)),
                Effect::Healthy => (self.sink)(GroupEvent::Healthy),
                request => self.request(request),
            }
        }
    }

    fn request(&self, effect: Effect) {
        let (lines, settings, events) =
            (Arc::clone(&self.lines), Arc::clone(&self.settings), self.events.clone());
        tokio::task::spawn_local(async move {
            if let Some(event) = requests::perform(&lines, &settings, effect).await {
                let _ = events.send(event).await;
            }
        });
    }

    fn count_topic(&mut self, now: Moment) {
        if !self.core.leads() || now < self.next_count {
            return;
        }
        self.next_count = now + METADATA_AGE_MAX;
        let (lines, settings, events) =
            (Arc::clone(&self.lines), Arc::clone(&self.settings), self.events.clone());
        tokio::task::spawn_local(async move {
            if let Ok(view) = lines.cluster().refresh(&settings.topic).await {
                let _ = events.send(Event::TopicCounted(view.len())).await;
            }
        });
    }

    async fn leave(&mut self) {
        let effects = self.core.leave();
        self.publish_identity();
        for effect in effects {
            match effect {
                Effect::EndLease => self.lease.end(),
                leave @ Effect::Leave { .. } => {
                    requests::perform(&self.lines, &self.settings, leave).await;
                }
                _ => {}
            }
        }
    }
}
