//! One question to the leaders of many partitions. A partition without a leader, and a leader that is out of reach, silent or
//! unwilling, say nothing of the others.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use crate::kafka::cluster::{KafkaCluster, PartitionLeader};
use crate::kafka::connection::BrokerConnection;
use crate::kafka::error::KafkaError;
use crate::kafka::transport::BrokerAddress;

/// How long the others wait for one leader that neither answers nor refuses.
const LEADER_DEADLINE: Duration = Duration::from_secs(6);

/// Answers by partition, and the partitions without one.
#[derive(Debug)]
pub struct LeaderResults<T> {
    /// The answer for each partition that has one.
    pub known: BTreeMap<i32, T>,
    /// The others; each is named once.
    pub unknown: Vec<FailedPartitions>,
}

/// Partitions of which nothing was learnt.
#[derive(Debug)]
pub struct FailedPartitions {
    /// Partition indexes.
    pub partitions: Vec<i32>,
    /// Why.
    pub error: KafkaError,
}

impl<T> Default for LeaderResults<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), unknown: Vec::new() }
    }
}

impl<T> LeaderResults<T> {
    /// Everything, or the first reason why it is not.
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

/// Puts `questions`, one about each partition, to the partitions' leaders, all leaders at once. `ask` gets the questions of one
/// leader, each with the leader epoch that we know.
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
