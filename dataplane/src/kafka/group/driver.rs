//! Driver of a member on the group thread: carries out the effects of its state machine and passes responses back to
//! it.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;
use tokio::sync::{mpsc, oneshot};

use super::client::CoordinatorClient;
use super::commands::{CommandReceiver, GroupCommand};
use super::effects::{GroupEffect, MemberIdentity};
use super::member::{GroupMember, MemberEvent, MembershipView};
use super::membership_handle::{CommittedReply, EventSink, Membership, MembershipSettings, SharedView};
use super::ownership_lease::OwnershipLease;
use crate::kafka::error::KafkaError;
use crate::kafka::group::effects::GroupEvent;
use crate::runtime::backoff::random;
use crate::runtime::clock;
use crate::runtime::task::outcome;

/// Interval at which a leader checks whether the topic has grown (H18).
const METADATA_AGE_MAX: Duration = Duration::from_secs(30);
/// Interval of that check while the topic does not exist.
const LOOK_SOON: Duration = Duration::from_secs(3);

/// Result that a task of the driver sends back to it.
pub(super) enum DriverInput {
    /// Response to a request.
    Response(MemberEvent),
    /// Response to the leader's assignment, and the partition count of the topic that it was based on.
    Assigned(MemberEvent, Option<usize>),
    /// Partition count of the topic.
    TopicCounted(usize),
    /// Rejection of a committed-offset look-up, with the identity that it was sent under.
    CommittedRefused(MemberIdentity, ResponseError),
    /// Panic of a request task: its response never arrives.
    RequestDied,
}

/// Drop guard of a member: whatever ends it, its lease ends and its identity is withdrawn. Unless the member has
/// left, the guard reports [`GroupEvent::Ended`].
struct EndNotice {
    sink: EventSink,
    lease: OwnershipLease,
    published: SharedView,
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

pub(super) struct MemberDriver {
    core: GroupMember,
    settings: Arc<MembershipSettings>,
    sink: EventSink,
    lease: OwnershipLease,
    published: SharedView,
    client: Arc<CoordinatorClient>,
    /// Unbounded: the state machine has one request of a kind in flight, and each has one response.
    events: mpsc::UnboundedSender<DriverInput>,
    incoming: mpsc::UnboundedReceiver<DriverInput>,
    end: EndNotice,
    counted: Option<usize>,
    next_count: Moment,
}

impl MemberDriver {
    pub(super) fn new(membership: &Membership, sink: EventSink) -> Self {
        let (events, incoming) = mpsc::unbounded_channel();
        let now = clock::now();
        let MembershipSettings { protocol, timing, .. } = *membership.settings;
        Self {
            core: GroupMember::new(protocol, timing, uuid::Uuid::new_v4().to_string(), now),
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
            client: Arc::clone(&membership.client),
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
            let effects = self.core.tick(now);
            self.apply_effects(effects);
            self.count_topic(now);
            let wake = self.core.wake_at().map_or(METADATA_AGE_MAX, |at| at.since(clock::now()));
            tokio::select! {
                // Responses first: a command is handled after everything already known.
                biased;
                Some(event) = self.incoming.recv() => match event {
                    DriverInput::RequestDied => return,
                    event => self.on_input(event),
                },
                command = commands.next() => match command {
                    Some(GroupCommand::Leave(done)) => {
                        self.leave().await;
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.on_command(command),
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

    fn on_input(&mut self, input: DriverInput) {
        let (now, random) = (clock::now(), random());
        let effects = match input {
            DriverInput::Response(event) => self.core.take(now, event, random),
            DriverInput::Assigned(event, counted) => {
                // Growth is measured against the assigned partition count, not against the first one seen (H18).
                self.counted = counted.or(self.counted);
                self.core.take(now, event, random)
            }
            DriverInput::TopicCounted(partitions) => {
                let grown = self.counted.replace(partitions).is_some_and(|before| before != partitions);
                if grown { self.core.topic_changed(now) } else { Vec::new() }
            }
            DriverInput::CommittedRefused(who, code) => self.core.commit_refused(now, &who, code, random),
            DriverInput::RequestDied => Vec::new(),
        };
        self.apply_effects(effects);
    }

    fn on_command(&mut self, command: GroupCommand) {
        match command {
            GroupCommand::Released(partitions) => {
                let effects = self.core.released(clock::now(), &partitions);
                self.apply_effects(effects);
            }
            GroupCommand::AllInvocationsEnded => self.core.all_invocations_ended(),
            GroupCommand::ForceRejoin(generation) => {
                let effects = self.core.force_rejoin(clock::now(), generation);
                self.apply_effects(effects);
            }
            GroupCommand::CommitsRefused(refusals) => {
                for (who, code) in refusals {
                    let effects = self.core.commit_refused(clock::now(), &who, code, random());
                    self.apply_effects(effects);
                }
            }
            GroupCommand::FetchCommitted(view, partitions, reply) => {
                self.fetch_committed(view, partitions, reply);
            }
            GroupCommand::Leave(_) => {}
        }
    }

    fn fetch_committed(
        &self,
        view: MembershipView,
        partitions: Vec<i32>,
        reply: oneshot::Sender<CommittedReply>,
    ) {
        let (client, events) = (Arc::clone(&self.client), self.events.clone());
        tokio::task::spawn_local(async move {
            let response = client.committed(&client.commit_identity(&view), &partitions).await;
            if let Some(code) = response.as_ref().err().and_then(KafkaError::code) {
                let _ = events.send(DriverInput::CommittedRefused(view.identity(), code));
            }
            let _ = reply.send(response);
        });
    }

    fn apply_effects(&mut self, effects: Vec<GroupEffect>) {
        // Publish before notifying: a listener must already see the new assignment.
        self.publish();
        for effect in effects {
            match effect {
                GroupEffect::ExtendLease(until) => self.lease.extend(until),
                GroupEffect::EndLease => self.lease.end(),
                GroupEffect::Notify(event) => {
                    if let GroupEvent::Assigned { generation, .. } = &event {
                        metrics::counter!(crate::metrics::REBALANCES).increment(1);
                        tracing::debug!(
                            group = self.settings.group,
                            generation,
                            "the group has given a share"
                        );
                    }
                    (self.sink)(event);
                }
                request => self.request(request),
            }
        }
    }

    fn request(&self, effect: GroupEffect) {
        let (client, events) = (Arc::clone(&self.client), self.events.clone());
        tokio::task::spawn_local(async move {
            let response = outcome("request of the group", client.perform(effect)).await;
            if let Some(response) = response.unwrap_or(Some(DriverInput::RequestDied)) {
                let _ = events.send(response);
            }
        });
    }

    fn count_topic(&mut self, now: Moment) {
        if !self.core.leads() || now < self.next_count {
            return;
        }
        let is_there = self.counted.is_some_and(|partitions| partitions > 0);
        self.next_count = now + if is_there { METADATA_AGE_MAX } else { LOOK_SOON };
        let (client, settings, events) =
            (Arc::clone(&self.client), Arc::clone(&self.settings), self.events.clone());
        tokio::task::spawn_local(async move {
            if let Ok(view) = client.cluster().refresh(&settings.topic).await {
                let _ = events.send(DriverInput::TopicCounted(view.partitions.len()));
            }
        });
    }

    async fn leave(&mut self) {
        self.end.has_left = true;
        let effects = self.core.leave();
        self.publish();
        for effect in effects {
            match effect {
                GroupEffect::EndLease => self.lease.end(),
                GroupEffect::Leave { member } => {
                    self.client.leave_with_retries(&member).await;
                }
                _ => {}
            }
        }
    }
}
