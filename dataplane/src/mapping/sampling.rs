//! Sample of a mapping once a second, for the scaler and the metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use lighterman_proto::control::{MappingSample, PartitionSample};
use lighterman_proto::ids::TopicPartition;

use super::MappingActor;
use crate::runtime::clock;
use crate::status::MappingSight;

impl MappingActor {
    pub(super) fn show(&self, sample: Option<&MappingSample>) {
        let (Some(sample), Some((_, actors))) = (sample, &self.joined) else { return };
        // The lag of partitions that do not run, or may not be owned, is unknown.
        let runs = self.assigned && self.owned.iter().all(|partition| self.table.holds(*partition));
        let lags = || sample.partitions.iter().map(|partition| partition.lag).sum::<Option<u64>>();
        let lag = runs.then(lags).flatten();
        self.status.sampled(MappingSight {
            consumers: actors.consumers().len(),
            slots_in_use: sample.slots_in_use,
            slots_limit: sample.slots_limit,
            lag,
            lag_seconds: lag.map(|lag| self.scaler.seconds_to_drain(lag)),
        });
    }

    /// Returns the sample that the scaler decides on.
    pub(super) fn sample(&mut self) -> Option<MappingSample> {
        let (_, actors) = self.joined.as_ref()?;
        let topic = &self.run.topic;
        let mut partitions = Vec::with_capacity(self.gauges.len());
        for (partition, stats) in &self.gauges {
            let total = stats.resolved.load(Ordering::Relaxed);
            let before = self.resolved_before.insert(*partition, total).unwrap_or(total);
            partitions.push(PartitionSample {
                partition: TopicPartition::new(Arc::clone(topic), *partition),
                lag: stats.lag(),
                arrived: None,
                resolved: total.saturating_sub(before),
            });
        }
        let answers = self.status.take_answers();
        Some(MappingSample {
            at: clock::now(),
            partitions,
            slots_in_use: actors.slots().in_use(),
            slots_limit: actors.slots().limit(),
            throttled: answers.throttled,
            answered: answers.answered,
        })
    }
}
