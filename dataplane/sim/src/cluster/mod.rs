//! Modelled cluster: two brokers, one topic, one group of either protocol.

mod answers;
mod batches;
mod consumers;
mod fetches;
mod foreign_member;
mod group;
mod partition_log;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use lighterman::kafka::fetch::session::{FetchPartition, SessionRequest};
use lighterman::kafka::offsets::{OffsetAndMetadata, OffsetSpec};
use lighterman::local::broker::coordinator::BrokerGroup;
use lighterman::local::broker::group_messages::JoinAnswer;
use lighterman::local::broker::kip848_coordinator::{
    ConsumerCoordinator, HeartbeatResponse, ReceivedHeartbeat,
};
use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::TopicId;
use lighterman_proto::units::Moment;

use self::fetches::BrokerSession;
use self::foreign_member::ForeignMember;
use self::partition_log::PartitionLog;
use super::schedule::FaultSchedule;

pub(super) const BROKERS: usize = 2;

/// Receiver of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyReceiver {
    /// `None` if nobody waits: the request is a duplicate, or its sender times out before it arrives.
    pub ask: Option<u64>,
    pub node: usize,
    pub life: u32,
    /// Moment at which the receiver times out.
    pub gives_up: Moment,
}

/// Request in transit.
#[derive(Debug)]
pub(super) struct BrokerRequest {
    /// Identifier of the request at its broker.
    pub id: u64,
    pub from: ReplyReceiver,
    pub broker: usize,
    pub request: RequestKind,
}

#[derive(Clone, Debug)]
pub(super) enum RequestKind {
    FindCoordinator,
    Metadata,
    Join {
        member: String,
        session: Duration,
        rebalance: Duration,
        subscription: Bytes,
    },
    Sync {
        member: String,
        generation: i32,
        shares: Vec<(String, Bytes)>,
    },
    Heartbeat {
        member: String,
        generation: i32,
    },
    Leave {
        member: String,
    },
    Commit {
        member: String,
        generation: i32,
        commits: BTreeMap<i32, OffsetAndMetadata>,
    },
    Committed {
        partitions: Vec<i32>,
    },
    ListOffsets {
        partitions: Vec<i32>,
        at: OffsetSpec,
    },
    /// Partition, epoch to look up, and the leader epoch known to the client.
    EpochEnds {
        known: Vec<(i32, i32, i32)>,
    },
    Beat(ReceivedHeartbeat),
    Fetch {
        step: SessionRequest,
        bytes_max: usize,
        wait: Duration,
    },
}

/// Fetch response of one partition.
#[derive(Clone, Debug)]
pub(super) struct FetchedPart {
    pub partition: TopicPartition,
    pub code: Option<Code>,
    pub diverging_end: Option<Offset>,
    pub records: Bytes,
    pub aborted: Vec<(i64, Offset)>,
    pub high_watermark: Offset,
}

#[derive(Clone, Debug)]
pub(super) enum BrokerReply {
    Coordinator(Result<usize, Code>),
    /// Topic id, and leader and leader epoch by partition.
    Topic(Option<TopicId>, Vec<(usize, i32)>),
    Joined(Box<JoinAnswer>),
    Synced(Result<Bytes, Code>),
    Heartbeat(Option<Code>),
    Told(Result<HeartbeatResponse, Code>),
    Left,
    Commit(BTreeMap<i32, Option<Code>>),
    Committed(Result<BTreeMap<i32, Option<OffsetAndMetadata>>, Code>),
    Offsets(Result<BTreeMap<i32, Offset>, Code>),
    EpochEnds(Result<BTreeMap<i32, Offset>, Code>),
    Fetched {
        code: Option<Code>,
        session: i32,
        parts: Vec<FetchedPart>,
    },
}

/// State of the modelled cluster.
pub(super) struct SimulatedCluster {
    /// Id of the topic; `None` for brokers without topic ids.
    pub topic_id: Option<TopicId>,
    pub logs: Vec<PartitionLog>,
    pub group: BrokerGroup,
    /// Group in schedules of the consumer protocol. Its committed offsets are in `group`.
    pub consumers: ConsumerCoordinator,
    pub coordinator: usize,
    /// End of the loading phase of a new coordinator.
    pub loading_until: Moment,
    pub stranger: ForeignMember,
    waiting: BTreeMap<u64, ReplyReceiver>,
    pub sessions: BTreeMap<i32, BrokerSession>,
    next_session: i32,
    parked: BTreeMap<u64, BrokerRequest>,
}

impl SimulatedCluster {
    pub(super) fn new(plan: &FaultSchedule) -> Self {
        let partitions = plan.partitions;
        let log = |partition: i32| PartitionLog::new(partition as usize % BROKERS);
        Self {
            topic_id: plan.topic_id,
            logs: (0..partitions).map(log).collect(),
            group: BrokerGroup::default(),
            consumers: ConsumerCoordinator::new(partitions, plan.session, plan.seed.is_multiple_of(2)),
            coordinator: 0,
            loading_until: Moment::default(),
            stranger: ForeignMember::default(),
            waiting: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_session: 1,
            parked: BTreeMap::new(),
        }
    }

    pub(super) fn add_log(&mut self) {
        let leader = self.logs.len() % BROKERS;
        self.logs.push(PartitionLog::new(leader));
    }

    pub(super) fn log(&self, partition: i32) -> Option<&PartitionLog> {
        self.logs.get(usize::try_from(partition).ok()?)
    }

    pub(super) fn committed(&self, topic: &str, partition: i32) -> Option<i64> {
        self.group.offsets.get(&(topic.to_owned(), partition)).map(|stored| stored.offset)
    }

    /// Returns true if everything in the logs is committed.
    pub(super) fn is_done(&self, topic: &str) -> bool {
        (0..).zip(&self.logs).all(|(partition, log)| {
            let stored = self.group.offsets.get(&(topic.to_owned(), partition));
            // An offset before a truncation may have the same number.
            stored.is_some_and(|at| at.offset == log.end && log.is_read_up_to(at.leader_epoch))
        })
    }
}

/// Partitions of a broker's fetch session.
pub(super) type WantedPartitions = BTreeMap<TopicPartition, FetchPartition>;
