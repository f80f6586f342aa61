//! A request arrives: who serves it.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError as Code;
use lighterman_proto::ids::Offset;

use super::super::outside::Outside;
use super::super::plan::Kind;
use super::{Ask, Reply, Request};
use crate::kafka::offsets::{At, CommittedOffset};

impl Outside {
    /// Serves a request that has arrived.
    pub(in crate::sim) fn serve(&mut self, ask: Ask) {
        let reply = match &ask.request {
            Request::Join { .. } => return self.join(&ask),
            Request::Sync { .. } => return self.sync(&ask),
            Request::Heartbeat { .. } => return self.heartbeat(&ask),
            Request::Beat(_) => return self.beat(&ask),
            Request::Leave { .. } => return self.leave(&ask),
            Request::Commit { .. } => return self.commit(&ask),
            Request::Fetch { .. } => return self.fetch(ask),
            Request::FindCoordinator => self.found(),
            Request::Metadata => {
                let view = self.cluster.logs.iter().map(|log| (log.leader, log.epoch)).collect();
                Reply::Topic(self.cluster.topic_id, view)
            }
            Request::Committed { partitions } => self.fetch_offsets(ask.broker, partitions),
            Request::ListOffsets { partitions, at } => self.list(partitions, *at),
            Request::EpochEnds { known } => self.ends(known),
        };
        self.reply(ask.from, reply);
    }

    fn found(&mut self) -> Reply {
        let refuses = self.strikes(Kind::ErrorCodes, 30);
        Reply::Coordinator(if refuses {
            Err(Code::CoordinatorNotAvailable)
        } else {
            Ok(self.cluster.coordinator)
        })
    }

    fn fetch_offsets(&mut self, broker: usize, partitions: &[i32]) -> Reply {
        if broker != self.cluster.coordinator {
            return Reply::Committed(Err(Code::NotCoordinator));
        }
        if self.now < self.cluster.loading_until || self.strikes(Kind::ErrorCodes, 60) {
            return Reply::Committed(Err(Code::CoordinatorLoadInProgress));
        }
        let of = |partition: &i32| {
            let stored = self.cluster.group.offsets.get(&(self.topic.to_string(), *partition));
            let committed = stored.map(|stored| CommittedOffset {
                offset: Offset(stored.offset),
                leader_epoch: stored.leader_epoch,
                metadata: stored.metadata.clone(),
            });
            (*partition, committed)
        };
        Reply::Committed(Ok(partitions.iter().map(of).collect()))
    }

    fn list(&mut self, partitions: &[i32], at: At) -> Reply {
        if self.strikes(Kind::ErrorCodes, 40) {
            return Reply::Offsets(Err(Code::NotLeaderOrFollower));
        }
        let offset = |partition: &i32| {
            let log = self.cluster.log(*partition)?;
            Some((*partition, Offset(if at == At::Earliest { log.start } else { log.end })))
        };
        Reply::Offsets(Ok(partitions.iter().filter_map(offset).collect()))
    }

    fn ends(&mut self, known: &[(i32, i32, i32)]) -> Reply {
        if self.strikes(Kind::ErrorCodes, 40) {
            return Reply::EpochEnds(Err(Code::NotLeaderOrFollower));
        }
        let is_outdated = |(partition, _, leader_epoch): &(i32, i32, i32)| {
            self.cluster.log(*partition).is_some_and(|log| *leader_epoch < log.epoch)
        };
        if known.iter().any(is_outdated) {
            return Reply::EpochEnds(Err(Code::FencedLeaderEpoch));
        }
        let end = |(partition, epoch, _): &(i32, i32, i32)| {
            Some((*partition, self.cluster.log(*partition)?.end_of_epoch(*epoch)))
        };
        let ends: BTreeMap<i32, Offset> = known.iter().filter_map(end).collect();
        Reply::EpochEnds(Ok(ends))
    }
}
