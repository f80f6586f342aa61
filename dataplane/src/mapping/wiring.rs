//! Actors of one member: the placement of its consumers, and the parts they are built from.

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
use crate::credit::memory_budget::MemoryBudget;
use crate::credit::slots::Slots;
use crate::destination::aws::AwsDestinations;
use crate::egress::Egress;
use crate::invoker::facts::FactsActor;
use crate::invoker::invocation::{ConcurrencyLimit, InvokedFunction, Invoker};
use crate::invoker::port::FunctionPort;
use crate::invoker::retry::RetryPolicy;
use crate::kafka::cluster::KafkaCluster;
use crate::kafka::fetch::FetchSettings;
use crate::kafka::group::{GroupProtocol, GroupThread, Membership};
use crate::kafka::offsets::OffsetSpec;
use crate::kafka::transport::{BrokerAddress, BrokerConnector};
use crate::messages::dead_letter::DeadLetterSink;
use crate::messages::records::PartitionBatchLimits;
use crate::partition::attempts::attempt::FailureHandling;
use crate::partition::progress::commit_window::CommitWindowLimits;
use crate::runtime::current_epochs::CurrentEpochs;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::in_flight::{InFlight, LongestRun};
use crate::runtime::placement::{ArbiterSeat, Placement, SeatKind};
use crate::status::MappingStatus;

/// Target of buffered bytes per partition: two full batches of ordinary records, and at least one fetch.
const BUFFER_BYTES_TARGET: usize = 512 * 1024;

/// Resources that all mappings of a node share.
#[derive(Clone)]
pub struct NodeResources {
    /// Memory budget of fetch buffers and payloads.
    pub budget: MemoryBudget,
    /// Pool of payload buffers between invocations.
    pub payloads: PayloadPool,
    /// Registry of the invocations that may still run.
    pub in_flight: InFlight,
    /// Audit log with the outcome of every offset.
    pub audit: AuditLog,
    /// Placement of actors on threads.
    pub placement: Arc<Placement>,
    /// Thread of the group memberships.
    pub groups: GroupThread,
    /// Connector that dials brokers.
    pub connector: Arc<dyn BrokerConnector>,
    /// Port through which functions are invoked.
    pub port: Arc<dyn FunctionPort>,
    /// Facts of the functions, refreshed continuously.
    pub functions: FactsActor,
    /// On-failure destinations at AWS.
    pub aws: AwsDestinations,
    /// Policy of the addresses that may be dialled.
    pub egress: Arc<Egress>,
    /// Settings of fetches.
    pub fetch: FetchSettings,
    /// Protocol by which group members are assigned partitions.
    pub group_protocol: GroupProtocol,
    /// Session timeout in the groups.
    pub session_timeout: Duration,
    /// Limits of the commits that need not be acknowledged when a batch starts.
    pub commit_window: CommitWindowLimits,
    /// Retry policy of invocations and destinations.
    pub retry: RetryPolicy,
}

/// Configuration of a mapping as the dataplane runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingSpec {
    /// Mapping id.
    pub id: MappingId,
    /// Topic name. A mapping reads one topic.
    pub topic: Arc<str>,
    /// Consumer group.
    pub group: String,
    /// Name of the function as invoked.
    pub function: Arc<str>,
    /// Bootstrap addresses of the cluster.
    pub bootstrap: Vec<BrokerAddress>,
    /// Event source as named in events.
    pub source: EventSource,
    /// `BatchSize`.
    pub batch_records_max: u32,
    /// `MaximumBatchingWindow`.
    pub window: Duration,
    /// Starting position.
    pub start: OffsetSpec,
    /// `MinimumPollers`, `MaximumPollers`.
    pub bounds: PollerBounds,
    /// Handling of failed records.
    pub failure: FailureSpec,
    /// Filters that select the records to deliver.
    pub filters: FilterCriteria,
}

/// Handling of a mapping's failed records, and their destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureSpec {
    /// Failure policy that the partitions apply.
    pub policy: FailureHandling,
    /// `ReportBatchItemFailures`.
    pub partial_responses: bool,
    /// `DestinationConfig.OnFailure`.
    pub destination: Option<FailureDestination>,
    /// Behaviour while the destination rejects records.
    pub on_destination_failure: OnDestinationFailure,
}

/// Consumer with its seat on an arbiter.
struct SeatedConsumer {
    address: Addr<ConsumerActor>,
    seat: ArbiterSeat,
}

/// Actors of a member that has joined. They end when it is dropped.
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
    /// Seat of the committer, shared with the first consumer: its commits then wake no other thread.
    home: ArbiterSeat,
    /// Seat reserved for the first consumer.
    reserved: Option<ArbiterSeat>,
    pub(super) shares: HashMap<usize, ArbiterShare>,
    consumers: BTreeMap<ConsumerId, SeatedConsumer>,
    member: Recipient<ConsumerReport>,
    /// Id of the next consumer. Ids are never reused between instances of `MappingActors` of one member.
    next_consumer: Arc<AtomicU32>,
    dead_letters: Option<Arc<dyn DeadLetterSink>>,
    fence: Arc<AtomicU64>,
    /// Called when an actor that all consumers share has died.
    pub(super) shared_death: Arc<dyn Fn(&'static str) + Send + Sync>,
}

/// Parts that `MappingActors` is built from.
pub struct WiringParts {
    /// Resources of the node.
    pub node: NodeResources,
    /// Memory share of the mapping.
    pub budget: MemoryBudget,
    /// Configuration of the mapping.
    pub run: MappingSpec,
    /// Cluster of the mapping.
    pub cluster: KafkaCluster,
    /// Membership in the consumer group.
    pub membership: Membership,
    /// Function that is invoked.
    pub function: InvokedFunction,
    /// Partition count at activation, filled in later.
    pub activated: Arc<AtomicI32>,
    /// Id of the next consumer, shared by all `MappingActors` of the member. A report of an earlier consumer is thus
    /// never taken for one of a later consumer.
    pub next_consumer: Arc<AtomicU32>,
    /// Epochs under which the consumers may start invocations.
    pub epochs: CurrentEpochs,
    /// Status of the mapping.
    pub status: MappingStatus,
    /// Recipient of consumer reports.
    pub member: Recipient<ConsumerReport>,
    /// Callback for the death of an actor that all consumers share.
    pub shared_death: Arc<dyn Fn(&'static str) + Send + Sync>,
}

impl MappingActors {
    /// Starts a committer, without consumers.
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
        let (mapping_status, watch) = (status.clone(), watch(&shared_death, "committer"));
        let committer = CommitterActor::start_in_arbiter(&node.placement.data(home.arbiter()), move |_| {
            CommitterActor::new(commits, mapping_status, watch)
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
            dead_letters: None,
            fence: Arc::new(AtomicU64::new(0)),
            shared_death,
        }
    }

    /// Returns the invocation slots of the mapping.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Returns the function.
    pub fn function(&self) -> &InvokedFunction {
        &self.function
    }

    /// Sets the group's generation, which the function receives as `fence`. It never decreases.
    pub fn set_fence(&self, generation: i32) {
        self.fence.fetch_max(u64::try_from(generation).unwrap_or_default(), Ordering::Relaxed);
    }

    /// Returns the ids of the running consumers.
    pub fn consumers(&self) -> Vec<ConsumerId> {
        self.consumers.keys().copied().collect()
    }

    /// Returns a consumer's address.
    pub fn consumer(&self, id: ConsumerId) -> Option<&Addr<ConsumerActor>> {
        self.consumers.get(&id).map(|consumer| &consumer.address)
    }

    /// Starts one more consumer.
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

    /// Stops a consumer. Partitions that it still owns are fenced.
    pub fn remove_consumer(&mut self, id: ConsumerId) {
        if let Some(SeatedConsumer { address, seat }) = self.consumers.remove(&id) {
            address.do_send(FencePartitions(None));
            if self.consumers.values().all(|other| other.seat.arbiter() != seat.arbiter()) {
                self.shares.remove(&seat.arbiter());
            }
        }
        self.set_ceiling();
    }

    /// Returns the seat of the next consumer. The first shares the committer's arbiter; the others go to the least
    /// loaded one.
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
        if self.dead_letters.is_none() {
            self.dead_letters = self.new_burial(&envelope, &servers);
        }
        let dead_letters = self.dead_letters.clone();
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
            commit_window: self.node.commit_window,
            buffer_bytes_target: BUFFER_BYTES_TARGET,
            budget: self.budget.clone(),
            in_flight: self.node.in_flight.clone(),
            dead_letters,
            router,
            committer: self.committer.clone(),
            batcher,
            member: self.member.clone(),
            status: self.status.clone(),
        }
    }
}

impl Drop for MappingActors {
    /// Fences the consumers: a consumer and its partitions hold each other's addresses, and only a message ends them.
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
