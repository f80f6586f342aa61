//! A mapping that runs on this node: its membership in the consumer group, its consumers, and who owns what among them.
//! Group events come in, drains and starts go out; a partition is released to the group only after it has drained.

mod burial;
pub mod commits;
pub mod floor;
mod ownership;
pub mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};
use lighterman_proto::control::{PartitionSample, Sample};
use lighterman_proto::ids::TopicPartition;
use lighterman_scaler::assignment::Assignments;
use lighterman_scaler::policy::Scaler;
use tokio::sync::oneshot;

use self::floor::{Floor, FloorParts, MappingRun, Node};
use self::starts::{Resolver, StartError, Starts};
use super::messages::{ConsumerEvent, ConsumerReport, Position};
use super::status::StatusBoard;
use crate::invoker::port::FunctionFacts;
use crate::kafka::cluster::Cluster;
use crate::kafka::group::effects::Timing;
use crate::kafka::group::{GroupEvent, Membership, MembershipSettings};
use crate::partition::gauge::Gauge;
use crate::partition::messages::Skip;
use crate::runtime::clock;
use crate::runtime::outbox::MAILBOX_MESSAGES_MAX;

const TICK: Duration = Duration::from_secs(1);
const ASK_FUNCTION_AGAIN: Duration = Duration::from_secs(5);
const START_AGAIN: Duration = Duration::from_secs(2);
/// Up to when a function runs that does not tell its timeout: Lambda's own limit.
const FUNCTION_TIMEOUT_UNTOLD: Duration = Duration::from_secs(900);
/// How long the group waits for us to drain beyond the function's timeout (H3).
const DRAIN_MARGIN: Duration = Duration::from_secs(60);

/// Drain everything, commit, leave the group, then answer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Stop(pub oneshot::Sender<()>);

#[derive(Message)]
#[rtype(result = "()")]
struct FunctionTold(FunctionFacts);

#[derive(Message)]
#[rtype(result = "()")]
struct GroupHappened(GroupEvent);

#[derive(Message)]
#[rtype(result = "()")]
struct StartsFound {
    wanted: Vec<i32>,
    generation: i32,
    starts: Result<Option<Starts>, StartError>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct SharedActorDied(&'static str);

/// The actor.
pub struct MemberActor {
    node: Node,
    run: MappingRun,
    status: StatusBoard,
    cluster: Cluster,
    joined: Option<(Membership, Floor)>,
    activated: Arc<AtomicI32>,
    /// Partitions whose log is another one: where they begin is found out for all of them at once.
    beginning_anew: BTreeSet<i32>,
    /// Those that have found their log to be another one, and have not begun since.
    found_parted: BTreeSet<i32>,
    /// Held by whoever finds out where partitions begin.
    resolving: Arc<tokio::sync::Mutex<()>>,
    scaler: Scaler,
    table: Assignments,
    /// Where each partition of the table goes on.
    positions: BTreeMap<i32, Position>,
    gauges: BTreeMap<i32, Arc<Gauge>>,
    resolved_before: BTreeMap<i32, u64>,
    /// The last generation that gave us a share.
    generation: i32,
    /// The group has given us a share, which may be nothing.
    assigned: bool,
    /// What the group says is ours.
    owned: BTreeSet<i32>,
    /// Revoked, not released yet.
    revoking: BTreeSet<i32>,
    desired: u32,
    lost_something: bool,
    stopping: Option<oneshot::Sender<()>>,
    leaving: bool,
}

impl MemberActor {
    /// A member that has not begun.
    pub fn new(node: Node, run: MappingRun, status: StatusBoard) -> Self {
        let cluster = Cluster::new(
            run.bootstrap.clone(),
            Arc::clone(&node.connector),
            format!("lighterman-{}", run.id),
        );
        Self {
            scaler: Scaler::new(run.bounds),
            desired: run.bounds.minimum.max(1),
            node,
            run,
            status,
            cluster,
            joined: None,
            activated: Arc::new(AtomicI32::new(0)),
            beginning_anew: BTreeSet::new(),
            found_parted: BTreeSet::new(),
            resolving: Arc::default(),
            table: Assignments::default(),
            positions: BTreeMap::new(),
            gauges: BTreeMap::new(),
            resolved_before: BTreeMap::new(),
            generation: -1,
            assigned: false,
            owned: BTreeSet::new(),
            revoking: BTreeSet::new(),
            lost_something: false,
            stopping: None,
            leaving: false,
        }
    }

    fn ask_function(&self, wait: Duration, ctx: &mut Context<Self>) {
        let (asked, me) = (self.node.port.facts(Arc::clone(&self.run.function)), ctx.address());
        actix_rt::spawn(async move {
            tokio::time::sleep(wait).await;
            me.do_send(FunctionTold(asked.await));
        });
    }

    fn join(&mut self, function_timeout: Duration, ctx: &mut Context<Self>) {
        let me = ctx.address();
        let sink = Arc::new(move |event| me.do_send(GroupHappened(event)));
        let settings = MembershipSettings {
            group: self.run.group.clone(),
            topic: self.run.topic.to_string(),
            protocol: self.node.group_protocol,
            timing: Timing::new(self.node.session_timeout, function_timeout + DRAIN_MARGIN),
        };
        let membership = self.node.groups.join(self.cluster.clone(), settings, sink);
        let floor = self.floor(membership.clone(), function_timeout, ctx);
        self.joined = Some((membership, floor));
    }

    fn floor(&self, membership: Membership, function_timeout: Duration, ctx: &mut Context<Self>) -> Floor {
        let died = ctx.address();
        Floor::new(FloorParts {
            node: self.node.clone(),
            run: self.run.clone(),
            cluster: self.cluster.clone(),
            membership,
            function_timeout,
            activated: Arc::clone(&self.activated),
            status: self.status.clone(),
            member: ctx.address().recipient(),
            shared_death: Arc::new(move |what| died.do_send(SharedActorDied(what))),
        })
    }

    fn resolve_starts(&self, wanted: Vec<i32>, wait: Duration, ctx: &mut Context<Self>) {
        let Some((membership, _)) = &self.joined else { return };
        let generation = self.generation;
        let resolver = Resolver {
            membership: membership.clone(),
            generation,
            cluster: self.cluster.clone(),
            topic: self.run.topic.to_string(),
            has_run: self.activated.load(Ordering::Relaxed) > 0,
            mapping: self.run.id,
            audit: self.node.audit.clone(),
            at: self.run.start,
            isolation: self.node.fetch.isolation,
            turn: Arc::clone(&self.resolving),
        };
        let me = ctx.address();
        actix_rt::spawn(async move {
            tokio::time::sleep(wait).await;
            let starts = resolver.resolve(&wanted).await;
            me.do_send(StartsFound { wanted, generation, starts });
        });
    }

    /// What keeps us from running all that is ours.
    fn missing(&self) -> Option<String> {
        if self.joined.is_none() {
            return Some("does not know its function's timeout yet".to_owned());
        }
        if !self.assigned {
            return Some("has not joined its consumer group yet".to_owned());
        }
        let idle = self.owned.iter().find(|partition| !self.table.holds(**partition))?;
        Some(format!("owns partition {idle}, which does not run yet"))
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = clock::now();
        self.status.set_missing(self.missing());
        if self.lost_something
            && let Some((membership, _)) = &self.joined
            && self.node.in_flight.is_mapping_clear(self.run.id, now)
        {
            membership.quiesced();
            self.lost_something = false;
        }
        if self.stopping.is_some() {
            self.finish_stop(ctx);
            return;
        }
        let Some(sample) = self.sample() else { return };
        let decision = self.scaler.decide(&sample);
        if decision.desired != self.desired {
            tracing::info!(mapping = %self.run.id, from = self.desired, to = decision.desired, "consumers");
            self.desired = decision.desired;
        }
        self.balance();
        let consumers = self.joined.as_ref().map_or(0, |(_, floor)| floor.consumers().len());
        self.status.sampled(consumers, sample.slots_in_use, sample.slots_limit);
    }

    fn sample(&mut self) -> Option<Sample> {
        let (_, floor) = self.joined.as_ref()?;
        let topic = &self.run.topic;
        let mut partitions = Vec::with_capacity(self.gauges.len());
        for (partition, gauge) in &self.gauges {
            let total = gauge.resolved.load(Ordering::Relaxed);
            let before = self.resolved_before.insert(*partition, total).unwrap_or(total);
            partitions.push(PartitionSample {
                partition: TopicPartition::new(Arc::clone(topic), *partition),
                lag: gauge.lag(),
                arrived: None,
                resolved: total.saturating_sub(before),
            });
        }
        let answers = self.status.take_answers();
        Some(Sample {
            at: clock::now(),
            partitions,
            slots_in_use: floor.slots().in_use(),
            slots_limit: floor.slots().limit(),
            throttled: answers.throttled,
            answered: answers.answered,
        })
    }

    /// The last steps of a stop, once nothing of ours can run any more (DRN-1).
    fn finish_stop(&mut self, ctx: &mut Context<Self>) {
        if !self.table.is_empty() || self.leaving {
            return;
        }
        self.leaving = true;
        let Some(done) = self.stopping.take() else { return };
        let Some((membership, mut floor)) = self.joined.take() else {
            let _ = done.send(());
            ctx.stop();
            return;
        };
        floor.clear();
        let me = ctx.address();
        actix_rt::spawn(async move {
            membership.leave().await;
            let _ = done.send(());
            me.do_send(Gone);
        });
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Gone;

impl Actor for MemberActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        self.ask_function(Duration::ZERO, ctx);
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Handler<FunctionTold> for MemberActor {
    type Result = ();

    fn handle(&mut self, FunctionTold(facts): FunctionTold, ctx: &mut Self::Context) {
        if self.stopping.is_some() || self.joined.is_some() {
            return;
        }
        match facts {
            FunctionFacts::Known { timeout } => self.join(timeout, ctx),
            FunctionFacts::Untold => self.join(FUNCTION_TIMEOUT_UNTOLD, ctx),
            FunctionFacts::Missing => {
                self.status.problem(&format!("function {} does not exist", self.run.function));
                self.ask_function(ASK_FUNCTION_AGAIN, ctx);
            }
        }
    }
}

impl Handler<GroupHappened> for MemberActor {
    type Result = ();

    fn handle(&mut self, GroupHappened(event): GroupHappened, ctx: &mut Self::Context) {
        self.take_event(event, ctx);
    }
}

impl Handler<StartsFound> for MemberActor {
    type Result = ();

    fn handle(&mut self, found: StartsFound, ctx: &mut Self::Context) {
        if self.stopping.is_none() {
            self.take_starts(&found.wanted, found.generation, found.starts, ctx);
        }
    }
}

impl Handler<ConsumerReport> for MemberActor {
    type Result = ();

    fn handle(&mut self, report: ConsumerReport, ctx: &mut Self::Context) {
        match report.event {
            ConsumerEvent::Partition(report) => self.take_report(report, ctx),
            ConsumerEvent::Exited => {
                if let Some((_, floor)) = &mut self.joined {
                    floor.remove_consumer(report.consumer);
                }
                let hit: Vec<i32> = self
                    .table
                    .partitions()
                    .filter(|partition| {
                        self.table.place(*partition).is_some_and(|(at, _)| at == report.consumer)
                    })
                    .collect();
                for partition in hit {
                    self.rebuild(partition, true, ctx);
                }
            }
        }
        if self.stopping.is_some() {
            self.finish_stop(ctx);
        }
    }
}

impl Handler<SharedActorDied> for MemberActor {
    type Result = ();

    fn handle(&mut self, SharedActorDied(what): SharedActorDied, ctx: &mut Self::Context) {
        self.rebuild_all(what, ctx);
    }
}

impl Handler<Skip> for MemberActor {
    type Result = ();

    fn handle(&mut self, skip: Skip, _: &mut Self::Context) {
        let place = self.table.place(skip.partition).map(|(consumer, _)| consumer);
        let floor = self.joined.as_ref().map(|(_, floor)| floor);
        if let Some(address) = place.and_then(|consumer| floor?.consumer(consumer)) {
            address.do_send(skip);
        }
    }
}

impl Handler<Stop> for MemberActor {
    type Result = ();

    fn handle(&mut self, Stop(done): Stop, ctx: &mut Self::Context) {
        self.stopping = Some(done);
        let partitions: Vec<i32> = self.table.partitions().collect();
        self.give_up(&partitions);
        self.finish_stop(ctx);
    }
}

impl Handler<Gone> for MemberActor {
    type Result = ();

    fn handle(&mut self, _: Gone, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
