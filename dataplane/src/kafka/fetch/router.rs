//! Brings each want to the desk of its partition's leader, and finds the leader again when it has moved.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message};
use lighterman_proto::ids::TopicPartition;
use lighterman_proto::topic_id::is_another;

use super::broker_task::{BrokerTask, SharedDesk};
use super::messages::{FetchTrouble, Fetched, Forget, Want};
use super::session::Session;
use crate::credit::bytes::ByteBudget;
use crate::kafka::backoff::{Backoff, random};
use crate::kafka::cluster::{Cluster, Leader};
use crate::kafka::error::KafkaError;
use crate::kafka::offsets::Isolation;
use crate::kafka::transport::BrokerAddress;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};

const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often to look whether a topic is still the same.
const WATCH: Duration = Duration::from_secs(5);
/// How often to ask for it, where its brokers do not say so themselves.
const ASK_AFTER: Duration = Duration::from_secs(30);

/// How to fetch.
#[derive(Clone, Debug, Default)]
pub struct FetchSettings {
    /// `read_committed` unless the user says otherwise.
    pub isolation: Isolation,
}

/// Who is told how it goes.
pub trait FetchStatus: Send + Sync {
    /// A poll was answered.
    fn reachable(&self);
    /// A broker, or the whole cluster, did not answer.
    fn unreachable(&self, error: &KafkaError);
}

/// The actor; one for each mapping on each data arbiter.
pub struct FetchRouter {
    cluster: Cluster,
    budget: ByteBudget,
    settings: FetchSettings,
    status: Arc<dyn FetchStatus>,
    desks: HashMap<BrokerAddress, SharedDesk>,
    /// Where each partition's want lies, or lay last.
    placed: HashMap<TopicPartition, BrokerAddress>,
    homeless: HashMap<TopicPartition, Want>,
    looking: bool,
    watching: bool,
    backoff: Backoff,
    _watch: DeathWatch,
}

/// Wants whose broker does not lead their partition any more, or is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Misplaced(pub Vec<Want>);

#[derive(Message)]
#[rtype(result = "()")]
struct LookedUp(Result<(), KafkaError>);

#[derive(Message)]
#[rtype(result = "()")]
struct Watched;

fn answer_recreated(want: &Want) {
    let (epoch, position) = (want.epoch, want.position);
    let _ = post(&want.reply, Fetched { epoch, position, outcome: Err(FetchTrouble::Recreated) });
}

impl FetchRouter {
    /// A router that has not dialled anybody.
    pub fn new(
        cluster: Cluster,
        budget: ByteBudget,
        settings: FetchSettings,
        status: Arc<dyn FetchStatus>,
        watch: DeathWatch,
    ) -> Self {
        Self {
            cluster,
            budget,
            settings,
            status,
            desks: HashMap::new(),
            placed: HashMap::new(),
            homeless: HashMap::new(),
            looking: false,
            watching: false,
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_MAX),
            _watch: watch,
        }
    }

    fn place(&mut self, want: Want, ctx: &mut Context<Self>) {
        match self.cluster.leader(&want.partition.topic, want.partition.partition) {
            Some(leader) if is_another(want.topic, leader.topic) => answer_recreated(&want),
            Some(leader) => self.put(want, leader, ctx),
            None => {
                self.homeless.insert(want.partition.clone(), want);
                self.look_up(Duration::ZERO, ctx);
            }
        }
    }

    fn put(&mut self, want: Want, leader: Leader, ctx: &mut Context<Self>) {
        self.unplace(&want.partition);
        let partition = want.partition.clone();
        let shared = self.desk(&leader.address, ctx);
        shared.desk.borrow_mut().put(partition.clone(), want, leader.epoch);
        shared.changed.notify_one();
        self.placed.insert(partition, leader.address);
    }

    fn unplace(&mut self, partition: &TopicPartition) {
        if let Some(desk) = self.placed.remove(partition).and_then(|address| self.desks.get(&address)) {
            desk.desk.borrow_mut().forget(partition);
        }
    }

    fn desk(&mut self, address: &BrokerAddress, ctx: &mut Context<Self>) -> SharedDesk {
        if let Some(desk) = self.desks.get(address) {
            return desk.clone();
        }
        let shared = SharedDesk::default();
        let task = BrokerTask {
            cluster: self.cluster.clone(),
            address: address.clone(),
            budget: self.budget.clone(),
            settings: self.settings.clone(),
            shared: shared.clone(),
            router: ctx.address(),
            status: Arc::clone(&self.status),
            session: Session::default(),
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_MAX),
        };
        actix_rt::spawn(task.run());
        self.desks.insert(address.clone(), shared.clone());
        shared
    }

    fn look_up(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        let Some(topic) = self.homeless.keys().next().map(|partition| Arc::clone(&partition.topic)) else {
            return;
        };
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (cluster, me) = (self.cluster.clone(), ctx.address());
        actix_rt::spawn(async move {
            tokio::time::sleep(wait).await;
            let found = cluster.refresh(&topic).await;
            me.do_send(LookedUp(found.map(|_| ())));
        });
    }

    fn settle_homeless(&mut self, ctx: &mut Context<Self>) {
        for want in std::mem::take(&mut self.homeless).into_values() {
            // Of a topic with fewer partitions than before one may have no leader for ever.
            if is_another(want.topic, self.cluster.topic_id(&want.partition.topic)) {
                answer_recreated(&want);
                continue;
            }
            match self.cluster.leader(&want.partition.topic, want.partition.partition) {
                Some(leader) => self.put(want, leader, ctx),
                None => {
                    self.homeless.insert(want.partition.clone(), want);
                }
            }
        }
    }

    /// What lies on desks and is of a topic that was deleted since is answered: a broker that takes topics by their names would
    /// read the new one for it.
    fn settle_outdated(&mut self) {
        let topics: BTreeSet<Arc<str>> = self.placed.keys().map(|placed| Arc::clone(&placed.topic)).collect();
        for topic in topics {
            let now = self.cluster.topic_id(&topic);
            for shared in self.desks.values() {
                for want in shared.desk.borrow_mut().take_outdated(&topic, now) {
                    self.placed.remove(&want.partition);
                    answer_recreated(&want);
                }
            }
        }
    }

    /// Brokers that take topics by their names do not say that one was made anew: metadata does.
    fn watch(&mut self, ctx: &mut Context<Self>) {
        self.settle_outdated();
        let by_names = self.desks.values().any(|shared| shared.by_names.get());
        let Some(topic) =
            self.placed.keys().next().filter(|_| by_names).map(|placed| Arc::clone(&placed.topic))
        else {
            return;
        };
        if std::mem::replace(&mut self.watching, true) {
            return;
        }
        let (cluster, me) = (self.cluster.clone(), ctx.address());
        actix_rt::spawn(async move {
            // Whether it succeeds shows in what is known then.
            let _ = cluster.topic(&topic, ASK_AFTER).await;
            me.do_send(Watched);
        });
    }

    fn give_up(&mut self, text: &str) {
        for want in std::mem::take(&mut self.homeless).into_values() {
            let outcome = Err(FetchTrouble::Gone(text.to_owned()));
            let _ = post(&want.reply, Fetched { epoch: want.epoch, position: want.position, outcome });
        }
    }
}

impl Actor for FetchRouter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        ctx.run_interval(WATCH, Self::watch);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        for shared in self.desks.values() {
            shared.closed.set(true);
            shared.changed.notify_one();
        }
    }
}

impl Handler<Want> for FetchRouter {
    type Result = ();

    fn handle(&mut self, want: Want, ctx: &mut Self::Context) {
        self.homeless.remove(&want.partition);
        self.place(want, ctx);
    }
}

impl Handler<Forget> for FetchRouter {
    type Result = ();

    fn handle(&mut self, forget: Forget, _: &mut Self::Context) {
        self.homeless.remove(&forget.partition);
        if let Some(shared) = self.placed.get(&forget.partition).and_then(|address| self.desks.get(address)) {
            shared.desk.borrow_mut().forget(&forget.partition);
        }
        self.placed.remove(&forget.partition);
    }
}

impl Handler<Watched> for FetchRouter {
    type Result = ();

    fn handle(&mut self, _: Watched, _: &mut Self::Context) {
        self.watching = false;
        self.settle_outdated();
    }
}

impl Handler<Misplaced> for FetchRouter {
    type Result = ();

    fn handle(&mut self, Misplaced(wants): Misplaced, ctx: &mut Self::Context) {
        for want in wants {
            // A want that was replaced or forgotten meanwhile is not brought back.
            if self.placed.remove(&want.partition).is_some() {
                self.homeless.insert(want.partition.clone(), want);
            }
        }
        let wait = self.backoff.next(random());
        self.look_up(wait, ctx);
    }
}

impl Handler<LookedUp> for FetchRouter {
    type Result = ();

    fn handle(&mut self, LookedUp(result): LookedUp, ctx: &mut Self::Context) {
        self.looking = false;
        match result {
            Ok(()) => {
                self.settle_outdated();
                self.settle_homeless(ctx);
                if self.homeless.is_empty() {
                    self.backoff.reset();
                }
            }
            Err(error @ KafkaError::NoTopic { .. }) => self.give_up(&error.to_string()),
            Err(error) => self.status.unreachable(&error),
        }
        if !self.homeless.is_empty() {
            let wait = self.backoff.next(random());
            self.look_up(wait, ctx);
        }
    }
}
