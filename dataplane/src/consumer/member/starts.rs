//! Finds out where partitions begin, and commits it where nobody has (H11, H18).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use thiserror::Error;
use tokio::sync::Mutex;

use crate::consumer::messages::Position;
use crate::error::Class;
use crate::kafka::cluster::Cluster;
use crate::kafka::error::KafkaError;
use crate::kafka::group::{Membership, Standing};
use crate::kafka::offsets::{
    At, CommitOffset, CommittedOffset, Isolation, KnownEpoch, epoch_ends, list_offsets,
};
use crate::offsets::start::{self, Known, StartPlan};

const METADATA_AGE_MAX: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Where the partitions of one assignment go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Starts {
    /// Where each goes on.
    pub positions: BTreeMap<i32, Position>,
    /// Number of partitions that the starting position was resolved for.
    pub activated: i32,
}

/// Why partitions cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The broker did not answer as it should.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The resolved offsets could not be committed.
    #[error("the starting position could not be committed: {0}")]
    Commit(KafkaError),
    /// Commits that were there are gone.
    #[error(
        "the group's committed offsets of partitions {0:?} are gone (expired or deleted): \
         starting anywhere could lose or repeat records. Set them with kafka-consumer-groups --reset-offsets"
    )]
    Alarm(Vec<i32>),
}

impl StartError {
    /// True when a beginning was committed and not answered: it may be served yet, and what is found meanwhile may change.
    pub(super) fn may_be_served(&self) -> bool {
        matches!(self, Self::Commit(error) if error.may_be_served())
    }

    /// True when only our place in the group has changed since we looked.
    fn is_overtaken(&self) -> bool {
        match self {
            Self::Kafka(error) | Self::Commit(error) => {
                error.class() == Class::Fenced || error.code() == Some(ResponseError::RebalanceInProgress)
            }
            Self::Alarm(_) => false,
        }
    }
}

/// Everything that resolving needs.
pub struct Resolver {
    /// Our membership.
    pub membership: Membership,
    /// The generation that gave us the partitions. A beginning is committed under no other: in the next one it may be
    /// another's, who has delivered since.
    pub generation: i32,
    /// The cluster.
    pub cluster: Cluster,
    /// The mapping's topic.
    pub topic: String,
    /// The mapping's starting position.
    pub at: At,
    /// Isolation.
    pub isolation: Isolation,
    /// One looks and commits at a time: of two, the later would commit a beginning over what was delivered since. Nothing is
    /// released meanwhile: whoever gets it next must find what was committed here, and nothing committed after.
    pub turn: Arc<Mutex<()>>,
}

impl Resolver {
    /// The starts of `added`; commits what nobody has committed before it returns. `None` when our place in the group has
    /// changed meanwhile: then all is to be looked at anew.
    pub async fn resolve(&self, added: &[i32]) -> Result<Option<Starts>, StartError> {
        loop {
            let turn = self.turn.lock().await;
            let standing = self.membership.standing();
            let standing = standing.filter(|now| start::still_holds(self.generation, now.generation));
            let Some(standing) = standing else { return Ok(None) };
            if !added.iter().all(|partition| standing.kept.contains(partition)) {
                return Ok(None);
            }
            match self.resolve_under(&standing, added).await {
                Ok(Some(starts)) => return Ok(Some(starts)),
                Ok(None) => {}
                Err(error) if error.is_overtaken() => return Ok(None),
                Err(error) => return Err(error),
            }
            drop(turn);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The starts of `ours`; `None` while another must act first.
    async fn resolve_under(&self, standing: &Standing, ours: &[i32]) -> Result<Option<Starts>, StartError> {
        let view = self.cluster.topic(&self.topic, METADATA_AGE_MAX).await?;
        let all: Vec<i32> = view.iter().map(|partition| partition.partition).collect();
        loop {
            let committed = self.membership.committed(standing, all.clone()).await?;
            let known = known_of(&committed);
            match start::plan(&known, ours) {
                StartPlan::GoOn => {
                    let mut starts = starts(&committed, &known, ours, all.len());
                    self.go_back_where_histories_part(&mut starts).await?;
                    return Ok(Some(starts));
                }
                StartPlan::Activate { partitions } => {
                    self.commit_at(standing, &partitions, self.at, all.len() as i32).await?;
                }
                StartPlan::BeginNew { partitions, activated } => {
                    self.commit_at(standing, &partitions, At::Earliest, activated).await?;
                }
                StartPlan::Wait => return Ok(None),
                StartPlan::Alarm { partitions } => return Err(StartError::Alarm(partitions)),
            }
        }
    }

    /// A log that was cut off below a committed offset holds other records there now: they have never been read (H13).
    async fn go_back_where_histories_part(&self, starts: &mut Starts) -> Result<(), StartError> {
        let known = starts.positions.iter().filter_map(|(partition, position)| {
            let leader_epoch = position.leader_epoch_known()?;
            Some(KnownEpoch { partition: *partition, leader_epoch })
        });
        let known: Vec<KnownEpoch> = known.collect();
        if known.is_empty() {
            return Ok(());
        }
        for (partition, end) in epoch_ends(&self.cluster, &self.topic, &known).await? {
            let Some(position) = starts.positions.get_mut(&partition) else { continue };
            let committed = position.committed.0;
            if position.cut_off_at(end) {
                metrics::counter!(crate::metrics::TRUNCATIONS).increment(1);
                tracing::warn!(
                    topic = self.topic,
                    partition,
                    committed,
                    end = end.0,
                    "the log was cut off below the committed offset; reading what stands there now"
                );
            }
        }
        Ok(())
    }

    async fn commit_at(
        &self,
        standing: &Standing,
        partitions: &[i32],
        at: At,
        activated: i32,
    ) -> Result<(), StartError> {
        let found = list_offsets(&self.cluster, &self.topic, partitions, at, self.isolation).await?;
        let commits = found
            .into_iter()
            .map(|(partition, offset)| CommitOffset {
                partition,
                offset,
                leader_epoch: -1,
                metadata: start::metadata(activated),
            })
            .collect();
        let answer = self.membership.commit_under(standing, commits).await.map_err(StartError::Commit)?;
        match answer.values().flatten().next() {
            None => Ok(()),
            Some(code) => {
                Err(StartError::Commit(KafkaError::broker(ApiKey::OffsetCommit, self.topic.as_str(), *code)))
            }
        }
    }
}

/// What the group has committed, as the plan asks for it.
pub(crate) fn known_of(committed: &BTreeMap<i32, Option<CommittedOffset>>) -> Vec<Known> {
    let stated =
        |offset: &CommittedOffset| (offset.offset, start::partitions_at_activation(&offset.metadata));
    committed
        .iter()
        .map(|(partition, offset)| Known { partition: *partition, committed: offset.as_ref().map(stated) })
        .collect()
}

fn starts(
    committed: &BTreeMap<i32, Option<CommittedOffset>>,
    known: &[Known],
    added: &[i32],
    partitions: usize,
) -> Starts {
    let position = |partition: &i32| Some((*partition, Position::of(committed.get(partition)?.as_ref()?)));
    let activated = known.iter().filter_map(|entry| entry.committed.as_ref()?.1).max();
    Starts {
        positions: added.iter().filter_map(position).collect(),
        activated: activated.unwrap_or(partitions as i32),
    }
}
