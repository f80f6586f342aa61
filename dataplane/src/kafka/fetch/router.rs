//! Brings each want to the desk of its partition's leader, and finds the leader again when it has moved.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, SpawnHandle};
use lighterman_proto::ids::TopicPartition;
use lighterman_proto::units::Moment;

use super::broker_task::{BrokerTask, SharedDesk};
use super::messages::{FetchTrouble, Fetched, Forget, Want};
use super::session::Session;
use super::setbacks::Setbacks;
use crate::credit::bytes::ByteBudget;
use crate::kafka::backoff::{Backoff, random};
use crate::kafka::cluster::{Cluster, Leader};
use crate::kafka::error::KafkaError;
use crate::kafka::offsets::Isolation;
use crate::kafka::transport::BrokerAddress;
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};

const BACKOFF_BASE: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

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
    /// For so long the broker's quota wants no further poll; zero for none.
    fn throttled(&self, wait: Duration);
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
    /// The next look-up, and one under way.
    arranged: Option<(Moment, SpawnHandle)>,
    looking: bool,
    /// Of look-ups that fail.
    backoff: Backoff,
    setbacks: Setbacks,
    _watch: DeathWatch,
}

/// Wants whose broker does not lead their partition any more, or is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Misplaced(pub Vec<Want>);

#[derive(Message)]
#[rtype(result = "()")]
struct LookedUp(Result<(), KafkaError>);

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
            arranged: None,
            looking: false,
            backoff: Backoff::new(BACKOFF_BASE, BACKOFF_MAX),
            setbacks: Setbacks::default(),
            _watch: watch,
        }
    }

    fn place(&mut self, want: Want, ctx: &mut Context<Self>) {
        match self.cluster.leader(&want.partition.topic, want.partition.partition) {
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
        shared.desk.borrow_mut().put(partition.clone(), want, leader.epoch, clock::now());
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
        let at = clock::now() + wait;
        if self.looking || self.arranged.as_ref().is_some_and(|(arranged, _)| *arranged <= at) {
            return;
        }
        let arranged = ctx.run_later(wait, move |router, ctx| {
            (router.arranged, router.looking) = (None, true);
            let (cluster, me) = (router.cluster.clone(), ctx.address());
            actix_rt::spawn(async move {
                let found = cluster.refresh(&topic).await;
                me.do_send(LookedUp(found.map(|_| ())));
            });
        });
        if let Some((_, later)) = self.arranged.replace((at, arranged)) {
            ctx.cancel_future(later);
        }
    }

    fn is_due(&self, partition: &TopicPartition) -> bool {
        self.setbacks.wait(partition, clock::now()).is_zero()
    }

    /// How long nobody is to be looked for.
    fn shortest_wait(&self) -> Duration {
        let now = clock::now();
        let waits = self.homeless.keys().map(|partition| self.setbacks.wait(partition, now));
        waits.min().unwrap_or_default()
    }

    fn settle_homeless(&mut self, ctx: &mut Context<Self>) {
        for want in std::mem::take(&mut self.homeless).into_values() {
            let is_due = self.is_due(&want.partition);
            match self.cluster.leader(&want.partition.topic, want.partition.partition) {
                Some(leader) if is_due => self.put(want, leader, ctx),
                _ => {
                    self.homeless.insert(want.partition.clone(), want);
                }
            }
        }
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
        self.setbacks.forget(&want.partition);
        self.place(want, ctx);
    }
}

impl Handler<Forget> for FetchRouter {
    type Result = ();

    fn handle(&mut self, forget: Forget, _: &mut Self::Context) {
        self.homeless.remove(&forget.partition);
        self.setbacks.forget(&forget.partition);
        if forget.pauses {
            if let Some(shared) =
                self.placed.get(&forget.partition).and_then(|address| self.desks.get(address))
            {
                shared.desk.borrow_mut().pause(&forget.partition, clock::now());
                shared.changed.notify_one();
            }
            return;
        }
        if let Some(shared) = self.placed.get(&forget.partition).and_then(|address| self.desks.get(address)) {
            shared.desk.borrow_mut().forget(&forget.partition);
        }
        self.placed.remove(&forget.partition);
    }
}

impl Handler<Misplaced> for FetchRouter {
    type Result = ();

    fn handle(&mut self, Misplaced(wants): Misplaced, ctx: &mut Self::Context) {
        for want in wants {
            // A want that was replaced or forgotten meanwhile is not brought back.
            if self.placed.remove(&want.partition).is_some() {
                self.setbacks.met(&want.partition, clock::now(), random());
                self.homeless.insert(want.partition.clone(), want);
            }
        }
        self.look_up(self.shortest_wait(), ctx);
    }
}

impl Handler<LookedUp> for FetchRouter {
    type Result = ();

    fn handle(&mut self, LookedUp(result): LookedUp, ctx: &mut Self::Context) {
        self.looking = false;
        match result {
            Ok(()) => {
                self.settle_homeless(ctx);
                if self.homeless.keys().any(|partition| self.is_due(partition)) {
                    // It has no leader.
                    let wait = self.backoff.next(random());
                    self.look_up(wait, ctx);
                    return;
                }
                self.backoff.reset();
                self.look_up(self.shortest_wait(), ctx);
                return;
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
