//! Queries of many partitions, sent to their leaders. A missing, unreachable, silent or rejecting leader does not
//! affect the other partitions.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use crate::kafka::cluster::{KafkaCluster, PartitionLeader};
use crate::kafka::connection::BrokerConnection;
use crate::kafka::error::KafkaError;
use crate::kafka::transport::BrokerAddress;

/// Deadline of one leader, so that a silent one does not delay the results of the others for longer.
const LEADER_DEADLINE: Duration = Duration::from_secs(6);

/// Results by partition, and the partitions without one.
#[derive(Debug)]
pub struct LeaderResults<T> {
    /// Result of each partition that has one.
    pub known: BTreeMap<i32, T>,
    /// Partitions without a result, each listed once.
    pub unknown: Vec<FailedPartitions>,
}

/// Partitions whose query failed.
#[derive(Debug)]
pub struct FailedPartitions {
    /// Partition indexes.
    pub partitions: Vec<i32>,
    /// Common cause of the failure.
    pub error: KafkaError,
}

impl<T> Default for LeaderResults<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), unknown: Vec::new() }
    }
}

impl<T> LeaderResults<T> {
    /// Returns all results, or the first error if any partition failed.
    pub fn whole(mut self) -> Result<BTreeMap<i32, T>, KafkaError> {
        if self.unknown.is_empty() { Ok(self.known) } else { Err(self.unknown.swap_remove(0).error) }
    }

    pub(super) fn of_none(partitions: Vec<i32>, error: KafkaError) -> Self {
        Self { known: BTreeMap::new(), unknown: vec![FailedPartitions { partitions, error }] }
    }

    pub(super) fn join(&mut self, other: Self) {
        self.known.extend(other.known);
        self.unknown.extend(other.unknown);
    }
}

/// Sends `questions`, one for each partition, to the partitions' leaders, to all leaders concurrently. `ask` gets
/// the questions of one leader, each with the leader epoch from metadata.
pub(super) async fn ask_leaders<Q: Copy, T>(
    cluster: &KafkaCluster,
    topic: &str,
    questions: &[(i32, Q)],
    ask: impl AsyncFn(&mut BrokerConnection, &[(i32, Q, i32)]) -> LeaderResults<T>,
) -> LeaderResults<T> {
    let mut learnt = LeaderResults::default();
    let mut by_leader: BTreeMap<BrokerAddress, Vec<(i32, Q, i32)>> = BTreeMap::new();
    for (partition, question) in questions {
        match cluster.leader(topic, *partition) {
            Some(PartitionLeader { address, epoch, .. }) => {
                by_leader.entry(address).or_default().push((*partition, *question, epoch));
            }
            None => {
                let error = KafkaError::NoLeader { partition: format!("{topic}-{partition}") };
                learnt.unknown.push(FailedPartitions { partitions: vec![*partition], error });
            }
        }
    }
    let one = async |address: &BrokerAddress, questions: &[(i32, Q, i32)]| {
        let asked = async {
            let mut connection = cluster.connect(address).await?;
            Ok(ask(&mut connection, questions).await)
        };
        let late = KafkaError::LeaderSilent { address: address.clone(), after: LEADER_DEADLINE };
        let answer = timeout(LEADER_DEADLINE, asked).await.unwrap_or(Err(late));
        let partitions = || questions.iter().map(|(partition, ..)| *partition).collect();
        answer.unwrap_or_else(|error| LeaderResults::of_none(partitions(), error))
    };
    let answers = join_all(by_leader.iter().map(|(address, questions)| one(address, questions))).await;
    for answer in answers {
        learnt.join(answer);
    }
    learnt
}
