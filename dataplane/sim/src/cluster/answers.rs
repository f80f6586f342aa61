//! Dispatch of requests that arrive at a broker.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError as Code;
use lighterman::kafka::offsets::{OffsetAndMetadata, OffsetSpec};
use lighterman_proto::ids::Offset;

use super::super::environment::SimulatedEnvironment;
use super::super::schedule::FaultKind;
use super::{BrokerReply, BrokerRequest, RequestKind};

impl SimulatedEnvironment {
    /// Serves a request that has arrived.
    pub(crate) fn serve(&mut self, ask: BrokerRequest) {
        let reply = match &ask.request {
            RequestKind::Join { .. } => return self.join(&ask),
            RequestKind::Sync { .. } => return self.sync(&ask),
            RequestKind::Heartbeat { .. } => return self.heartbeat(&ask),
            RequestKind::Beat(_) => return self.beat(&ask),
            RequestKind::Leave { .. } => return self.leave(&ask),
            RequestKind::Commit { .. } => return self.commit(&ask),
            RequestKind::Fetch { .. } => return self.fetch(ask),
            RequestKind::FindCoordinator => self.found(),
            RequestKind::Metadata => {
                let view = self.cluster.logs.iter().map(|log| (log.leader, log.epoch)).collect();
                BrokerReply::Topic(self.cluster.topic_id, view)
            }
            RequestKind::Committed { partitions } => self.fetch_offsets(ask.broker, partitions),
            RequestKind::ListOffsets { partitions, at } => self.list(partitions, *at),
            RequestKind::EpochEnds { known } => self.ends(known),
        };
        self.reply(ask.from, reply);
    }

    fn found(&mut self) -> BrokerReply {
        let refuses = self.draws_fault(FaultKind::ErrorCodes, 30);
        BrokerReply::Coordinator(if refuses {
            Err(Code::CoordinatorNotAvailable)
        } else {
            Ok(self.cluster.coordinator)
        })
    }

    fn fetch_offsets(&mut self, broker: usize, partitions: &[i32]) -> BrokerReply {
        if broker != self.cluster.coordinator {
            return BrokerReply::Committed(Err(Code::NotCoordinator));
        }
        if self.now < self.cluster.loading_until || self.draws_fault(FaultKind::ErrorCodes, 60) {
            return BrokerReply::Committed(Err(Code::CoordinatorLoadInProgress));
        }
        let of = |partition: &i32| {
            let stored = self.cluster.group.offsets.get(&(self.topic.to_string(), *partition));
            let committed = stored.map(|stored| OffsetAndMetadata {
                offset: Offset(stored.offset),
                leader_epoch: stored.leader_epoch,
                metadata: stored.metadata.clone(),
            });
            (*partition, committed)
        };
        BrokerReply::Committed(Ok(partitions.iter().map(of).collect()))
    }

    fn list(&mut self, partitions: &[i32], at: OffsetSpec) -> BrokerReply {
        if self.draws_fault(FaultKind::ErrorCodes, 40) {
            return BrokerReply::Offsets(Err(Code::NotLeaderOrFollower));
        }
        let offset = |partition: &i32| {
            let log = self.cluster.log(*partition)?;
            Some((*partition, Offset(if at == OffsetSpec::Earliest { log.start } else { log.end })))
        };
        BrokerReply::Offsets(Ok(partitions.iter().filter_map(offset).collect()))
    }

    fn ends(&mut self, known: &[(i32, i32, i32)]) -> BrokerReply {
        if self.draws_fault(FaultKind::ErrorCodes, 40) {
            return BrokerReply::EpochEnds(Err(Code::NotLeaderOrFollower));
        }
        let is_outdated = |(partition, _, leader_epoch): &(i32, i32, i32)| {
            self.cluster.log(*partition).is_some_and(|log| *leader_epoch < log.epoch)
        };
        if known.iter().any(is_outdated) {
            return BrokerReply::EpochEnds(Err(Code::FencedLeaderEpoch));
        }
        let end = |(partition, epoch, _): &(i32, i32, i32)| {
            Some((*partition, self.cluster.log(*partition)?.end_of_epoch(*epoch)))
        };
        let ends: BTreeMap<i32, Offset> = known.iter().filter_map(end).collect();
        BrokerReply::EpochEnds(Ok(ends))
    }
}
