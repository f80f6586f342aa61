//! The task that polls one broker for one router: one session, one request in flight, bytes leased before they are asked
//! for. What it cannot settle itself goes back to the router.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, FetchRequest};
use lighterman_proto::ids::{Offset, TopicPartition};
use tokio::sync::Notify;

use super::messages::{FetchTrouble, Fetched, FetchedRecords, Want, Watermarks};
use super::router::{FetchRouter, FetchSettings, FetchStatus, Misplaced};
use super::session::{Asked, Session};
use super::wire::{self, Part, Poll, Refused};
use crate::credit::bytes::{ByteBudget, Lease};
use crate::kafka::backoff::{Backoff, random};
use crate::kafka::cluster::{Cluster, REQUEST_DEADLINE};
use crate::kafka::connection::Connection;
use crate::kafka::error::KafkaError;
use crate::kafka::offsets::{At, list_offsets};
use crate::kafka::transport::BrokerAddress;
use crate::runtime::outbox::post;

const WAIT: Duration = Duration::from_millis(500);
/// While some partitions of the broker have no room, polls are short: the moment they have room they must be asked for.
const WAIT_WHILE_SOME_REST: Duration = Duration::from_millis(20);
const BYTES_MIN: usize = 64 * 1024;
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Turns given to partitions between a delivery and the next request, so that their next wants are in it.
const TURNS_AFTER_DELIVERY: usize = 8;

/// What router and task share; both live on one arbiter.
#[derive(Default)]
pub(super) struct Desk {
    /// Open wants, with the leader epoch that metadata knew.
    pub wants: BTreeMap<TopicPartition, (Want, i32)>,
    /// Partitions led by this broker that have no room now.
    pub resting: BTreeSet<TopicPartition>,
    /// The router is gone, or the broker leads nothing of ours any more.
    pub closed: bool,
}

/// The desk and the bell on it.
#[derive(Clone, Default)]
pub(super) struct SharedDesk {
    pub desk: Rc<RefCell<Desk>>,
    pub changed: Rc<Notify>,
}

pub(super) struct BrokerTask {
    pub cluster: Cluster,
    pub address: BrokerAddress,
    pub budget: ByteBudget,
    pub settings: FetchSettings,
    pub shared: SharedDesk,
    pub router: Addr<FetchRouter>,
    pub status: Arc<dyn FetchStatus>,
    pub session: Session,
    pub backoff: Backoff,
}

impl BrokerTask {
    pub(super) async fn run(mut self) {
        let mut connection = None;
        while self.wait_for_wants().await {
            let polled = self.poll(&mut connection).await;
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

    /// False when the desk has closed.
    async fn wait_for_wants(&self) -> bool {
        loop {
            {
                let desk = self.shared.desk.borrow();
                if desk.closed {
                    return false;
                }
                if !desk.wants.is_empty() {
                    return true;
                }
            }
            self.shared.changed.notified().await;
        }
    }

    async fn poll(&mut self, connection: &mut Option<Connection>) -> Result<(), KafkaError> {
        let connection = match connection {
            Some(open) => open,
            none => {
                self.session.reset();
                none.insert(self.cluster.connect(&self.address).await?)
            }
        };
        let version = connection.pick(ApiKey::Fetch, wire::FETCH)?;
        let lease = self.budget.lease(self.bytes_to_ask()).await;
        let (request, wait) = {
            let desk = self.shared.desk.borrow();
            if desk.wants.is_empty() || desk.closed {
                return Ok(());
            }
            let wanted: BTreeMap<_, _> =
                desk.wants.iter().map(|(key, want)| (key.clone(), asked(want))).collect();
            let wait = if desk.resting.is_empty() { WAIT } else { WAIT_WHILE_SOME_REST };
            let poll = Poll { wait, bytes_max: lease.bytes(), isolation: self.settings.isolation };
            (wire::request(&self.session.next(&wanted), &poll, version), wait)
        };
        let pending = connection.send(&request, version, REQUEST_DEADLINE).await?;
        let reply = connection.receive::<FetchRequest>(pending, wait + REQUEST_DEADLINE).await?;
        let throttle = Duration::from_millis(u64::try_from(reply.throttle_time_ms).unwrap_or_default());
        match ResponseError::try_from_code(reply.error_code) {
            None => self.session.answered(reply.session_id),
            Some(ResponseError::FetchSessionIdNotFound | ResponseError::InvalidFetchSessionEpoch) => {
                self.session.reset();
                return Ok(());
            }
            Some(code) => return Err(KafkaError::broker(ApiKey::Fetch, self.address.to_string(), code)),
        }
        self.status.reachable();
        self.deliver(wire::parts(reply), lease).await;
        if !throttle.is_zero() {
            tokio::time::sleep(throttle).await;
        }
        Ok(())
    }

    fn bytes_to_ask(&self) -> usize {
        let desk = self.shared.desk.borrow();
        let room: usize = desk.wants.values().map(|(want, _)| want.bytes_max as usize).sum();
        room.clamp(BYTES_MIN, BYTES_MAX.min(self.budget.limit() / 4).max(BYTES_MIN))
    }

    async fn deliver(&mut self, parts: Vec<Part>, mut lease: Lease) {
        let held: usize = parts.iter().map(|part| part.records.len()).sum();
        lease.shrink_to(held);
        lease.grow_to(held);
        let served = parts.iter().filter(|part| !part.records.is_empty()).count();
        let apart = served > 1 && self.budget.is_pressed();
        let mut whole = Some(lease);
        let shared = if apart { None } else { whole.take().map(Arc::new) };
        for part in parts {
            let hold = match (&shared, &mut whole) {
                (Some(shared), _) => Arc::clone(shared),
                (None, Some(lease)) => Arc::new(lease.split(part.records.len())),
                (None, None) => continue,
            };
            self.settle(part, hold, apart).await;
        }
        drop((shared, whole));
        for _ in 0..TURNS_AFTER_DELIVERY {
            tokio::task::yield_now().await;
        }
    }

    /// A slow partition must not pin a large frame for the others while bytes are short: `apart` copies its slice out.
    async fn settle(&mut self, part: Part, hold: Arc<Lease>, apart: bool) {
        match ResponseError::try_from_code(part.error_code) {
            None if part.diverging_end.is_some() => {
                let end = part.diverging_end.unwrap_or(Offset(0));
                self.answer(&part.partition, Err(FetchTrouble::Diverged { end }));
            }
            None if part.records.is_empty() => self.show_watermarks(&part),
            None => {
                let records = if apart { Bytes::copy_from_slice(&part.records) } else { part.records };
                let high_watermark = Offset(part.high_watermark);
                let fetched = FetchedRecords { records, hold, high_watermark, aborted: part.aborted };
                self.answer(&part.partition, Ok(fetched));
            }
            Some(code) => match wire::refused(code) {
                Refused::OutOfRange => self.settle_out_of_range(&part.partition).await,
                Refused::Trouble(trouble) => self.answer(&part.partition, Err(trouble)),
                Refused::Misplaced => self.hand_back(&part.partition),
            },
        }
    }

    /// The leader itself is asked for the log's bounds: only it knows (H14).
    async fn settle_out_of_range(&mut self, partition: &TopicPartition) {
        let (topic, index) = (&*partition.topic, [partition.partition]);
        let isolation = self.settings.isolation;
        let start = list_offsets(&self.cluster, topic, &index, At::Earliest, isolation).await;
        let end = list_offsets(&self.cluster, topic, &index, At::Latest, isolation).await;
        match (start, end) {
            (Ok(start), Ok(end)) => {
                let bounds = (start.get(&partition.partition), end.get(&partition.partition));
                if let (Some(log_start), Some(log_end)) = bounds {
                    let trouble = FetchTrouble::OutOfRange { log_start: *log_start, log_end: *log_end };
                    self.answer(partition, Err(trouble));
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%partition, %error, "log bounds not known yet");
                self.hand_back(partition);
            }
        }
    }

    fn answer(&self, partition: &TopicPartition, outcome: Result<FetchedRecords, FetchTrouble>) {
        let want = {
            let mut desk = self.shared.desk.borrow_mut();
            // A want that was replaced while the poll was under way is not answered with what its predecessor asked for.
            let is_same =
                |(want, _): &(Want, i32)| self.session.position_of(partition) == Some(want.position);
            if !desk.wants.get(partition).is_some_and(is_same) {
                return;
            }
            desk.resting.insert(partition.clone());
            desk.wants.remove(partition)
        };
        if let Some((want, _)) = want {
            let _ = post(&want.reply, Fetched { epoch: want.epoch, position: want.position, outcome });
        }
    }

    fn show_watermarks(&self, part: &Part) {
        let desk = self.shared.desk.borrow();
        if let Some((want, _)) = desk.wants.get(&part.partition)
            && part.high_watermark >= 0
        {
            let high_watermark = Offset(part.high_watermark);
            let _ = post(&want.watermarks, Watermarks { epoch: want.epoch, high_watermark });
        }
    }

    fn hand_back(&self, partition: &TopicPartition) {
        let want = self.shared.desk.borrow_mut().wants.remove(partition);
        if let Some((want, _)) = want {
            self.router.do_send(Misplaced(vec![want]));
        }
    }

    fn hand_back_all(&self) {
        let wants = std::mem::take(&mut self.shared.desk.borrow_mut().wants);
        self.router.do_send(Misplaced(wants.into_values().map(|(want, _)| want).collect()));
    }
}

fn asked((want, current_leader_epoch): &(Want, i32)) -> Asked {
    Asked {
        position: want.position,
        bytes_max: want.bytes_max,
        current_leader_epoch: *current_leader_epoch,
        last_fetched_epoch: want.leader_epoch.unwrap_or(-1),
    }
}
