//! Member actor of one mapping on this node. It holds the mapping's consumer group membership, its consumers, and the
//! assignment of partitions to them. It turns group events into drains and starts. A partition is released to the
//! group only after it has drained.

mod assignments;
pub mod commit_port;
mod dead_letters;
mod function;
mod memory_status;
pub mod out_of_range;
mod resolve_lock;
mod resolving;
mod sampling;
mod share;
pub mod start_offsets;
pub mod succession;
mod topic_lookup;
mod waiting;
pub mod wiring;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32};
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message};
use lighterman_proto::units::Moment;
use lighterman_scaler::assignment::AssignmentTable;
use lighterman_scaler::policy::ScalingPolicy;
use tokio::sync::oneshot;

use self::resolve_lock::ResolveLock;
use self::succession::MemberWatch;
use self::topic_lookup::TopicLook;
use self::waiting::WaitingStarts;
use self::wiring::{MappingActors, MappingSpec, NodeResources, WiringParts};
use crate::consumer::messages::{ConsumerEvent, ConsumerReport};
use crate::credit::memory_budget::MemoryBudget;
use crate::invoker::facts::FunctionWatch;
use crate::invoker::invocation::InvokedFunction;
use crate::invoker::port::FunctionFacts;
use crate::kafka::cluster::KafkaCluster;
use crate::kafka::group::{GroupEvent, Membership};
use crate::messages::resume::ResumePoint;
use crate::messages::skip::SkipRecord;
use crate::runtime::clock;
use crate::runtime::current_epochs::CurrentEpochs;
use crate::runtime::outbox::MAILBOX_MESSAGES_MAX;
use crate::status::MappingStatus;
use crate::status::partition::PartitionStats;

const TICK: Duration = Duration::from_secs(1);
const MEMBERSHIP_ENDED: &str =
    "has lost its membership in the consumer group by a fault of this node; it joins again";

/// Drains all partitions, commits, leaves the group, then replies.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StopMapping(pub oneshot::Sender<()>);

#[derive(Message)]
#[rtype(result = "()")]
struct GroupHappened(GroupEvent);

#[derive(Message)]
#[rtype(result = "()")]
struct SharedActorDied {
    what: &'static str,
    /// Number of the `MappingActors` that the dead actor belonged to.
    actors: u32,
}

/// Actor of one mapping's member on this node.
pub struct MappingActor {
    node: NodeResources,
    /// The mapping's share of the node's bytes.
    budget: MemoryBudget,
    run: MappingSpec,
    status: MappingStatus,
    cluster: KafkaCluster,
    joined: Option<(Membership, MappingActors)>,
    /// Watch on the function's facts. `None` until the actor has started.
    watched: Option<Arc<FunctionWatch>>,
    /// Last facts that Lambda returned for the function.
    told: Option<FunctionFacts>,
    activated: Arc<AtomicI32>,
    next_consumer: Arc<AtomicU32>,
    /// Number of `MappingActors` built so far. The latest one is in use.
    floors: u32,
    /// Partitions whose log turned out to be a different one and which have not started since.
    found_parted: BTreeSet<i32>,
    look: TopicLook,
    /// Set once a lookup did not find the topic. A start at the topic's end is then one at its beginning.
    owes_all: Arc<AtomicBool>,
    /// Owned partitions that cannot start yet.
    waiting: WaitingStarts,
    /// Held while start offsets are resolved.
    resolving: Arc<tokio::sync::Mutex<()>>,
    scaler: ScalingPolicy,
    table: AssignmentTable,
    /// Resume point of each partition in the table.
    positions: BTreeMap<i32, ResumePoint>,
    gauges: BTreeMap<i32, Arc<PartitionStats>>,
    resolved_before: BTreeMap<i32, u64>,
    /// Last generation that gave this member an assignment.
    generation: i32,
    /// Set once the group has given this member an assignment, which may be empty.
    assigned: bool,
    /// Time since which the member has had no assignment.
    unassigned_since: Moment,
    /// Partitions that the group has assigned to this member.
    owned: BTreeSet<i32>,
    /// Partitions revoked and not yet released.
    revoking: BTreeSet<i32>,
    /// Partitions that have ended here and that the group awaits, but whose invocations may still run.
    held_back: BTreeSet<i32>,
    /// Epochs under which invocations may start.
    epochs: CurrentEpochs,
    turn: ResolveLock,
    desired: u32,
    lost_something: bool,
    stopping: Option<oneshot::Sender<()>>,
    leaving: bool,
    watch: MemberWatch,
}

impl MappingActor {
    /// Creates a member that has not started.
    pub fn new(node: NodeResources, run: MappingSpec, status: MappingStatus, watch: MemberWatch) -> Self {
        let cluster = KafkaCluster::new(
            run.bootstrap.clone(),
            Arc::clone(&node.connector),
            format!("lighterman-{}", run.id),
        );
        Self {
            scaler: ScalingPolicy::new(run.bounds),
            desired: run.bounds.minimum.max(1),
            budget: node.budget.share_for(&format!("mapping {}", run.id)),
            node,
            run,
            status,
            cluster,
            joined: None,
            watched: None,
            told: None,
            activated: Arc::new(AtomicI32::new(0)),
            next_consumer: Arc::default(),
            floors: 0,
            found_parted: BTreeSet::new(),
            look: TopicLook::default(),
            owes_all: Arc::default(),
            waiting: WaitingStarts::default(),
            resolving: Arc::default(),
            table: AssignmentTable::default(),
            positions: BTreeMap::new(),
            gauges: BTreeMap::new(),
            resolved_before: BTreeMap::new(),
            generation: -1,
            assigned: false,
            unassigned_since: clock::now(),
            owned: BTreeSet::new(),
            revoking: BTreeSet::new(),
            held_back: BTreeSet::new(),
            epochs: CurrentEpochs::default(),
            turn: ResolveLock::default(),
            lost_something: false,
            stopping: None,
            leaving: false,
            watch,
        }
    }

    fn actors(
        &mut self,
        membership: Membership,
        function: InvokedFunction,
        ctx: &mut Context<Self>,
    ) -> MappingActors {
        self.floors += 1;
        let (died, actors) = (ctx.address(), self.floors);
        MappingActors::new(WiringParts {
            node: self.node.clone(),
            budget: self.budget.clone(),
            run: self.run.clone(),
            cluster: self.cluster.clone(),
            membership,
            function,
            activated: Arc::clone(&self.activated),
            next_consumer: Arc::clone(&self.next_consumer),
            epochs: self.epochs.clone(),
            status: self.status.clone(),
            member: ctx.address().recipient(),
            shared_death: Arc::new(move |what| died.do_send(SharedActorDied { what, actors })),
        })
    }

    /// Returns the reason that the member does not run all partitions it owns.
    fn not_ready_reason(&self) -> Option<String> {
        if self.joined.is_none() {
            if self.floors > 0 {
                return Some(MEMBERSHIP_ENDED.to_owned());
            }
            return Some("does not know its function's timeout yet".to_owned());
        }
        if !self.assigned {
            return Some("has not joined its consumer group yet".to_owned());
        }
        if let Some(text) = self.waiting.text() {
            return Some(format!("does not run all that it owns: {text}"));
        }
        let idle = self.owned.iter().find(|partition| !self.table.holds(**partition))?;
        Some(format!("owns partition {idle}, which does not run yet"))
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let now = clock::now();
        if self.stopping.is_none() {
            self.look_at_topic(ctx);
            self.watch_join();
            self.resolve_waiting(ctx);
        }
        self.status.set_missing(self.not_ready_reason());
        self.mind_memory();
        self.turn.released.append(&mut self.held_back);
        self.end_turn(ctx);
        if self.lost_something
            && let Some((membership, _)) = &self.joined
            && self.node.in_flight.is_mapping_clear(self.run.id, now)
        {
            membership.all_invocations_ended();
            self.lost_something = false;
        }
        let sample = self.sample();
        if self.stopping.is_some() {
            self.show(sample.as_ref());
            self.finish_stop(ctx);
            return;
        }
        let Some(sample) = sample else { return };
        let decision = self.scaler.decide(&sample);
        if decision.desired != self.desired {
            tracing::info!(mapping = %self.run.id, from = self.desired, to = decision.desired, "consumers");
            self.desired = decision.desired;
        }
        self.balance();
        self.show(Some(&sample));
    }

    /// Completes a stop once no invocation of this member can still run (DRN-1).
    fn finish_stop(&mut self, ctx: &mut Context<Self>) {
        if !self.table.is_empty() || self.leaving || self.may_run_yet() {
            return;
        }
        self.leaving = true;
        let Some(done) = self.stopping.take() else { return };
        let Some((membership, actors)) = self.joined.take() else {
            let _ = done.send(());
            ctx.stop();
            return;
        };
        drop(actors);
        let (me, held) = (ctx.address(), self.watch.held.clone());
        actix_rt::spawn(async move {
            membership.leave().await;
            held.let_go();
            let _ = done.send(());
            me.do_send(MappingStopped);
        });
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct MappingStopped;

impl Actor for MappingActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        self.watch_function(ctx);
        self.look_at_topic(ctx);
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Handler<GroupHappened> for MappingActor {
    type Result = ();

    fn handle(&mut self, GroupHappened(event): GroupHappened, ctx: &mut Self::Context) {
        self.take_event(event, ctx);
        self.end_turn(ctx);
    }
}

impl Handler<ConsumerReport> for MappingActor {
    type Result = ();

    fn handle(&mut self, report: ConsumerReport, ctx: &mut Self::Context) {
        match report.event {
            ConsumerEvent::Partition(report) => self.take_report(report),
            ConsumerEvent::Exited => {
                if let Some((_, actors)) = &mut self.joined {
                    actors.remove_consumer(report.consumer);
                }
                let hit: Vec<i32> = self
                    .table
                    .partitions()
                    .filter(|partition| {
                        self.table.place(*partition).is_some_and(|(at, _)| at == report.consumer)
                    })
                    .collect();
                self.rebuild(&hit, true);
            }
        }
        if self.stopping.is_some() {
            self.finish_stop(ctx);
        }
        self.end_turn(ctx);
    }
}

impl Handler<SharedActorDied> for MappingActor {
    type Result = ();

    fn handle(&mut self, SharedActorDied { what, actors }: SharedActorDied, ctx: &mut Self::Context) {
        // A late death report of replaced actors must not tear down their replacements.
        if actors != self.floors {
            return;
        }
        self.rebuild_all(what, ctx);
        self.end_turn(ctx);
    }
}

impl Handler<SkipRecord> for MappingActor {
    type Result = ();

    fn handle(&mut self, skip: SkipRecord, _: &mut Self::Context) {
        let place = self.table.place(skip.partition).map(|(consumer, _)| consumer);
        let actors = self.joined.as_ref().map(|(_, actors)| actors);
        if let Some(address) = place.and_then(|consumer| actors?.consumer(consumer)) {
            address.do_send(skip);
        }
    }
}

impl Handler<StopMapping> for MappingActor {
    type Result = ();

    fn handle(&mut self, StopMapping(done): StopMapping, ctx: &mut Self::Context) {
        self.stopping = Some(done);
        if let Some((_, actors)) = &self.joined {
            actors.stop_commits();
        }
        let partitions: Vec<i32> = self.table.partitions().collect();
        self.revoke_partitions(&partitions);
        self.finish_stop(ctx);
        self.end_turn(ctx);
    }
}

impl Handler<MappingStopped> for MappingActor {
    type Result = ();

    fn handle(&mut self, _: MappingStopped, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
