//! Task that polls one broker for one router. It has one session and one request in flight, and leases bytes before
//! it requests them. Fetches that it cannot settle go back to the router. The task ends with the router.

mod responses;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::WeakAddr;
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, FetchRequest};
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::TopicId;
use tokio::sync::Notify;

use self::responses::UnsettledParts;
use super::messages::{FetchAnswered, FetchError, FetchRequested, FetchedRecords, HighWatermarkSeen};
use super::pending::{
    FetchSpec, FrameLeases, PartitionReply, PendingFetches, classify_reply, is_session_lost,
};
use super::places::{NumberedWant, ReturnedWant};
use super::router::{FetchRouter, FetchSettings, FetchStatus, LeaderMoved};
use super::session::FetchSession;
use super::wire::{self, ErrorAction, FetchParams, PartitionResponse};
use crate::credit::memory_budget::{MemoryBudget, MemoryLease, Overdraft};
use crate::kafka::cluster::{KafkaCluster, REQUEST_DEADLINE};
use crate::kafka::connection::BrokerConnection;
use crate::kafka::error::KafkaError;
use crate::kafka::offsets::log_ends;
use crate::kafka::transport::BrokerAddress;
use crate::runtime::backoff::{Backoff, random};
use crate::runtime::clock;
use crate::runtime::live_count::LiveCount;
use crate::runtime::outbox::post;

const WAIT: Duration = Duration::from_millis(500);
/// Idle time after which the connection is closed, as by Java's client (`connections.max.idle.ms`). A broker closes
/// idle connections later, after ten minutes.
const IDLE_MAX: Duration = Duration::from_secs(9 * 60);
/// Interval at which a waiting task checks for log ends to request and for fetches still pending.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// Limit on a throttle. Kafka's quotas delay a client by some seconds at most (`quota.window.num` windows of a
/// second).
const THROTTLE_MAX: Duration = Duration::from_secs(30);
/// Yields between a delivery and the next request, so that it includes the partitions' next fetches.
const TURNS_AFTER_DELIVERY: usize = 8;

/// Pending fetches of a broker and the notification of changes to them. Router and task share them on one arbiter.
#[derive(Clone, Default)]
pub(super) struct SharedFetches {
    pub fetches: Rc<RefCell<PendingFetches<NumberedWant<FetchRequested>>>>,
    pub changed: Rc<Notify>,
    /// True if the broker addresses topics by name. It serves a recreated topic as if it were the previous one.
    pub by_names: Rc<Cell<bool>>,
}

pub(super) struct BrokerTask {
    pub cluster: KafkaCluster,
    pub address: BrokerAddress,
    pub budget: MemoryBudget,
    pub settings: FetchSettings,
    pub shared: SharedFetches,
    /// Router that owns the task. With a strong address, both would live forever.
    pub router: WeakAddr<FetchRouter>,
    pub status: Arc<dyn FetchStatus>,
    pub session: FetchSession,
    pub backoff: Backoff,
    pub _count: LiveCount,
}

impl BrokerTask {
    pub(super) async fn run(mut self) {
        let mut connection = None;
        loop {
            let polled = match self.wait_for_wants(&mut connection).await {
                Ok(()) => self.poll(&mut connection).await,
                Err(error) => Err(error),
            };
            match polled {
                Ok(()) => self.backoff.reset(),
                Err(error) => {
                    connection = None;
                    self.session.reset();
                    self.status.unreachable(&error);
                    tracing::debug!(broker = %self.address, %error, "poll failed");
                    tokio::time::sleep(self.backoff.next(random())).await;
                    self.hand_back_all();
                }
            }
        }
    }

    async fn wait_for_wants(&mut self, connection: &mut Option<BrokerConnection>) -> Result<(), KafkaError> {
        let shared = self.shared.clone();
        while shared.fetches.borrow().is_empty() {
            // While a partition is paused, log ends are requested so often that the connection is never idle.
            let is_deserted = shared.fetches.borrow().is_deserted();
            tokio::select! {
                () = shared.changed.notified() => {}
                () = tokio::time::sleep(IDLE_MAX), if is_deserted => *connection = None,
                () = tokio::time::sleep(LOOK_AROUND), if !is_deserted => self.tell_log_ends(connection).await?,
            }
        }
        Ok(())
    }

    async fn dial<'c>(
        &mut self,
        connection: &'c mut Option<BrokerConnection>,
    ) -> Result<&'c mut BrokerConnection, KafkaError> {
        Ok(match connection {
            Some(open) => open,
            none => {
                self.session.reset();
                none.insert(self.cluster.connect(&self.address).await?)
            }
        })
    }

    /// Leases memory for the next poll. Returns `None` if no fetch is pending any more.
    async fn lease(
        &mut self,
        connection: &mut Option<BrokerConnection>,
    ) -> Result<Option<MemoryLease>, KafkaError> {
        let budget = self.budget.clone();
        let most = self.shared.fetches.borrow().bytes_to_ask(budget.limit());
        let mut leased = pin!(budget.lease_for_records(budget.fetch_bytes_min().min(most), most));
        loop {
            tokio::select! {
                biased;
                lease = &mut leased => return Ok(Some(lease)),
                () = tokio::time::sleep(LOOK_AROUND) => self.tell_log_ends(connection).await?,
            }
            if self.shared.fetches.borrow().is_empty() {
                return Ok(None);
            }
        }
    }

    /// Reports log ends that no poll has reported for a while, because their partitions are paused or memory is
    /// short. One request covers all of them. A log end that the broker does not return is reported as unknown.
    async fn tell_log_ends(&mut self, connection: &mut Option<BrokerConnection>) -> Result<(), KafkaError> {
        let unheard = self.shared.fetches.borrow_mut().take_unheard(clock::now());
        let Some(topic) = unheard.first().map(|partition| Arc::clone(&partition.topic)) else {
            return Ok(());
        };
        let partitions: Vec<i32> = unheard.iter().map(|partition| partition.partition).collect();
        let asked = self.ask_log_ends(connection, &topic, &partitions).await;
        let end_of = |partition: &TopicPartition| asked.as_ref().ok()?.get(&partition.partition).copied()?;
        for partition in &unheard {
            self.show_log_end(partition, end_of(partition));
        }
        // The broker may have stopped leading these partitions. No poll would show that for paused partitions.
        let untold: BTreeSet<&TopicPartition> =
            unheard.iter().filter(|partition| end_of(partition).is_none()).collect();
        self.hand_back_resting(|partition| untold.contains(partition));
        asked.map(|_| ())
    }

    async fn ask_log_ends(
        &mut self,
        connection: &mut Option<BrokerConnection>,
        topic: &str,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, Option<Offset>>, KafkaError> {
        let isolation = self.settings.isolation;
        let ends = log_ends(self.dial(connection).await?, topic, partitions, isolation).await?;
        self.status.reachable();
        Ok(ends)
    }

    async fn poll(&mut self, connection: &mut Option<BrokerConnection>) -> Result<(), KafkaError> {
        self.tell_log_ends(connection).await?;
        let version = self.dial(connection).await?.pick(ApiKey::Fetch, wire::FETCH)?;
        let speaks_ids = version >= wire::BY_IDS;
        self.shared.by_names.set(!speaks_ids);
        let Some(mut lease) = self.lease(connection).await? else { return Ok(()) };
        let connection = self.dial(connection).await?;
        let (request, version, wait) = {
            let mut fetches = self.shared.fetches.borrow_mut();
            if fetches.is_empty() {
                return Ok(());
            }
            let wait = fetches.wait(WAIT, clock::now());
            let step = fetches.next(&mut self.session, speaks_ids);
            let version = wire::version_of(&step, version);
            let bytes_max = fetches.record_bytes(lease.bytes());
            let poll = FetchParams { wait, bytes_max, isolation: self.settings.isolation };
            (wire::request(&step, &poll, version), version, wait)
        };
        let pending = connection.send(&request, version, REQUEST_DEADLINE).await?;
        let arriving = connection.await_reply(pending, wait + REQUEST_DEADLINE).await?;
        // A broker sends the first batch whole, even if it exceeds the requested size (KIP-74).
        let missing = arriving.bytes().saturating_sub(lease.bytes());
        if missing > 0 {
            lease.join(self.budget.lease_or_overdraft(missing, Overdraft::Fetched).await);
        }
        let reply = connection.receive_rest::<FetchRequest>(arriving, REQUEST_DEADLINE).await?;
        let throttle = Duration::from_millis(u64::try_from(reply.throttle_time_ms).unwrap_or_default());
        let session = reply.session_id;
        match ResponseError::try_from_code(reply.error_code) {
            None => {}
            Some(code) if is_session_lost(code) => {
                self.session.reset();
                return Ok(());
            }
            Some(code) => return Err(KafkaError::broker(ApiKey::Fetch, self.address.to_string(), code)),
        }
        let parts = wire::parts(reply, &self.session);
        // A response to a throttled client carries nothing else (KIP-219).
        let is_put_off = parts.is_empty() && !throttle.is_zero();
        let misfit =
            self.session.check_response(parts.iter().map(|part| &part.partition)).filter(|_| !is_put_off);
        if let Some((partition, what)) = misfit {
            let subject = format!("partition {partition}");
            return Err(KafkaError::Unanswered { api: ApiKey::Fetch, subject, what });
        }
        self.session.answered(session);
        self.status.reachable();
        let brought = parts.iter().map(|part| part.records.len()).sum();
        self.shared.fetches.borrow_mut().answered(brought, clock::now());
        self.deliver(parts, lease).await;
        self.status.throttled(throttle);
        if !throttle.is_zero() {
            tokio::time::sleep(throttle.min(THROTTLE_MAX)).await;
        }
        Ok(())
    }

    async fn deliver(&mut self, parts: Vec<PartitionResponse>, lease: MemoryLease) {
        let sizes = parts.iter().map(|part| part.records.len());
        let mut holds = FrameLeases::new(sizes, lease, &self.budget);
        let apart = holds.are_apart();
        let mut unsettled = UnsettledParts::default();
        for part in parts {
            if let Some(hold) = holds.next(part.records.len()) {
                self.answer_partition(part, hold, apart, &mut unsettled);
            }
        }
        drop(holds);
        self.settle_together(unsettled).await;
        for _ in 0..TURNS_AFTER_DELIVERY {
            tokio::task::yield_now().await;
        }
    }

    fn answer_partition(
        &self,
        part: PartitionResponse,
        hold: Arc<MemoryLease>,
        apart: bool,
        unsettled: &mut UnsettledParts,
    ) {
        let code = ResponseError::try_from_code(part.error_code);
        match classify_reply(code, part.diverging_end, part.records.is_empty()) {
            PartitionReply::Nothing => self.show_watermarks(&part),
            PartitionReply::Records => {
                let records = if apart { Bytes::copy_from_slice(&part.records) } else { part.records };
                let high_watermark = Offset(part.high_watermark);
                let fetched = FetchedRecords { records, hold, high_watermark, aborted: part.aborted };
                self.answer(&part.partition, Ok(fetched));
            }
            PartitionReply::Diverged(end) => unsettled.diverged(part.partition, end),
            PartitionReply::Refused(ErrorAction::OutOfRange) => unsettled.out_of_range(part.partition),
            PartitionReply::Refused(ErrorAction::Trouble(trouble)) => {
                self.answer(&part.partition, Err(trouble));
            }
            PartitionReply::Refused(ErrorAction::Misplaced) => self.release_unsent(&[part.partition]),
        }
    }

    fn answer(&self, partition: &TopicPartition, outcome: Result<FetchedRecords, FetchError>) {
        let want = self.shared.fetches.borrow_mut().take(partition, &self.session, clock::now());
        if let Some(NumberedWant { want, .. }) = want {
            let _ = post(&want.reply, FetchAnswered { epoch: want.epoch, position: want.position, outcome });
        }
    }

    fn show_watermarks(&self, part: &PartitionResponse) {
        if part.high_watermark >= 0 {
            self.show_log_end(&part.partition, Some(Offset(part.high_watermark)));
        }
    }

    fn show_log_end(&self, partition: &TopicPartition, high_watermark: Option<Offset>) {
        if let Some(NumberedWant { want, .. }) = self.shared.fetches.borrow().last_want(partition) {
            let _ = post(&want.watermarks, HighWatermarkSeen { epoch: want.epoch, high_watermark });
        }
    }

    fn release_unsent(&self, partitions: &[TopicPartition]) {
        let mut fetches = self.shared.fetches.borrow_mut();
        let wants = partitions.iter().filter_map(|partition| fetches.release(partition));
        let returned = wants.map(ReturnedWant::open).collect();
        drop(fetches);
        self.bring_back(returned);
    }

    fn hand_back_resting(&self, is_elsewhere: impl Fn(&TopicPartition) -> bool) {
        let resting = self.shared.fetches.borrow_mut().take_resting(is_elsewhere);
        self.bring_back(resting.into_iter().map(ReturnedWant::resting).collect());
    }

    fn hand_back_all(&self) {
        self.bring_back(self.shared.take_all());
    }

    fn bring_back(&self, returned: Vec<ReturnedWant<FetchRequested>>) {
        if let Some(router) = self.router.upgrade().filter(|_| !returned.is_empty()) {
            router.do_send(LeaderMoved(returned));
        }
    }
}

impl SharedFetches {
    /// Removes and returns all fetches, pending and paused.
    pub(super) fn take_all(&self) -> Vec<ReturnedWant<FetchRequested>> {
        let mut fetches = self.fetches.borrow_mut();
        let wants = fetches.hand_back_all().into_iter().map(ReturnedWant::open);
        wants.chain(fetches.take_resting(|_| true).into_iter().map(ReturnedWant::resting)).collect()
    }
}

impl FetchSpec for FetchRequested {
    fn topic(&self) -> Option<TopicId> {
        self.topic
    }

    fn position(&self) -> Offset {
        self.position
    }

    fn leader_epoch(&self) -> Option<i32> {
        self.leader_epoch
    }

    fn bytes_max(&self) -> u32 {
        self.bytes_max
    }
}
