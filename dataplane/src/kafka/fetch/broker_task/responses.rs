//! Handling of positions that a leader does not have. The reason is queried once for all partitions of a response,
//! with one request to each leader. Each partition is settled by its own result.

use std::collections::BTreeMap;
use std::sync::Arc;

use lighterman_proto::ids::{Offset, TopicPartition};
use lighterman_proto::topic_id::is_another;

use super::BrokerTask;
use crate::kafka::cluster::TopicView;
use crate::kafka::divergence::{LogDivergence, parting};
use crate::kafka::fetch::messages::FetchError;
use crate::kafka::offsets::{FailedPartitions, KnownEpoch, OffsetSpec, epoch_ends_each, list_offsets_each};

/// Evidence that a log ends before the requested position.
#[derive(Clone, Copy)]
enum DivergenceSign {
    /// End that the broker reports for the history read so far.
    Known(Offset),
    /// End of the log, which the position exceeds.
    Beyond(Offset),
}

/// Partitions of one response whose logs must be queried.
#[derive(Default)]
pub(super) struct UnsettledParts {
    topics: BTreeMap<Arc<str>, UnsettledTopic>,
}

#[derive(Default)]
struct UnsettledTopic {
    out_of_range: Vec<i32>,
    parted: Vec<(i32, DivergenceSign)>,
}

/// Log that was truncated.
struct CutLog {
    /// Leader epoch of the last record read.
    read: KnownEpoch,
    /// End of the log.
    log_end: Offset,
}

impl UnsettledParts {
    /// Adds a partition whose requested position is not in the log.
    pub(super) fn out_of_range(&mut self, partition: TopicPartition) {
        self.topics.entry(partition.topic).or_default().out_of_range.push(partition.partition);
    }

    /// Adds a partition whose history diverges at `end`.
    pub(super) fn diverged(&mut self, partition: TopicPartition, end: Offset) {
        let parted = (partition.partition, DivergenceSign::Known(end));
        self.topics.entry(partition.topic).or_default().parted.push(parted);
    }
}

impl BrokerTask {
    pub(super) async fn settle_together(&mut self, unsettled: UnsettledParts) {
        for (topic, UnsettledTopic { out_of_range, mut parted }) in unsettled.topics {
            if !out_of_range.is_empty() {
                parted.extend(self.settle_out_of_range(&topic, &out_of_range).await);
            }
            if !parted.is_empty() {
                self.settle_parted(&topic, &parted).await;
            }
        }
    }

    /// Answers partitions whose position is before their log with the range of the log. Returns those whose position
    /// is beyond its end.
    async fn settle_out_of_range(&self, topic: &Arc<str>, partitions: &[i32]) -> Vec<(i32, DivergenceSign)> {
        let isolation = self.settings.isolation;
        let starts =
            list_offsets_each(&self.cluster, topic, partitions, OffsetSpec::Earliest, isolation).await;
        let within: Vec<i32> = starts.known.keys().copied().collect();
        let ends = list_offsets_each(&self.cluster, topic, &within, OffsetSpec::Latest, isolation).await;
        self.hand_back_unlearnt(topic, &starts.unknown);
        self.hand_back_unlearnt(topic, &ends.unknown);
        let mut beyond = Vec::new();
        for (index, log_end) in ends.known {
            // Without a log start, the fetch stays pending and the next poll repeats it.
            let Some(&log_start) = starts.known.get(&index) else { continue };
            let partition = TopicPartition { topic: Arc::clone(topic), partition: index };
            if self.session.position_of(&partition).is_some_and(|position| position > log_end) {
                beyond.push((index, DivergenceSign::Beyond(log_end)));
            } else {
                self.answer(&partition, Err(FetchError::OutOfRange { log_start, log_end }));
            }
        }
        beyond
    }

    /// Settles partitions whose log ends before their position.
    async fn settle_parted(&self, topic: &Arc<str>, parted: &[(i32, DivergenceSign)]) {
        let view = match self.cluster.refresh(topic).await {
            Ok(view) => view,
            Err(error) => {
                let partitions = parted.iter().map(|(partition, _)| *partition).collect();
                return self.hand_back_unlearnt(topic, &[FailedPartitions { partitions, error }]);
            }
        };
        let mut cut = Vec::new();
        for (index, parted) in parted {
            let partition = TopicPartition { topic: Arc::clone(topic), partition: *index };
            match (self.epoch_read(&partition, &view), parted) {
                (None, _) => self.answer(&partition, Err(FetchError::Recreated)),
                (Some(_), DivergenceSign::Known(end)) => {
                    self.answer(&partition, Err(FetchError::Diverged { end: *end }));
                }
                (Some(leader_epoch), DivergenceSign::Beyond(log_end)) => {
                    let read = KnownEpoch { partition: *index, leader_epoch };
                    cut.push(CutLog { read, log_end: *log_end });
                }
            }
        }
        if !cut.is_empty() {
            self.settle_cut(topic, &cut).await;
        }
    }

    /// Returns the leader epoch of the last record read from the log that `view` shows. Returns `None` if `view`
    /// shows another log or nothing was read from it.
    fn epoch_read(&self, partition: &TopicPartition, view: &TopicView) -> Option<i32> {
        let (topic, read, asked_under) = self.shared.fetches.borrow().known(partition)?;
        let shown = view.partition(partition.partition);
        let leader_epoch = shown.map_or(asked_under, |shown| shown.leader_epoch.max(asked_under));
        read.filter(|_| !is_another(topic, view.id) && parting(read, leader_epoch) == LogDivergence::CutOff)
    }

    /// Settles truncated logs. More records may have been written since than the truncation removed, so only the
    /// epoch shows where it began.
    async fn settle_cut(&self, topic: &Arc<str>, cut: &[CutLog]) {
        let read: Vec<KnownEpoch> = cut.iter().map(|cut| cut.read).collect();
        let ends = epoch_ends_each(&self.cluster, topic, &read).await;
        self.hand_back_unlearnt(topic, &ends.unknown);
        for CutLog { read, log_end } in cut {
            let partition = TopicPartition { topic: Arc::clone(topic), partition: read.partition };
            let end = ends.known.get(&read.partition).map_or(*log_end, |end| *end.min(log_end));
            self.answer(&partition, Err(FetchError::Diverged { end }));
        }
    }

    fn hand_back_unlearnt(&self, topic: &Arc<str>, unlearnt: &[FailedPartitions]) {
        let mut partitions = Vec::new();
        for FailedPartitions { partitions: indexes, error } in unlearnt {
            tracing::debug!(%topic, partitions = ?indexes, %error, "their logs are not known yet");
            let of = |index: &i32| TopicPartition { topic: Arc::clone(topic), partition: *index };
            partitions.extend(indexes.iter().map(of));
        }
        self.release_unsent(&partitions);
    }
}
