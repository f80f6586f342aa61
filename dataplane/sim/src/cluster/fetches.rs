//! Fetches: broker sessions and long polls.

use std::collections::BTreeMap;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use lighterman::kafka::fetch::session::{FetchPartition, SessionRequest};
use lighterman_proto::ids::Offset;

use super::super::environment::{EnvironmentEvent, SimulatedEnvironment};
use super::super::schedule::FaultKind;
use super::{BrokerReply, BrokerRequest, FetchedPart, RequestKind, SimulatedCluster, WantedPartitions};

/// Maximum sessions of a broker.
const SESSIONS_MAX: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct BrokerSession {
    epoch: i32,
    broker: usize,
    wanted: WantedPartitions,
}

impl SimulatedEnvironment {
    pub(crate) fn fetch(&mut self, mut ask: BrokerRequest) {
        let RequestKind::Fetch { step, bytes_max, .. } = &mut ask.request else { return };
        let (step, bytes_max) = (
            std::mem::replace(
                step,
                SessionRequest { id: 0, epoch: 0, by_ids: false, asked: Vec::new(), forgotten: Vec::new() },
            ),
            *bytes_max,
        );
        match self.cluster.keep_session(&step, ask.broker) {
            Err(code) => self.answer_fetch(&ask, Some(code), 0, Vec::new()),
            Ok(session) => {
                if let RequestKind::Fetch { step, .. } = &mut ask.request {
                    step.id = session;
                }
                let parts = self.read_for(session, ask.broker, bytes_max);
                if parts.is_empty() {
                    self.park(ask);
                } else {
                    self.answer_fetch(&ask, None, session, parts);
                }
            }
        }
    }

    fn park(&mut self, ask: BrokerRequest) {
        let RequestKind::Fetch { wait, .. } = &ask.request else { return };
        let (wait, id) = (*wait, ask.id);
        self.cluster.parked.insert(id, ask);
        self.after(wait, EnvironmentEvent::FetchWaited { ask: id });
    }

    fn answer_fetch(
        &mut self,
        ask: &BrokerRequest,
        code: Option<Code>,
        session: i32,
        parts: Vec<FetchedPart>,
    ) {
        self.reply(ask.from, BrokerReply::Fetched { code, session, parts });
    }

    pub(crate) fn fetch_waited(&mut self, ask: u64) {
        if let Some(ask) = self.cluster.parked.remove(&ask) {
            self.answer_parked(&ask);
        }
    }

    /// Answers the parked fetches that have something to return.
    pub(crate) fn wake_fetches(&mut self) {
        for ask in std::mem::take(&mut self.cluster.parked).into_values() {
            let RequestKind::Fetch { step, bytes_max, .. } = &ask.request else { continue };
            if self.read_for(step.id, ask.broker, *bytes_max).is_empty() {
                self.cluster.parked.insert(ask.id, ask);
            } else {
                self.answer_parked(&ask);
            }
        }
    }

    fn answer_parked(&mut self, ask: &BrokerRequest) {
        let RequestKind::Fetch { step, bytes_max, .. } = &ask.request else { return };
        let parts = self.read_for(step.id, ask.broker, *bytes_max);
        self.answer_fetch(ask, None, step.id, parts);
    }

    fn read_for(&mut self, session: i32, broker: usize, bytes_max: usize) -> Vec<FetchedPart> {
        let trouble = self.draws_fault(FaultKind::ErrorCodes, 15);
        let odd = trouble.then(|| {
            self.random.pick(&[
                Code::NotLeaderOrFollower,
                Code::UnknownLeaderEpoch,
                Code::KafkaStorageError,
                Code::CorruptMessage,
                Code::OffsetNotAvailable,
            ])
        });
        let batches_max = 1 + self.random.below(4) as usize;
        let Some(known) = self.cluster.sessions.get(&session) else { return Vec::new() };
        let mut left = bytes_max;
        let mut parts = Vec::new();
        for (partition, asked) in &known.wanted {
            let mut part = self.cluster.read_one(partition.partition, asked, broker, left, batches_max);
            if odd.is_some() {
                (part.0, part.2) = (odd, Bytes::new());
            }
            let (code, diverging_end, records, high_watermark) = part;
            left = left.saturating_sub(records.len());
            if code.is_some() || diverging_end.is_some() || !records.is_empty() {
                let log = self.cluster.log(partition.partition);
                parts.push(FetchedPart {
                    aborted: log.map(|log| log.aborted_from(asked.position.0)).unwrap_or_default(),
                    partition: partition.clone(),
                    code,
                    diverging_end,
                    records,
                    high_watermark,
                });
            }
        }
        parts
    }
}

impl SimulatedCluster {
    fn keep_session(&mut self, step: &SessionRequest, broker: usize) -> Result<i32, Code> {
        if step.epoch == 0 {
            while self.sessions.len() >= SESSIONS_MAX {
                self.sessions.pop_first();
            }
            self.next_session += 1;
            let wanted: BTreeMap<_, _> = step.asked.iter().cloned().collect();
            self.sessions.insert(self.next_session, BrokerSession { epoch: 0, broker, wanted });
            return Ok(self.next_session);
        }
        let session = self.sessions.get_mut(&step.id).filter(|session| session.broker == broker);
        let session = session.ok_or(Code::FetchSessionIdNotFound)?;
        if step.epoch != session.epoch + 1 {
            return Err(Code::InvalidFetchSessionEpoch);
        }
        session.epoch = step.epoch;
        session.wanted.extend(step.asked.iter().cloned());
        for (partition, _) in &step.forgotten {
            session.wanted.remove(partition);
        }
        Ok(step.id)
    }

    fn read_one(
        &self,
        partition: i32,
        asked: &FetchPartition,
        broker: usize,
        left: usize,
        batches_max: usize,
    ) -> (Option<Code>, Option<Offset>, Bytes, Offset) {
        let nothing = |code| (Some(code), None, Bytes::new(), Offset(-1));
        let Some(log) = self.log(partition) else { return nothing(Code::UnknownTopicOrPartition) };
        if log.leader != broker {
            return nothing(Code::NotLeaderOrFollower);
        }
        if asked.current_leader_epoch >= 0 && asked.current_leader_epoch < log.epoch {
            return nothing(Code::FencedLeaderEpoch);
        }
        let position = asked.position.0;
        let end = Offset(log.end);
        if asked.last_fetched_epoch >= 0 {
            let ends = log.end_of_epoch(asked.last_fetched_epoch);
            if ends.0 < position {
                return (None, Some(ends), Bytes::new(), end);
            }
        }
        if position < log.start || position > log.end {
            return nothing(Code::OffsetOutOfRange);
        }
        (None, None, log.read(position, left, batches_max), end)
    }
}
