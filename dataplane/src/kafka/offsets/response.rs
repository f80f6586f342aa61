//! Matching of a response to the partitions of its request. Partitions that were not requested are ignored.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;

use super::by_leader::{FailedPartitions, LeaderResults};
use crate::kafka::error::{KafkaError, ResponseMismatch};

/// Query of some partitions of one topic.
pub(super) struct PartitionQuery<'a> {
    pub(super) api: ApiKey,
    pub(super) topic: &'a str,
    pub(super) partitions: &'a [i32],
}

impl PartitionQuery<'_> {
    /// Reads the part of each requested partition with `read`. Returns an error unless each partition has exactly
    /// one part.
    pub(super) fn match_response<P, T>(
        &self,
        parts: impl Iterator<Item = (i32, P)>,
        read: impl FnMut(P) -> Result<T, KafkaError>,
    ) -> Result<BTreeMap<i32, T>, KafkaError> {
        self.learn(parts, read).whole()
    }

    /// Reads the part of each requested partition with `read`. A partition without exactly one part is in `unknown`.
    pub(super) fn learn<P, T>(
        &self,
        parts: impl Iterator<Item = (i32, P)>,
        mut read: impl FnMut(P) -> Result<T, KafkaError>,
    ) -> LeaderResults<T> {
        let asked: BTreeSet<i32> = self.partitions.iter().copied().collect();
        let mut answers: BTreeMap<i32, Result<T, KafkaError>> = BTreeMap::new();
        for (partition, part) in parts.filter(|(partition, _)| asked.contains(partition)) {
            let answer = if answers.contains_key(&partition) {
                Err(self.unanswered(partition, ResponseMismatch::Duplicate))
            } else {
                read(part)
            };
            answers.insert(partition, answer);
        }
        let mut learnt = LeaderResults::default();
        for partition in asked {
            let left_out = || Err(self.unanswered(partition, ResponseMismatch::Missing));
            match answers.remove(&partition).unwrap_or_else(left_out) {
                Ok(answer) => drop(learnt.known.insert(partition, answer)),
                Err(error) => learnt.unknown.push(FailedPartitions { partitions: vec![partition], error }),
            }
        }
        learnt
    }

    /// Creates the error of a response that does not answer the query of `partition`.
    pub(super) fn unanswered(&self, partition: i32, what: ResponseMismatch) -> KafkaError {
        KafkaError::Unanswered { api: self.api, subject: self.subject(partition), what }
    }

    /// Creates the error of a broker's error code for `partition`.
    pub(super) fn refused(&self, partition: i32, code: ResponseError) -> KafkaError {
        KafkaError::broker(self.api, self.subject(partition), code)
    }

    fn subject(&self, partition: i32) -> String {
        format!("partition {}-{partition}", self.topic)
    }
}
