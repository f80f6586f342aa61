//! Brings each want to the desk of its partition's leader, and finds the leader again when it has moved.

mod recreated;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message};
use lighterman_proto::ids::TopicPartition;
use lighterman_proto::topic_id::is_another;
use lighterman_proto::units::Moment;

use self::recreated::{LookAtTopic, answer_recreated};
use super::broker_task::{BrokerTask, SharedDesk};
use super::messages::{FetchAnswered, FetchCancelled, FetchError, FetchRequested, HighWatermarkSeen};
use super::places::{HomelessWant, ReturnedWant, WantPlaces};
use super::session::FetchSession;
use super::setbacks::FetchSetbacks;
use crate::credit::memory::MemoryBudget;
use crate::kafka::backoff::{Backoff, random};
use crate::kafka::cluster::{KafkaCluster, PartitionLeader};
use crate::kafka::error::KafkaError;
use crate::kafka::offsets::IsolationLevel;
use crate::kafka::transport::BrokerAddress;
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::live_count::LiveCount;
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};
use crate::runtime::owned_task::OwnedTask;
use crate::runtime::task::outcome;

const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often to look whether a topic is still the same.
const WATCH: Duration = Duration::from_secs(5);

/// How to fetch.
#[derive(Clone, Debug, Default)]
pub struct FetchSettings {
    /// `read_committed` unless the user says otherwise.
    pub isolation: IsolationLevel,
}

/// Who is told how it goes.
pub trait FetchStatus: Send + Sync {
    /// A poll was answered.
    fn reachable(&self);
    /// A broker, or the whole cluster, did not answer.
    fn unreachable(&self, error: &KafkaError);
    /// For so long the broker's quota wants no further poll; zero for none.
    fn throttled(&self, wait: Duration);
}

/// A broker that is polled for us.
struct PolledBroker {
    shared: SharedDesk,
    _task: OwnedTask,
}

/// The next look-up, or the one under way. A timer of the actor would keep it alive: the task has its own.
struct LookUp {
    at: Moment,
    _task: OwnedTask,
}

/// The actor; one for each mapping on each data arbiter. It ends with the last address of it, and the tasks with it.
pub struct FetchRouter {
    cluster: KafkaCluster,
    budget: MemoryBudget,
    settings: FetchSettings,
    status: Arc<dyn FetchStatus>,
    brokers: HashMap<BrokerAddress, PolledBroker>,
    places: WantPlaces<FetchRequested>,
    look_up: Option<LookUp>,
    /// Asks whether the topic is still the same.
    asking: Option<OwnedTask>,
    beat: Option<OwnedTask>,
    /// Of look-ups that fail.
    backoff: Backoff,
    setbacks: FetchSetbacks,
    _watch: DeathWatch,
}

/// Wants whose broker does not lead their partition any more, or is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LeaderMoved(pub Vec<ReturnedWant<FetchRequested>>);

/// Nothing of a look-up that panicked.
#[derive(Message)]
#[rtype(result = "()")]
struct LookedUp(Option<Result<(), KafkaError>>);

/// The task of a broker has panicked.
#[derive(Message)]
#[rtype(result = "()")]
struct PollDied(BrokerAddress);

impl FetchRouter {
    /// A router that has not dialled anybody.
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
                let homeless = HomelessWant { rests_since: None, since: clock::now(), want };
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
        // When the partition's log end was last told stays known where its desk stays the same.
        if self.places.broker_of(&partition).is_some_and(|broker| *broker != leader.address) {
            self.unplace(&partition);
        }
        let shared = self.desk(&leader.address, ctx);
        let want = self.places.put_down(partition.clone(), leader.address, want, rests_since);
        let mut desk = shared.desk.borrow_mut();
        match rests_since {
            None => desk.put(partition, want, leader.epoch, clock::now()),
            Some(since) => desk.rest(partition, want, since),
        }
        drop(desk);
        shared.changed.notify_one();
    }

    fn unplace(&mut self, partition: &TopicPartition) {
        if let Some(broker) = self.places.forget(partition).and_then(|address| self.brokers.get(&address)) {
            broker.shared.desk.borrow_mut().forget(partition);
        }
    }

    fn desk(&mut self, address: &BrokerAddress, ctx: &mut Context<Self>) -> SharedDesk {
        if let Some(broker) = self.brokers.get(address) {
            return broker.shared.clone();
        }
        let shared = SharedDesk::default();
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
        // One under way was due before now.
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

    /// A broker that has left the cluster, or has another address now, is polled no more.
    fn let_go_of_strangers(&mut self) {
        let known = self.cluster.brokers();
        self.brokers
            .retain(|address, broker| known.contains(address) || !broker.shared.desk.borrow().is_deserted());
    }

    fn is_due(&self, partition: &TopicPartition) -> bool {
        self.setbacks.wait(partition, clock::now()).is_zero()
    }

    /// How long nobody is to be looked for.
    fn shortest_wait(&self) -> Duration {
        let now = clock::now();
        let waits = self.places.leaderless().map(|(partition, _)| self.setbacks.wait(partition, now));
        waits.min().unwrap_or_default()
    }

    fn place_leaderless(&mut self, ctx: &mut Context<Self>) {
        for (partition, homeless) in self.places.take_homeless() {
            // Of a topic with fewer partitions than before one may have no leader for ever.
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
        for homeless in self.places.take_homeless().into_values() {
            tell(&homeless, FetchError::Gone(text.to_owned()));
        }
    }

    /// Of partitions that no broker has served for a while it is not known any more where their logs end.
    fn tell_unknown_ends(&self) {
        let now = clock::now();
        let unserved = self.places.leaderless().filter(|(_, homeless)| now.since(homeless.since) >= WATCH);
        unserved.for_each(|(_, homeless)| tell_unknown_end(&homeless.want));
    }
}

/// Answers a want; a partition that has no room waits for no answer.
fn tell(homeless: &HomelessWant<FetchRequested>, trouble: FetchError) {
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
            broker.shared.desk.borrow_mut().pause(&partition, now);
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
            // A want that was replaced or forgotten meanwhile is not brought back.
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
                // Whoever is due and still here has no leader.
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
