//! Resolver of the offsets at which partitions start. It commits them where no member has (H11, H18).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use lighterman_proto::ids::{MappingId, Offset};
use lighterman_proto::topic_id::TopicId;
use thiserror::Error;
use tokio::sync::Mutex;

use super::out_of_range::StartRemark;
use crate::audit::AuditLog;
use crate::commits::start_plan::{self, ActivationStart, KnownCommit, StartPlan};
use crate::error::ErrorClass;
use crate::kafka::cluster::{KafkaCluster, TopicView};
use crate::kafka::divergence::{LogDivergence, parting};
use crate::kafka::error::KafkaError;
use crate::kafka::group::{Membership, MembershipView};
use crate::kafka::offsets::{
    FailedPartitions, IsolationLevel, KnownEpoch, LeaderResults, OffsetAndMetadata, OffsetSpec,
    epoch_ends_each, list_offsets_each,
};
use crate::messages::resume::ResumePoint;
use crate::runtime::clock;

/// Assignments often follow a broker's death. A stale leader costs its partitions a dial that times out.
const FIRST_METADATA_AGE_MAX: Duration = Duration::from_secs(1);
/// Limits metadata requests while another member must act first.
const METADATA_AGE_MAX: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Reason shown for a partition that the cluster's metadata does not contain.
const NOT_THERE: &str = "the cluster does not name it among the topic's partitions";
const COMMIT_GONE: &str = "the group's committed offset is gone (expired or deleted): starting anywhere could lose or repeat \
     records. Set it with kafka-consumer-groups --reset-offsets";

/// Start offsets of the partitions of one assignment.
#[derive(Debug, PartialEq, Eq)]
pub struct StartOffsets {
    /// Resume point of each partition.
    pub positions: BTreeMap<i32, ResumePoint>,
    /// Partitions whose start is not known yet, each with its reason.
    pub waiting: BTreeMap<i32, Arc<str>>,
    /// Number of partitions that the starting position was resolved for.
    pub activated: i32,
    /// Notable facts about the starts of some partitions, for operators.
    pub remarks: BTreeMap<i32, StartRemark>,
}

impl StartOffsets {
    /// Moves partitions whose start cannot be known yet to `waiting`.
    pub(super) fn wait_for(&mut self, reasons: BTreeMap<i32, Arc<str>>) {
        for (partition, why) in reasons {
            self.positions.remove(&partition);
            self.waiting.insert(partition, why);
        }
    }

    /// Adds the wanted partitions that have no result to `waiting`; otherwise they would never be looked up again.
    fn wait_for_the_rest_of(&mut self, wanted: &[i32]) {
        let is_told =
            |partition: &i32| self.positions.contains_key(partition) || self.waiting.contains_key(partition);
        let untold: Vec<i32> = wanted.iter().filter(|partition| !is_told(partition)).copied().collect();
        self.waiting.extend(untold.into_iter().map(|partition| (partition, NOT_THERE.into())));
    }
}

/// Reason that partitions cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The broker returned an error or did not respond.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The resolved offsets could not be committed.
    #[error("the starting position could not be committed: {0}")]
    Commit(KafkaError),
    /// The task that resolved them panicked.
    #[error("finding out where partitions begin ended by a fault of this node; see the log")]
    Panicked,
}

impl StartError {
    /// True if a start offset may have been committed without a response. The commit may still be applied, and
    /// offsets read meanwhile may change.
    pub(super) fn may_still_apply(&self) -> bool {
        match self {
            Self::Kafka(_) => false,
            Self::Commit(error) => error.may_still_apply(),
            Self::Panicked => true,
        }
    }

    /// True if the fault is this node's, and neither the cluster's nor the group's.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Panicked)
    }

    /// True if only this member's assignment has changed since the lookup.
    fn is_overtaken(&self) -> bool {
        match self {
            Self::Kafka(error) | Self::Commit(error) => {
                error.class() == ErrorClass::Fenced
                    || error.code() == Some(ResponseError::RebalanceInProgress)
            }
            Self::Panicked => false,
        }
    }
}

/// Inputs of a start offset resolution.
pub struct StartResolver {
    /// Membership of this node.
    pub membership: Membership,
    /// Generation that assigned the partitions. A start offset is committed under no other: in the next generation
    /// the partition may belong to a member that has delivered since.
    pub generation: i32,
    /// The cluster.
    pub cluster: KafkaCluster,
    /// The mapping's topic.
    pub topic: String,
    /// Set if the mapping has run in this process.
    pub has_run: bool,
    /// The mapping.
    pub mapping: MappingId,
    /// Audit log that records the topic the mapping ran on before this process.
    pub audit: AuditLog,
    /// The mapping's starting position.
    pub at: OffsetSpec,
    /// Set once this node did not find the topic. A start at the topic's end is then one at its beginning.
    pub owes_all: Arc<AtomicBool>,
    /// Isolation level of offset lookups.
    pub isolation: IsolationLevel,
    /// Lock held while one resolution reads and commits. With two at once, the later would commit a start offset over
    /// what was delivered since. No partition is released meanwhile: its next owner must find what was committed
    /// here, and nothing may be committed after.
    pub turn: Arc<Mutex<()>>,
}

impl StartResolver {
    /// Returns the starts of `added`, after committing those that no member has committed. Returns `None` if this
    /// member's assignment has changed meanwhile; the caller must resolve again.
    pub async fn resolve(&self, added: &[i32]) -> Result<Option<StartOffsets>, StartError> {
        let mut age_max = FIRST_METADATA_AGE_MAX;
        loop {
            let turn = self.turn.lock().await;
            let standing = self.membership.view();
            let standing = standing.filter(|now| start_plan::still_holds(self.generation, now.generation));
            let Some(standing) = standing else { return Ok(None) };
            if !added.iter().all(|partition| standing.kept.contains(partition)) {
                return Ok(None);
            }
            match self
                .resolve_under(&standing, added, std::mem::replace(&mut age_max, METADATA_AGE_MAX))
                .await
            {
                Ok(Some(starts)) => return Ok(Some(starts)),
                Ok(None) => {}
                Err(error) if error.is_overtaken() => return Ok(None),
                Err(error) => return Err(error),
            }
            drop(turn);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Returns the starts of `ours`, or `None` while another member must act first. A partition without a start does
    /// not hold up the others.
    async fn resolve_under(
        &self,
        standing: &MembershipView,
        ours: &[i32],
        age_max: Duration,
    ) -> Result<Option<StartOffsets>, StartError> {
        let mut view = self.cluster.topic(&self.topic, age_max).await?;
        let (mut is_fresh, mut remarks, mut begun) = (false, BTreeMap::new(), BTreeSet::new());
        let mut waiting = BTreeMap::new();
        loop {
            let all: Vec<i32> = view.partitions.iter().map(|partition| partition.partition).collect();
            let committed = self.membership.committed(standing, all.clone()).await?;
            let known = start_plan::known_of(&committed, view.id);
            let able = |partition: &&i32| !waiting.contains_key(*partition);
            let able: Vec<i32> = ours.iter().filter(able).copied().collect();
            let plan = start_plan::plan(&known, &able);
            // Refresh before any start is committed. If the topic was recreated since the view was taken, the group
            // has no commits for the new topic. Of two topic ids, the committed one may be the newer.
            let only_waits = match &plan {
                StartPlan::Resume { alarmed } => alarmed.is_empty(),
                plan => *plan == StartPlan::Wait,
            };
            if !only_waits && !std::mem::replace(&mut is_fresh, true) {
                view = self.cluster.refresh(&self.topic).await?;
                continue;
            }
            match plan {
                StartPlan::Resume { alarmed } => {
                    waiting.extend(alarmed.into_iter().map(|partition| (partition, COMMIT_GONE.into())));
                    let mut starts = starts(&committed, &known, &able, &view);
                    starts.waiting = std::mem::take(&mut waiting);
                    starts.wait_for_the_rest_of(&able);
                    let mut found = self.go_back_where_histories_part(&mut starts).await;
                    found.extend(self.unfounded(&mut starts, &committed, &begun).await);
                    if found.is_empty() {
                        starts.remarks = remarks;
                        return Ok(Some(starts));
                    }
                    waiting = starts.waiting;
                    if !std::mem::replace(&mut is_fresh, true) {
                        view = self.cluster.refresh(&self.topic).await?;
                        continue;
                    }
                    for (at, partitions) in self.beginnings(&found) {
                        waiting.extend(
                            self.commit_at(standing, &partitions, at, view.id, starts.activated).await?,
                        );
                        begun.extend(partitions);
                    }
                    remarks.extend(found);
                }
                StartPlan::Activate { partitions, begins } => {
                    let begins = self.beginning(begins, view.id).await;
                    self.activate(standing, &partitions, begins, view.id, all.len() as i32).await?;
                    if begins == ActivationStart::OfRecreated {
                        remarks
                            .extend(partitions.iter().map(|partition| (*partition, StartRemark::Recreated)));
                    }
                    begun.extend(partitions);
                }
                StartPlan::StartNew { partitions, activated } => {
                    let at = OffsetSpec::Earliest;
                    waiting.extend(self.commit_at(standing, &partitions, at, view.id, activated).await?);
                    begun.extend(partitions);
                }
                StartPlan::Find { at, partitions, activated } => {
                    waiting.extend(self.commit_at(standing, &partitions, at, view.id, activated).await?);
                    begun.extend(partitions);
                }
                StartPlan::Wait => return Ok(None),
            }
        }
    }

    /// Moves positions back where the log was truncated below the committed offset: the records at those offsets have
    /// never been read (H13). A partition whose leader cannot be asked waits. Returns the partitions whose log was
    /// recreated.
    async fn go_back_where_histories_part(&self, starts: &mut StartOffsets) -> BTreeMap<i32, StartRemark> {
        let known = starts.positions.iter().filter_map(|(partition, position)| {
            let leader_epoch = position.leader_epoch_known()?;
            Some(KnownEpoch { partition: *partition, leader_epoch })
        });
        let known: Vec<KnownEpoch> = known.collect();
        if known.is_empty() {
            return BTreeMap::new();
        }
        let learnt = epoch_ends_each(&self.cluster, &self.topic, &known).await;
        starts.wait_for(reasons(&learnt));
        let mut recreated = BTreeMap::new();
        for (partition, end) in learnt.known {
            let Some(position) = starts.positions.get_mut(&partition) else { continue };
            let committed = position.committed.0;
            let leader_epoch = self.cluster.leader(&self.topic, partition).map_or(-1, |leader| leader.epoch);
            if position.reaches_beyond(end)
                && parting(position.leader_epoch_known(), leader_epoch) == LogDivergence::Recreated
            {
                recreated.insert(partition, StartRemark::Recreated);
            } else if position.cut_off_at(end) {
                metrics::counter!(crate::metrics::TRUNCATIONS).increment(1);
                tracing::warn!(
                    topic = self.topic,
                    partition,
                    committed,
                    end = end.0,
                    "the log was truncated below the committed offset; reading the records that replaced it"
                );
            }
        }
        recreated
    }

    /// Commits the starting position of all `partitions` at once. If a leader cannot be asked, the commit marks the
    /// offset as still to be found. A partition left out would be taken for one whose commit was lost.
    async fn activate(
        &self,
        standing: &MembershipView,
        partitions: &[i32],
        begins: ActivationStart,
        topic: Option<TopicId>,
        activated: i32,
    ) -> Result<(), StartError> {
        let now = clock::wall_ms();
        let owes_all = self.at == OffsetSpec::Latest && self.owes_all.load(Ordering::Relaxed);
        let at = if owes_all { OffsetSpec::Earliest } else { begins.at(self.at) };
        let learnt = list_offsets_each(&self.cluster, &self.topic, partitions, at, self.isolation).await;
        let open = learnt.unknown.iter().flat_map(|unlearnt| &unlearnt.partitions);
        let unread = first_commit(Offset(0), start_plan::open_metadata(topic, activated, at, now));
        let open: Vec<(i32, OffsetAndMetadata)> =
            open.map(|partition| (*partition, unread.clone())).collect();
        let mut commits = found(learnt, topic, activated);
        commits.extend(open);
        self.commit(standing, commits).await
    }

    /// Commits the start offsets of `partitions`. Returns the partitions whose offset could not be looked up, with
    /// the reason.
    async fn commit_at(
        &self,
        standing: &MembershipView,
        partitions: &[i32],
        at: OffsetSpec,
        topic: Option<TopicId>,
        activated: i32,
    ) -> Result<BTreeMap<i32, Arc<str>>, StartError> {
        let learnt = list_offsets_each(&self.cluster, &self.topic, partitions, at, self.isolation).await;
        let waiting = reasons(&learnt);
        self.commit(standing, found(learnt, topic, activated)).await?;
        Ok(waiting)
    }

    async fn commit(
        &self,
        standing: &MembershipView,
        commits: BTreeMap<i32, OffsetAndMetadata>,
    ) -> Result<(), StartError> {
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

/// Returns the commits of the offsets found.
fn found(
    learnt: LeaderResults<Offset>,
    topic: Option<TopicId>,
    activated: i32,
) -> BTreeMap<i32, OffsetAndMetadata> {
    let commit =
        |(partition, offset)| (partition, first_commit(offset, start_plan::metadata(topic, activated)));
    learnt.known.into_iter().map(commit).collect()
}

fn first_commit(offset: Offset, metadata: String) -> OffsetAndMetadata {
    OffsetAndMetadata { offset, leader_epoch: -1, metadata }
}

/// Returns the error of each partition whose lookup failed.
pub(super) fn reasons(learnt: &LeaderResults<Offset>) -> BTreeMap<i32, Arc<str>> {
    let each = |unlearnt: &FailedPartitions| {
        let why: Arc<str> = unlearnt.error.to_string().into();
        unlearnt.partitions.iter().map(|partition| (*partition, Arc::clone(&why))).collect::<Vec<_>>()
    };
    learnt.unknown.iter().flat_map(each).collect()
}

fn starts(
    committed: &BTreeMap<i32, Option<OffsetAndMetadata>>,
    known: &[KnownCommit],
    added: &[i32],
    view: &TopicView,
) -> StartOffsets {
    let position =
        |partition: &i32| Some((*partition, ResumePoint::of(committed.get(partition)?.as_ref()?, view.id)));
    StartOffsets {
        remarks: BTreeMap::new(),
        positions: added.iter().filter_map(position).collect(),
        waiting: BTreeMap::new(),
        activated: start_plan::activated(known).unwrap_or(view.partitions.len() as i32),
    }
}
