//! Finds out where partitions begin, and commits it where nobody has (H11, H18).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use lighterman_proto::ids::Offset;
use thiserror::Error;
use tokio::sync::Mutex;

use crate::consumer::messages::Position;
use crate::error::Class;
use crate::kafka::cluster::Cluster;
use crate::kafka::error::KafkaError;
use crate::kafka::group::{Membership, Standing};
use crate::kafka::offsets::{
    At, CommitOffset, CommittedOffset, Isolation, KnownEpoch, Learnt, Unlearnt, epoch_ends_each,
    list_offsets_each,
};
use crate::offsets::start::{self, Known, StartPlan};
use crate::runtime::clock;

const METADATA_AGE_MAX: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Why a partition whose commit is gone does not begin.
const NOT_THERE: &str = "the cluster does not name it among the topic's partitions";
const COMMIT_GONE: &str = "the group's committed offset is gone (expired or deleted): starting anywhere could lose or repeat \
     records. Set it with kafka-consumer-groups --reset-offsets";

/// Where the partitions of one assignment go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Starts {
    /// Where each goes on.
    pub positions: BTreeMap<i32, Position>,
    /// Those of which that cannot be known yet, and why.
    pub waiting: BTreeMap<i32, Arc<str>>,
    /// Number of partitions that the starting position was resolved for.
    pub activated: i32,
}

impl Starts {
    /// A partition that there is no word of would never be asked after again.
    fn wait_for_the_rest_of(&mut self, wanted: &[i32]) {
        let is_told =
            |partition: &i32| self.positions.contains_key(partition) || self.waiting.contains_key(partition);
        let untold: Vec<i32> = wanted.iter().filter(|partition| !is_told(partition)).copied().collect();
        self.waiting.extend(untold.into_iter().map(|partition| (partition, NOT_THERE.into())));
    }
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
    /// The topic was not there when this node looked: a start at its end is one at its beginning.
    pub owes_all: Arc<AtomicBool>,
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

    /// The starts of `ours`; `None` while another must act first. Each partition waits for itself alone.
    async fn resolve_under(&self, standing: &Standing, ours: &[i32]) -> Result<Option<Starts>, StartError> {
        let view = self.cluster.topic(&self.topic, METADATA_AGE_MAX).await?;
        let all: Vec<i32> = view.iter().map(|partition| partition.partition).collect();
        let mut waiting = BTreeMap::new();
        loop {
            let committed = self.membership.committed(standing, all.clone()).await?;
            let known = known_of(&committed);
            let able = |partition: &&i32| !waiting.contains_key(*partition);
            let able: Vec<i32> = ours.iter().filter(able).copied().collect();
            match start::plan(&known, &able) {
                StartPlan::GoOn { alarmed } => {
                    waiting.extend(alarmed.into_iter().map(|partition| (partition, COMMIT_GONE.into())));
                    let mut starts = starts(&committed, &known, &able, all.len());
                    starts.waiting = waiting;
                    starts.wait_for_the_rest_of(&able);
                    self.go_back_where_histories_part(&mut starts).await;
                    return Ok(Some(starts));
                }
                StartPlan::Activate { partitions } => {
                    self.activate(standing, &partitions, all.len() as i32).await?;
                }
                StartPlan::BeginNew { partitions, activated } => {
                    let begun = self.commit_at(standing, &partitions, At::Earliest, activated).await?;
                    waiting.extend(begun);
                }
                StartPlan::Find { at, partitions, activated } => {
                    waiting.extend(self.commit_at(standing, &partitions, at, activated).await?);
                }
                StartPlan::Wait => return Ok(None),
            }
        }
    }

    /// A log that was cut off below a committed offset holds other records there now: they have never been read (H13). Where that
    /// cannot be asked the partition waits.
    async fn go_back_where_histories_part(&self, starts: &mut Starts) {
        let known = starts.positions.iter().filter_map(|(partition, position)| {
            let leader_epoch = position.leader_epoch_known()?;
            Some(KnownEpoch { partition: *partition, leader_epoch })
        });
        let known: Vec<KnownEpoch> = known.collect();
        if known.is_empty() {
            return;
        }
        let learnt = epoch_ends_each(&self.cluster, &self.topic, &known).await;
        for (partition, why) in reasons(&learnt) {
            starts.positions.remove(&partition);
            starts.waiting.insert(partition, why);
        }
        for (partition, end) in learnt.known {
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
    }

    /// Commits the starting position of all `partitions` at once. Where a leader cannot be asked, it is committed that it is still
    /// to be found: a partition that is left out would be taken for one whose commit was lost.
    async fn activate(
        &self,
        standing: &Standing,
        partitions: &[i32],
        activated: i32,
    ) -> Result<(), StartError> {
        let now = clock::wall_ms();
        let owes_all = self.at == At::Latest && self.owes_all.load(Ordering::Relaxed);
        let at = if owes_all { At::Earliest } else { self.at };
        let learnt = list_offsets_each(&self.cluster, &self.topic, partitions, at, self.isolation).await;
        let open = learnt.unknown.iter().flat_map(|unlearnt| &unlearnt.partitions);
        let open: Vec<CommitOffset> = open
            .map(|partition| first_commit(*partition, Offset(0), start::open_metadata(activated, at, now)))
            .collect();
        let mut commits = found(learnt, activated);
        commits.extend(open);
        self.commit(standing, commits).await
    }

    /// Commits where `partitions` begin; the others, and why that could not be found out.
    async fn commit_at(
        &self,
        standing: &Standing,
        partitions: &[i32],
        at: At,
        activated: i32,
    ) -> Result<BTreeMap<i32, Arc<str>>, StartError> {
        let learnt = list_offsets_each(&self.cluster, &self.topic, partitions, at, self.isolation).await;
        let waiting = reasons(&learnt);
        self.commit(standing, found(learnt, activated)).await?;
        Ok(waiting)
    }

    async fn commit(&self, standing: &Standing, commits: Vec<CommitOffset>) -> Result<(), StartError> {
        if commits.is_empty() {
            return Ok(());
        }
        let answer = self.membership.commit_under(standing, commits).await.map_err(StartError::Commit)?;
        match answer.values().flatten().next() {
            None => Ok(()),
            Some(code) => {
                Err(StartError::Commit(KafkaError::broker(ApiKey::OffsetCommit, self.topic.as_str(), *code)))
            }
        }
    }
}

/// The commits of what was found.
fn found(learnt: Learnt<Offset>, activated: i32) -> Vec<CommitOffset> {
    let commit = |(partition, offset)| first_commit(partition, offset, start::metadata(activated));
    learnt.known.into_iter().map(commit).collect()
}

fn first_commit(partition: i32, offset: Offset, metadata: String) -> CommitOffset {
    CommitOffset { partition, offset, leader_epoch: -1, metadata }
}

/// Why each partition is unknown of which nothing was learnt.
fn reasons(learnt: &Learnt<Offset>) -> BTreeMap<i32, Arc<str>> {
    let each = |unlearnt: &Unlearnt| {
        let why: Arc<str> = unlearnt.error.to_string().into();
        unlearnt.partitions.iter().map(|partition| (*partition, Arc::clone(&why))).collect::<Vec<_>>()
    };
    learnt.unknown.iter().flat_map(each).collect()
}

/// What the group has committed, as the plan asks for it.
pub(crate) fn known_of(committed: &BTreeMap<i32, Option<CommittedOffset>>) -> Vec<Known> {
    let stated =
        |offset: &CommittedOffset| (offset.offset, start::partitions_at_activation(&offset.metadata));
    let known = |(partition, offset): (&i32, &Option<CommittedOffset>)| Known {
        partition: *partition,
        committed: offset.as_ref().map(stated),
        open: offset.as_ref().and_then(|offset| start::open_start(&offset.metadata)),
    };
    committed.iter().map(known).collect()
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
        waiting: BTreeMap::new(),
        activated: activated.unwrap_or(partitions as i32),
    }
}
