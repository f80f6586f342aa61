//! Actor that routes each fetch to its partition's leader and looks the leader up again when it has moved.

mod recreated;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message};
use lighterman_proto::ids::TopicPartition;
use lighterman_proto::topic_id::is_another;
use lighterman_proto::units::Moment;

use self::recreated::{LookAtTopic, answer_recreated};
use super::broker_task::{BrokerTask, SharedFetches};
use super::messages::{FetchAnswered, FetchCancelled, FetchError, FetchRequested, HighWatermarkSeen};
use super::places::{LeaderlessFetch, ReturnedWant, WantPlaces};
use super::session::FetchSession;
use super::setbacks::FetchSetbacks;
use crate::credit::memory_budget::MemoryBudget;
use crate::kafka::cluster::{KafkaCluster, PartitionLeader};
use crate::kafka::error::KafkaError;
use crate::kafka::offsets::IsolationLevel;
use crate::kafka::transport::BrokerAddress;
use crate::runtime::backoff::{Backoff, random};
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::live_count::LiveCount;
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};
use crate::runtime::owned_task::OwnedTask;
use crate::runtime::task::outcome;

const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Interval of checks whether a topic is still the same.
const WATCH: Duration = Duration::from_secs(5);

/// Settings of fetches.
#[derive(Clone, Debug, Default)]
pub struct FetchSettings {
    /// Isolation level, `read_committed` unless configured otherwise.
    pub isolation: IsolationLevel,
}

/// Observer of the cluster's reachability and throttling.
pub trait FetchStatus: Send + Sync {
    /// Called when a poll was answered.
    fn reachable(&self);
    /// Called when a broker or the whole cluster did not answer.
    fn unreachable(&self, error: &KafkaError);
    /// Called with the time for which the broker's quota allows no further poll, zero for none.
    fn throttled(&self, wait: Duration);
}

/// Broker that a task polls.
struct PolledBroker {
    shared: SharedFetches,
    _task: OwnedTask,
}

/// Next or running metadata look-up. It has a task of its own, because a timer of the actor would keep the actor
/// alive.
struct LookUp {
    at: Moment,
    _task: OwnedTask,
}

/// Actor that routes fetches, one for each mapping on each data arbiter. It stops with its last address, and its
/// tasks stop with it.
pub struct FetchRouter {
    cluster: KafkaCluster,
    budget: MemoryBudget,
    settings: FetchSettings,
    status: Arc<dyn FetchStatus>,
    brokers: HashMap<BrokerAddress, PolledBroker>,
    places: WantPlaces<FetchRequested>,
    look_up: Option<LookUp>,
    /// Running query whether the topic is still the same.
    asking: Option<OwnedTask>,
    beat: Option<OwnedTask>,
    /// Backoff of failed look-ups.
    backoff: Backoff,
    setbacks: FetchSetbacks,
    _watch: DeathWatch,
}

/// Fetches whose broker is gone or has stopped leading their partition.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LeaderMoved(pub Vec<ReturnedWant<FetchRequested>>);

/// Result of a look-up, `None` if it panicked.
#[derive(Message)]
#[rtype(result = "()")]
struct LookedUp(Option<Result<(), KafkaError>>);

/// Notice that the task of a broker has panicked.
#[derive(Message)]
#[rtype(result = "()")]
struct PollDied(BrokerAddress);

impl FetchRouter {
    /// Creates a router without connections.
    pub fn new(
        cluster: KafkaCluster,
        budget: MemoryBudget,
        settings: FetchSettings,
        status: Arc<dyn FetchStatus>,
        watch: DeathWatch,
    ) -> Self {
        Self {
            cluster,
            budget,
            settings,
            status,
            brokers: HashMap::new(),
            places: WantPlaces::default(),
            look_up: None,
            asking: None,
            beat: None,
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_MAX),
            setbacks: FetchSetbacks::default(),
            _watch: watch,
        }
    }

    fn place(&mut self, want: FetchRequested, ctx: &mut Context<Self>) {
        match self.cluster.leader(&want.partition.topic, want.partition.partition) {
            Some(leader) if is_another(want.topic, leader.topic) => {
                self.unplace(&want.partition);
                answer_recreated(&want);
            }
            Some(leader) => self.put(want, None, leader, ctx),
            None => {
                self.unplace(&want.partition);
                let homeless = LeaderlessFetch { rests_since: None, since: clock::now(), want };
                self.places.keep(homeless.want.partition.clone(), homeless);
                self.look_up(Duration::ZERO, ctx);
            }
        }
    }

    fn put(
        &mut self,
        want: FetchRequested,
        rests_since: Option<Moment>,
        leader: PartitionLeader,
        ctx: &mut Context<Self>,
    ) {
        let partition = want.partition.clone();
        // A partition that stays at its broker keeps the moment at which its log end was last known.
        if self.places.broker_of(&partition).is_some_and(|broker| *broker != leader.address) {
            self.unplace(&partition);
        }
        let shared = self.fetches(&leader.address, ctx);
        let want = self.places.put_down(partition.clone(), leader.address, want, rests_since);
        let mut fetches = shared.fetches.borrow_mut();
        match rests_since {
            None => fetches.put(partition, want, leader.epoch, clock::now()),
            Some(since) => fetches.rest(partition, want, since),
        }
        drop(fetches);
        shared.changed.notify_one();
    }

    fn unplace(&mut self, partition: &TopicPartition) {
        if let Some(broker) = self.places.forget(partition).and_then(|address| self.brokers.get(&address)) {
            broker.shared.fetches.borrow_mut().forget(partition);
        }
    }

    fn fetches(&mut self, address: &BrokerAddress, ctx: &mut Context<Self>) -> SharedFetches {
        if let Some(broker) = self.brokers.get(address) {
            return broker.shared.clone();
        }
        let shared = SharedFetches::default();
        let task = BrokerTask {
            cluster: self.cluster.clone(),
            address: address.clone(),
            budget: self.budget.clone(),
            settings: self.settings.clone(),
            shared: shared.clone(),
            router: ctx.address().downgrade(),
            status: Arc::clone(&self.status),
            session: FetchSession::default(),
            _count: LiveCount::of_task("fetch"),
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_MAX),
        };
        let (me, broker) = (ctx.address().downgrade(), address.clone());
        let polls = async move {
            let ended = outcome("poll of a broker", task.run()).await;
            if let Some(me) = me.upgrade().filter(|_| ended.is_none()) {
                me.do_send(PollDied(broker));
            }
        };
        let broker = PolledBroker { shared: shared.clone(), _task: OwnedTask::spawn(polls) };
        self.brokers.insert(address.clone(), broker);
        shared
    }

    fn look_up(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        let first = self.places.leaderless().next();
        let Some(topic) = first.map(|(partition, _)| Arc::clone(&partition.topic)) else {
            return;
        };
        let at = clock::now() + wait;
        // A running look-up was due in the past, so this holds for it too.
        if self.look_up.as_ref().is_some_and(|earlier| earlier.at <= at) {
            return;
        }
        let (cluster, me) = (self.cluster.clone(), ctx.address().downgrade());
        let task = OwnedTask::spawn(async move {
            tokio::time::sleep(wait).await;
            let found = outcome("look-up of leaders", cluster.refresh(&topic)).await;
            if let Some(me) = me.upgrade() {
                me.do_send(LookedUp(found.map(|found| found.map(|_| ()))));
            }
        });
        self.look_up = Some(LookUp { at, _task: task });
    }

    /// Stops polling brokers that have left the cluster or changed their address, once they have no fetches.
    fn let_go_of_strangers(&mut self) {
        let known = self.cluster.brokers();
        self.brokers.retain(|address, broker| {
            known.contains(address) || !broker.shared.fetches.borrow().is_deserted()
        });
    }

    fn is_due(&self, partition: &TopicPartition) -> bool {
        self.setbacks.wait(partition, clock::now()).is_zero()
    }

    /// Returns the time until the first leaderless partition is due.
    fn shortest_wait(&self) -> Duration {
        let now = clock::now();
        let waits = self.places.leaderless().map(|(partition, _)| self.setbacks.wait(partition, now));
        waits.min().unwrap_or_default()
    }

    fn place_leaderless(&mut self, ctx: &mut Context<Self>) {
        for (partition, homeless) in self.places.take_leaderless() {
            // If a topic was recreated with fewer partitions, a removed partition never has a leader again.
            if is_another(homeless.want.topic, self.cluster.topic_id(&partition.topic)) {
                tell(&homeless, FetchError::Recreated);
                continue;
            }
            let is_due = self.is_due(&partition);
            match self.cluster.leader(&partition.topic, partition.partition) {
                Some(leader) if is_due => self.put(homeless.want, homeless.rests_since, leader, ctx),
                _ => self.places.keep(partition, homeless),
            }
        }
    }

    fn give_up(&mut self, text: &str) {
        for homeless in self.places.take_leaderless().into_values() {
            tell(&homeless, FetchError::Gone(text.to_owned()));
        }
    }

    /// Reports unknown log ends for partitions that no broker has served for a while.
    fn tell_unknown_ends(&self) {
        let now = clock::now();
        let unserved = self.places.leaderless().filter(|(_, homeless)| now.since(homeless.since) >= WATCH);
        unserved.for_each(|(_, homeless)| tell_unknown_end(&homeless.want));
    }
}

/// Answers a fetch with an error. A paused partition expects no answer, so its log end is reported as unknown.
fn tell(homeless: &LeaderlessFetch<FetchRequested>, trouble: FetchError) {
    let want = &homeless.want;
    if homeless.rests_since.is_some() {
        return tell_unknown_end(want);
    }
    let (epoch, position) = (want.epoch, want.position);
    let _ = post(&want.reply, FetchAnswered { epoch, position, outcome: Err(trouble) });
}

fn tell_unknown_end(want: &FetchRequested) {
    let _ = post(&want.watermarks, HighWatermarkSeen { epoch: want.epoch, high_watermark: None });
}

impl Actor for FetchRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        // An interval of the context would keep the actor alive.
        let me = ctx.address().downgrade();
        self.beat = Some(OwnedTask::spawn(async move {
            loop {
                tokio::time::sleep(WATCH).await;
                let Some(me) = me.upgrade() else { return };
                me.do_send(LookAtTopic);
            }
        }));
    }
}

impl Handler<FetchRequested> for FetchRouter {
    type Result = ();

    fn handle(&mut self, want: FetchRequested, ctx: &mut Self::Context) {
        self.setbacks.forget(&want.partition);
        self.place(want, ctx);
    }
}

impl Handler<FetchCancelled> for FetchRouter {
    type Result = ();

    fn handle(&mut self, forget: FetchCancelled, _: &mut Self::Context) {
        let FetchCancelled { partition, pauses } = forget;
        if !pauses {
            self.setbacks.forget(&partition);
            return self.unplace(&partition);
        }
        let now = clock::now();
        let at = self.places.pause(&partition, now);
        if let Some(broker) = at.and_then(|address| self.brokers.get(address)) {
            broker.shared.fetches.borrow_mut().pause(&partition, now);
            broker.shared.changed.notify_one();
        }
    }
}

impl Handler<LeaderMoved> for FetchRouter {
    type Result = ();

    fn handle(&mut self, LeaderMoved(wants): LeaderMoved, ctx: &mut Self::Context) {
        let now = clock::now();
        for returned in wants {
            let partition = returned.want.want.partition.clone();
            // A fetch that was replaced or forgotten meanwhile is dropped.
            if let Some(homeless) = self.places.take_back(partition.clone(), returned, now) {
                homeless.since = self.setbacks.met(&partition, now, random());
            }
        }
        self.look_up(self.shortest_wait(), ctx);
    }
}

impl Handler<PollDied> for FetchRouter {
    type Result = ();

    fn handle(&mut self, PollDied(broker): PollDied, ctx: &mut Self::Context) {
        if let Some(polled) = self.brokers.remove(&broker) {
            self.handle(LeaderMoved(polled.shared.take_all()), ctx);
        }
    }
}

impl Handler<LookedUp> for FetchRouter {
    type Result = ();

    fn handle(&mut self, LookedUp(result): LookedUp, ctx: &mut Self::Context) {
        self.look_up = None;
        match result {
            None => {}
            Some(Ok(())) => {
                self.settle_outdated();
                self.place_leaderless(ctx);
                self.let_go_of_strangers();
                // A partition that is due and still here has no leader.
                if !self.places.leaderless().any(|(partition, _)| self.is_due(partition)) {
                    self.backoff.reset();
                    self.look_up(self.shortest_wait(), ctx);
                    return;
                }
            }
            Some(Err(error @ KafkaError::NoTopic { .. })) => self.give_up(&error.to_string()),
            Some(Err(error)) => self.status.unreachable(&error),
        }
        if self.places.leaderless().next().is_some() {
            let wait = self.backoff.next(random());
            self.look_up(wait, ctx);
        }
    }
}
