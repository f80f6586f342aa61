//! Finds out where partitions begin, and commits it where nobody has (H11, H18).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use lighterman_proto::commit_metadata::CommitMetadata;
use lighterman_proto::ids::{MappingId, Offset};
use lighterman_proto::topic_id::{TopicId, is_another};
use thiserror::Error;
use tokio::sync::Mutex;

use crate::audit::AuditLog;
use crate::consumer::messages::Position;
use crate::error::Class;
use crate::kafka::cluster::{Cluster, TopicView};
use crate::kafka::error::KafkaError;
use crate::kafka::group::{Membership, Standing};
use crate::kafka::offsets::{
    At, CommitOffset, CommittedOffset, Isolation, KnownEpoch, epoch_ends, list_offsets,
};
use crate::kafka::parting::{Parting, parting};
use crate::offsets::start::{self, Beginning, Known, StartPlan};

const METADATA_AGE_MAX: Duration = Duration::from_secs(5);
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Where the partitions of one assignment go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Starts {
    /// Where each goes on.
    pub positions: BTreeMap<i32, Position>,
    /// Number of partitions that the starting position was resolved for.
    pub activated: i32,
    /// What a person should know of where some begin.
    pub remarks: BTreeMap<i32, Remark>,
}

/// Why a partition does not go on where the group says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// The topic was deleted and made anew: it begins at its beginning.
    Recreated,
    /// The group held this offset, which lies beyond the log's end and was not committed by us: it begins as `StartingPosition` says.
    BeyondEnd(Offset),
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
    /// The mapping has run in this process.
    pub has_run: bool,
    /// The mapping.
    pub mapping: MappingId,
    /// Knows on which topic it ran before this process.
    pub audit: AuditLog,
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
        let mut view = self.cluster.topic(&self.topic, METADATA_AGE_MAX).await?;
        let (mut is_fresh, mut remarks, mut begun) = (false, BTreeMap::new(), BTreeSet::new());
        loop {
            let all: Vec<i32> = view.partitions.iter().map(|partition| partition.partition).collect();
            let committed = self.membership.committed(standing, all.clone()).await?;
            let known = start::known_of(&committed, view.id);
            let plan = start::plan(&known, ours);
            // Before anything is begun: a group has nothing of a topic that was made anew since the view was taken, and of two ids
            // the one that was committed may be the newer.
            let only_waits = matches!(plan, StartPlan::GoOn | StartPlan::Wait);
            if !only_waits && !std::mem::replace(&mut is_fresh, true) {
                view = self.cluster.refresh(&self.topic).await?;
                continue;
            }
            match plan {
                StartPlan::GoOn => {
                    let mut starts = starts(&committed, &known, ours, &view);
                    let mut found = self.go_back_where_histories_part(&mut starts).await?;
                    found.extend(self.unfounded(&starts, &committed, &begun).await?);
                    if found.is_empty() {
                        starts.remarks = remarks;
                        return Ok(Some(starts));
                    }
                    if !std::mem::replace(&mut is_fresh, true) {
                        view = self.cluster.refresh(&self.topic).await?;
                        continue;
                    }
                    for (at, partitions) in self.beginnings(&found) {
                        self.commit_at(standing, &partitions, at, view.id, starts.activated).await?;
                        begun.extend(partitions);
                    }
                    remarks.extend(found);
                }
                StartPlan::Activate { partitions, begins } => {
                    let begins = self.beginning(begins, view.id).await;
                    self.commit_at(standing, &partitions, begins.at(self.at), view.id, all.len() as i32)
                        .await?;
                    if begins == Beginning::OfRecreated {
                        remarks.extend(partitions.iter().map(|partition| (*partition, Remark::Recreated)));
                    }
                    begun.extend(partitions);
                }
                StartPlan::BeginNew { partitions, activated } => {
                    self.commit_at(standing, &partitions, At::Earliest, view.id, activated).await?;
                    begun.extend(partitions);
                }
                StartPlan::Wait => return Ok(None),
                StartPlan::Alarm { partitions } => return Err(StartError::Alarm(partitions)),
            }
        }
    }

    /// A broker takes the commits of a topic away with it, and takes none away while their group is at work otherwise. Where the
    /// mapping ran before this process, its audit says on which topic.
    async fn beginning(&self, by_the_group: Beginning, topic: Option<TopicId>) -> Beginning {
        if self.has_run {
            return Beginning::OfRecreated;
        }
        if by_the_group == Beginning::OfRecreated || self.at == At::Earliest || topic.is_none() {
            return by_the_group;
        }
        let pages = self.audit.read(self.mapping).await;
        if pages.values().any(|page| is_another(page.topic, topic)) {
            Beginning::OfRecreated
        } else {
            by_the_group
        }
    }

    /// Which of these begin where.
    fn beginnings(&self, found: &BTreeMap<i32, Remark>) -> Vec<(At, Vec<i32>)> {
        let mut beginnings: Vec<(At, Vec<i32>)> = Vec::new();
        for (partition, remark) in found {
            let at = if *remark == Remark::Recreated { At::Earliest } else { self.at };
            match beginnings.iter_mut().find(|(known, _)| *known == at) {
                Some((_, partitions)) => partitions.push(*partition),
                None => beginnings.push((at, vec![*partition])),
            }
        }
        beginnings
    }

    /// Of what nothing was read of, those that the group has beyond the log's end: no log was cut off there. What others have set
    /// counts for nothing; a beginning of ours is one of a topic that was deleted.
    async fn unfounded(
        &self,
        starts: &Starts,
        committed: &BTreeMap<i32, Option<CommittedOffset>>,
        begun: &BTreeSet<i32>,
    ) -> Result<BTreeMap<i32, Remark>, StartError> {
        let is_unread = |(partition, position): &(&i32, &Position)| {
            position.leader_epoch_known().is_none()
                && position.committed > Offset(0)
                && !begun.contains(*partition)
        };
        let unread: Vec<i32> =
            starts.positions.iter().filter(is_unread).map(|(partition, _)| *partition).collect();
        if unread.is_empty() {
            return Ok(BTreeMap::new());
        }
        // What an open transaction holds back is in the log too.
        let ends =
            list_offsets(&self.cluster, &self.topic, &unread, At::Latest, Isolation::Uncommitted).await?;
        let remark = |(partition, end): (i32, Offset)| {
            let offset = committed.get(&partition)?.as_ref()?;
            (offset.offset > end).then(|| (partition, remark_of(offset)))
        };
        Ok(ends.into_iter().filter_map(remark).collect())
    }

    /// A log that was cut off below a committed offset holds other records there now: they have never been read (H13).
    /// Returns those whose log is another one.
    async fn go_back_where_histories_part(
        &self,
        starts: &mut Starts,
    ) -> Result<BTreeMap<i32, Remark>, StartError> {
        let known = starts.positions.iter().filter_map(|(partition, position)| {
            let leader_epoch = position.leader_epoch_known()?;
            Some(KnownEpoch { partition: *partition, leader_epoch })
        });
        let known: Vec<KnownEpoch> = known.collect();
        if known.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut recreated = BTreeMap::new();
        for (partition, end) in epoch_ends(&self.cluster, &self.topic, &known).await? {
            let Some(position) = starts.positions.get_mut(&partition) else { continue };
            let committed = position.committed.0;
            let leader_epoch = self.cluster.leader(&self.topic, partition).map_or(-1, |leader| leader.epoch);
            if position.reaches_beyond(end)
                && parting(position.leader_epoch_known(), leader_epoch) == Parting::Recreated
            {
                recreated.insert(partition, Remark::Recreated);
            } else if position.cut_off_at(end) {
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
        Ok(recreated)
    }

    async fn commit_at(
        &self,
        standing: &Standing,
        partitions: &[i32],
        at: At,
        topic: Option<TopicId>,
        activated: i32,
    ) -> Result<(), StartError> {
        let found = list_offsets(&self.cluster, &self.topic, partitions, at, self.isolation).await?;
        let commits = found
            .into_iter()
            .map(|(partition, offset)| CommitOffset {
                partition,
                offset,
                leader_epoch: -1,
                metadata: start::metadata(topic, activated),
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

/// Why an offset beyond the log's end says nothing: ours are of another log, since we commit what the log had.
pub(crate) fn remark_of(committed: &CommittedOffset) -> Remark {
    if CommitMetadata::parse(&committed.metadata).is_some() {
        Remark::Recreated
    } else {
        Remark::BeyondEnd(committed.offset)
    }
}

fn starts(
    committed: &BTreeMap<i32, Option<CommittedOffset>>,
    known: &[Known],
    added: &[i32],
    view: &TopicView,
) -> Starts {
    let position =
        |partition: &i32| Some((*partition, Position::of(committed.get(partition)?.as_ref()?, view.id)));
    Starts {
        remarks: BTreeMap::new(),
        positions: added.iter().filter_map(position).collect(),
        activated: start::activated(known).unwrap_or(view.partitions.len() as i32),
    }
}
