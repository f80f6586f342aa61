//! The member's shell, on the thread of the memberships: carries out what its state machine asks for, and brings it the answers.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;
use tokio::sync::mpsc;

use super::commands::{Command, CommandReceiver};
use super::commits;
use super::effects::{Effect, Identity};
use super::lease::OwnershipLease;
use super::leave::leave_for_good;
use super::lines::Lines;
use super::member::{Event, MemberCore};
use super::membership::{GroupEvent, Membership, MembershipSettings, Published, Sink, commit_as};
use super::requests;
use crate::kafka::backoff::random;
use crate::kafka::error::KafkaError;
use crate::runtime::clock;
use crate::runtime::task::outcome;

/// How often a leader looks whether the topic has grown (H18).
const METADATA_AGE_MAX: Duration = Duration::from_secs(30);
/// How often, while the topic is not there.
const LOOK_SOON: Duration = Duration::from_secs(3);

/// What comes back to the member.
pub(super) enum Incoming {
    /// The answer to a request.
    Answer(Event),
    /// The answer to the shares that we handed out, and how many partitions the topic had then.
    Assigned(Event, Option<usize>),
    /// How many partitions the topic has.
    TopicCounted(usize),
    /// What is committed was not told to whoever we were then.
    CommittedRefused(Identity, ResponseError),
    /// A request ended by a panic: its answer does not come.
    RequestDied,
}

/// Says that a member has ended, unless it has left: whatever ended it, nothing of it holds then.
struct EndNotice {
    sink: Sink,
    lease: OwnershipLease,
    published: Published,
    has_left: bool,
}

impl Drop for EndNotice {
    fn drop(&mut self) {
        self.lease.end();
        *self.published.lock() = None;
        if !self.has_left {
            (self.sink)(GroupEvent::Ended);
        }
    }
}

pub(super) struct Member {
    core: MemberCore,
    settings: Arc<MembershipSettings>,
    sink: Sink,
    lease: OwnershipLease,
    published: Published,
    lines: Arc<Lines>,
    /// No limit: the core has one request of a kind out at a time, and each is answered once.
    events: mpsc::UnboundedSender<Incoming>,
    incoming: mpsc::UnboundedReceiver<Incoming>,
    end: EndNotice,
    counted: Option<usize>,
    next_count: Moment,
}

impl Member {
    pub(super) fn new(membership: &Membership, sink: Sink) -> Self {
        let (events, incoming) = mpsc::unbounded_channel();
        let now = clock::now();
        let MembershipSettings { protocol, timing, .. } = *membership.settings;
        Self {
            core: MemberCore::new(protocol, timing, uuid::Uuid::new_v4().to_string(), now),
            settings: Arc::clone(&membership.settings),
            end: EndNotice {
                sink: Arc::clone(&sink),
                lease: membership.lease.clone(),
                published: Arc::clone(&membership.published),
                has_left: false,
            },
            sink,
            lease: membership.lease.clone(),
            published: Arc::clone(&membership.published),
            lines: Arc::clone(&membership.lines),
            events,
            incoming,
            counted: None,
            next_count: now + LOOK_SOON,
        }
    }

    pub(super) async fn run(mut self, mut commands: CommandReceiver) {
        loop {
            let now = clock::now();
            self.core.set_rebalance_timeout(now, self.settings.rebalance.get());
            let effects = self.core.tick(now, random());
            self.carry_out(effects);
            self.count_topic(now);
            let wake = self.core.wake_at().map_or(METADATA_AGE_MAX, |at| at.since(clock::now()));
            tokio::select! {
                // Answers first: what is known before what is asked.
                biased;
                Some(event) = self.incoming.recv() => match event {
                    Incoming::RequestDied => return,
                    event => self.take(event),
                },
                command = commands.next() => match command {
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

    fn publish(&self) {
        *self.published.lock() = self.core.standing();
    }

    fn take(&mut self, incoming: Incoming) {
        let (now, random) = (clock::now(), random());
        let effects = match incoming {
            Incoming::Answer(event) => self.core.take(now, event, random),
            Incoming::Assigned(event, counted) => {
                // Growth is measured against what was assigned, not against what was seen first (H18).
                self.counted = counted.or(self.counted);
                self.core.take(now, event, random)
            }
            Incoming::TopicCounted(partitions) => {
                let grown = self.counted.replace(partitions).is_some_and(|before| before != partitions);
                if grown { self.core.topic_changed(now) } else { Vec::new() }
            }
            Incoming::CommittedRefused(who, code) => self.core.commit_refused(now, &who, code, random),
            Incoming::RequestDied => Vec::new(),
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
            Command::StartOver(generation) => {
                let effects = self.core.start_over(clock::now(), generation);
                self.carry_out(effects);
            }
            Command::CommitsRefused(refusals) => {
                for (who, code) in refusals {
                    let effects = self.core.commit_refused(clock::now(), &who, code, random());
                    self.carry_out(effects);
                }
            }
            Command::Committed(standing, partitions, reply) => {
                let (lines, settings, events) =
                    (Arc::clone(&self.lines), Arc::clone(&self.settings), self.events.clone());
                tokio::task::spawn_local(async move {
                    let who = commit_as(&settings, &standing);
                    let answer = commits::committed(&lines, &settings, &who, &partitions).await;
                    if let Some(code) = answer.as_ref().err().and_then(KafkaError::code) {
                        let _ = events.send(Incoming::CommittedRefused(standing.identity(), code));
                    }
                    let _ = reply.send(answer);
                });
            }
            Command::Leave(_) => {}
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        // Who hears that a partition is ours, or is not any more, must find it so.
        self.publish();
        for effect in effects {
            match effect {
                Effect::ExtendLease(until) => self.lease.extend(until),
                Effect::EndLease => self.lease.end(),
                Effect::Assigned { generation, owned, added, .. } => {
                    metrics::counter!(crate::metrics::REBALANCES).increment(1);
                    tracing::debug!(group = self.settings.group, generation, "the group has given a share");
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
            let answer = outcome("request of the group", requests::perform(&lines, &settings, effect)).await;
            if let Some(answer) = answer.unwrap_or(Some(Incoming::RequestDied)) {
                let _ = events.send(answer);
            }
        });
    }

    fn count_topic(&mut self, now: Moment) {
        if !self.core.leads() || now < self.next_count {
            return;
        }
        let is_there = self.counted.is_some_and(|partitions| partitions > 0);
        self.next_count = now + if is_there { METADATA_AGE_MAX } else { LOOK_SOON };
        let (lines, settings, events) =
            (Arc::clone(&self.lines), Arc::clone(&self.settings), self.events.clone());
        tokio::task::spawn_local(async move {
            if let Ok(view) = lines.cluster().refresh(&settings.topic).await {
                let _ = events.send(Incoming::TopicCounted(view.partitions.len()));
            }
        });
    }

    async fn leave(&mut self) {
        self.end.has_left = true;
        let effects = self.core.leave();
        self.publish();
        for effect in effects {
            match effect {
                Effect::EndLease => self.lease.end(),
                Effect::Leave { member } => leave_for_good(&self.lines, &self.settings, &member).await,
                _ => {}
            }
        }
    }
}
