//! The actors of one member: where its consumers run, and what they are built from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, Recipient};
use lighterman_proto::api::{FailureDestination, FilterCriteria, OnDestinationFailure};
use lighterman_proto::event::{EventEnvelope, EventSource};
use lighterman_proto::ids::{ConsumerId, MappingId};
use lighterman_proto::units::{PAYLOAD_BYTES_MAX, SLOTS_PER_CONSUMER};
use lighterman_scaler::policy::PollerBounds;

use super::commit_port::GroupCommits;
use super::share::ArbiterShare;
use crate::audit::AuditLog;
use crate::batcher::actor::BatcherParts;
use crate::batcher::core::BatchLimits;
use crate::batcher::payload::PayloadPool;
use crate::commits::actor::CommitterActor;
use crate::consumer::actor::{ConsumerActor, ConsumerParts};
use crate::consumer::messages::{ConsumerReport, FencePartitions};
use crate::consumer::status::MappingStatus;
use crate::credit::memory::MemoryBudget;
use crate::credit::slots::Slots;
use crate::destination::aws::AwsDestinations;
use crate::egress::Egress;
use crate::invoker::facts::FactsDesk;
use crate::invoker::invocation::{ConcurrencyLimit, InvokedFunction, Invoker};
use crate::invoker::port::FunctionPort;
use crate::invoker::retry::RetryPolicy;
use crate::kafka::cluster::KafkaCluster;
use crate::kafka::fetch::FetchSettings;
use crate::kafka::group::{GroupProtocol, GroupThread, Membership};
use crate::kafka::offsets::OffsetSpec;
use crate::kafka::transport::{BrokerAddress, BrokerConnector};
use crate::partition::attempt::FailureHandling;
use crate::partition::batch::PartitionBatchLimits;
use crate::partition::dead_letter::DeadLetterSink;
use crate::runtime::current_epochs::CurrentEpochs;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::{InFlight, LongestRun};
use crate::runtime::placement::{ArbiterSeat, Placement, SeatKind};

/// Bytes held ahead for each partition: two full batches of ordinary records, not less than one fetch.
const BUFFER_BYTES_TARGET: usize = 512 * 1024;

/// What all mappings of a node share.
#[derive(Clone)]
pub struct NodeResources {
    /// Fetch buffers and payloads.
    pub budget: MemoryBudget,
    /// Payload buffers between two invocations.
    pub payloads: PayloadPool,
    /// What may still be running.
    pub in_flight: InFlight,
    /// What became of every offset.
    pub audit: AuditLog,
    /// Threads.
    pub placement: Arc<Placement>,
    /// The thread of the group memberships.
    pub groups: GroupThread,
    /// How brokers are dialled.
    pub connector: Arc<dyn BrokerConnector>,
    /// How functions are invoked.
    pub port: Arc<dyn FunctionPort>,
    /// Facts of the functions, kept fresh.
    pub functions: FactsDesk,
    /// Destinations for failed records at AWS.
    pub aws: AwsDestinations,
    /// What may be dialled.
    pub egress: Arc<Egress>,
    /// How to fetch.
    pub fetch: FetchSettings,
    /// How the groups' members agree on who owns what.
    pub group_protocol: GroupProtocol,
    /// Session timeout in the groups.
    pub session_timeout: Duration,
    /// How fast to try again.
    pub retry: RetryPolicy,
}

/// A mapping as the dataplane runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingSpec {
    /// Which mapping.
    pub id: MappingId,
    /// The one topic.
    pub topic: Arc<str>,
    /// Consumer group.
    pub group: String,
    /// The function, as it is invoked.
    pub function: Arc<str>,
    /// Where the cluster is.
    pub bootstrap: Vec<BrokerAddress>,
    /// What events say of their source.
    pub source: EventSource,
    /// `BatchSize`.
    pub batch_records_max: u32,
    /// `MaximumBatchingWindow`.
    pub window: Duration,
    /// Starting position.
    pub start: OffsetSpec,
    /// `MinimumPollers`, `MaximumPollers`.
    pub bounds: PollerBounds,
    /// What to do with records that fail.
    pub failure: FailureSpec,
    /// Which records are delivered.
    pub filters: FilterCriteria,
}

/// What a mapping does with records that fail, and where they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureSpec {
    /// What the partitions decide by.
    pub policy: FailureHandling,
    /// `ReportBatchItemFailures`.
    pub partial_responses: bool,
    /// `DestinationConfig.OnFailure`.
    pub destination: Option<FailureDestination>,
    /// What happens while it refuses.
    pub on_destination_failure: OnDestinationFailure,
}

/// A consumer, and its place.
struct SeatedConsumer {
    address: Addr<ConsumerActor>,
    seat: ArbiterSeat,
}

/// The actors of a member that has joined; they end when it is dropped.
pub struct MappingActors {
    pub(super) node: NodeResources,
    pub(super) budget: MemoryBudget,
    pub(super) run: MappingSpec,
    pub(super) cluster: KafkaCluster,
    membership: Membership,
    function: InvokedFunction,
    epochs: CurrentEpochs,
    pub(super) status: MappingStatus,
    slots: Slots,
    concurrency: ConcurrencyLimit,
    pub(super) invoker: Invoker,
    pub(super) committer: Addr<CommitterActor>,
    /// The committer's place, and that of the first consumer: what it commits costs no other thread a wake then.
    home: ArbiterSeat,
    /// The first consumer's place, until it comes.
    reserved: Option<ArbiterSeat>,
    pub(super) shares: HashMap<usize, ArbiterShare>,
    consumers: BTreeMap<ConsumerId, SeatedConsumer>,
    member: Recipient<ConsumerReport>,
    /// The next consumer's id; no floor of the member has given it.
    next_consumer: Arc<AtomicU32>,
    burial: Option<Arc<dyn DeadLetterSink>>,
    fence: Arc<AtomicU64>,
    /// Called when an actor that all consumers share has died.
    pub(super) shared_death: Arc<dyn Fn(&'static str) + Send + Sync>,
}

/// What a floor is built from.
pub struct WiringParts {
    /// The node.
    pub node: NodeResources,
    /// The mapping's share of its bytes.
    pub budget: MemoryBudget,
    /// The mapping.
    pub run: MappingSpec,
    /// Its cluster.
    pub cluster: KafkaCluster,
    /// Its group.
    pub membership: Membership,
    /// Its function.
    pub function: InvokedFunction,
    /// Partitions at activation, filled in later.
    pub activated: Arc<AtomicI32>,
    /// The next consumer's id; shared by all floors of the member, so that a report of an earlier one's consumer is not taken for
    /// one of these.
    pub next_consumer: Arc<AtomicU32>,
    /// Under which epochs its consumers may begin invocations.
    pub epochs: CurrentEpochs,
    /// What it shows.
    pub status: MappingStatus,
    /// Who decides.
    pub member: Recipient<ConsumerReport>,
    /// Called when an actor that all consumers share has died.
    pub shared_death: Arc<dyn Fn(&'static str) + Send + Sync>,
}

impl MappingActors {
    /// A committer, no consumers yet.
    pub fn new(parts: WiringParts) -> Self {
        let WiringParts {
            node,
            budget,
            run,
            cluster,
            membership,
            function,
            activated,
            next_consumer,
            epochs,
            status,
            member,
            shared_death,
        } = parts;
        let slots = Slots::new(SLOTS_PER_CONSUMER);
        let concurrency = ConcurrencyLimit::new(slots.clone());
        let invoker = Invoker::new(Arc::clone(&node.port), function.clone(), concurrency.clone());
        let home = node.placement.seat(SeatKind::Committer);
        let reserved = node.placement.seat_at(home.arbiter(), SeatKind::Consumer);
        let commits = Arc::new(GroupCommits::new(run.id, membership.clone(), activated, node.audit.clone()));
        let (board, watch) = (status.clone(), watch(&shared_death, "committer"));
        let committer = CommitterActor::start_in_arbiter(&node.placement.data(home.arbiter()), move |_| {
            CommitterActor::new(commits, board, watch)
        });
        Self {
            node,
            budget,
            run,
            cluster,
            membership,
            function,
            epochs,
            status,
            slots,
            concurrency,
            invoker,
            committer,
            home,
            reserved: Some(reserved),
            shares: HashMap::new(),
            consumers: BTreeMap::new(),
            member,
            next_consumer,
            burial: None,
            fence: Arc::new(AtomicU64::new(0)),
            shared_death,
        }
    }

    /// Invocation slots of the mapping.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The function.
    pub fn function(&self) -> &InvokedFunction {
        &self.function
    }

    /// The group's generation: what the function gets as `fence`; never goes back.
    pub fn set_fence(&self, generation: i32) {
        self.fence.fetch_max(u64::try_from(generation).unwrap_or_default(), Ordering::Relaxed);
    }

    /// The consumers that run, by id.
    pub fn consumers(&self) -> Vec<ConsumerId> {
        self.consumers.keys().copied().collect()
    }

    /// A consumer's address.
    pub fn consumer(&self, id: ConsumerId) -> Option<&Addr<ConsumerActor>> {
        self.consumers.get(&id).map(|consumer| &consumer.address)
    }

    /// One more consumer.
    pub fn add_consumer(&mut self) -> ConsumerId {
        let id = ConsumerId(self.next_consumer.fetch_add(1, Ordering::Relaxed));
        let seat = self.next_seat();
        let arbiter = seat.arbiter();
        let parts = self.consumer_parts(id, arbiter);
        let address = ConsumerActor::start_in_arbiter(&self.node.placement.data(arbiter), move |_| {
            ConsumerActor::new(parts)
        });
        self.consumers.insert(id, SeatedConsumer { address, seat });
        self.set_ceiling();
        id
    }

    /// One consumer less; it must own nothing any more, or what it owns is fenced.
    pub fn remove_consumer(&mut self, id: ConsumerId) {
        if let Some(SeatedConsumer { address, seat }) = self.consumers.remove(&id) {
            address.do_send(FencePartitions(None));
            if self.consumers.values().all(|other| other.seat.arbiter() != seat.arbiter()) {
                self.shares.remove(&seat.arbiter());
            }
        }
        self.set_ceiling();
    }

    /// The first consumer is beside the committer; the others are where there is least.
    fn next_seat(&mut self) -> ArbiterSeat {
        if let Some(reserved) = self.reserved.take() {
            return reserved;
        }
        let placement = &self.node.placement;
        if self.consumers.is_empty() {
            return placement.seat_at(self.home.arbiter(), SeatKind::Consumer);
        }
        placement.seat(SeatKind::Consumer)
    }

    fn set_ceiling(&self) {
        let consumers = u32::try_from(self.consumers.len()).unwrap_or(u32::MAX);
        self.concurrency.set_ceiling(consumers.max(1).saturating_mul(SLOTS_PER_CONSUMER));
    }

    fn consumer_parts(&mut self, id: ConsumerId, arbiter: usize) -> ConsumerParts {
        let ArbiterShare { router, invoker } = self.share(arbiter);
        let (router, invoker_apart) = (router.clone(), invoker.clone().recipient());
        let servers = self.run.bootstrap.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let envelope = Arc::new(EventEnvelope::new(&self.run.source, &servers, &self.run.topic));
        if self.burial.is_none() {
            self.burial = self.new_burial(&envelope, &servers);
        }
        let burial = self.burial.clone();
        let envelope_bytes = envelope.base_bytes();
        let key_bytes_max = envelope.partition_bytes(i32::MAX, false);
        let records_max = self.run.batch_records_max;
        let timeout = self.function.timeout.clone();
        let longest_run: LongestRun = Arc::new(move |sent_at| timeout.longest_since(sent_at));
        let batcher = BatcherParts {
            mapping: self.run.id,
            topic: Arc::clone(&self.run.topic),
            limits: BatchLimits {
                records_max,
                payload_bytes_max: PAYLOAD_BYTES_MAX,
                envelope_bytes,
                window: self.run.window,
            },
            envelope: Arc::clone(&envelope),
            slots: self.slots.clone(),
            slot_line: u64::from(id.0),
            budget: self.budget.clone(),
            payloads: self.node.payloads.clone(),
            in_flight: self.node.in_flight.clone(),
            epochs: self.epochs.clone(),
            ownership: self.membership.lease(),
            fence: Arc::clone(&self.fence),
            longest_run,
            retry: self.node.retry,
            partial_responses: self.run.failure.partial_responses,
            invoker: self.invoker.clone(),
            invoker_apart,
            status: self.status.clone(),
        };
        ConsumerParts {
            id,
            mapping: self.run.id,
            topic: Arc::clone(&self.run.topic),
            envelope,
            filters: Arc::clone(self.run.filters.compiled()),
            limits: PartitionBatchLimits {
                records_max,
                payload_bytes_max: PAYLOAD_BYTES_MAX - envelope_bytes - key_bytes_max,
            },
            policy: self.run.failure.policy,
            buffer_bytes_target: BUFFER_BYTES_TARGET,
            budget: self.budget.clone(),
            in_flight: self.node.in_flight.clone(),
            burial,
            router,
            committer: self.committer.clone(),
            batcher,
            member: self.member.clone(),
            status: self.status.clone(),
        }
    }
}

impl Drop for MappingActors {
    /// A consumer and its partitions know each other's addresses: only being told ends them.
    fn drop(&mut self) {
        for consumer in self.consumers.values() {
            consumer.address.do_send(FencePartitions(None));
        }
    }
}

pub(super) fn watch(
    shared_death: &Arc<dyn Fn(&'static str) + Send + Sync>,
    what: &'static str,
) -> DeathWatch {
    let shared_death = Arc::clone(shared_death);
    DeathWatch::new(what, move |panicking| {
        if panicking {
            shared_death(what);
        }
    })
}
