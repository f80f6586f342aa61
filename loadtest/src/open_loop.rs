//! Open-loop producer: writes records at a fixed rate. The schedule is set before the first write, and no slow
//! component shifts it.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use crate::latency::{LatencyPercentiles, value_due};
use crate::produce::{Compression, ProducedOffsets, TestProducer, batch_of};
use crate::schedule::RateSchedule;

const BATCH_RECORDS_MAX: usize = 500;
/// Maximum number of connections; partitions share them if there are more.
const LANES_MAX: i32 = 64;

/// Creates the values of records `numbers`, which carry their due times, not their write times.
fn values(schedule: &RateSchedule, numbers: &[u64], value_bytes: usize) -> Vec<bytes::Bytes> {
    numbers.iter().map(|n| value_due(schedule.due(*n), value_bytes)).collect()
}

/// Destination of the records.
pub struct OpenLoopTarget<'t> {
    /// Bootstrap server.
    pub servers: &'t str,
    /// Topic.
    pub topic: &'t str,
    /// Number of partitions, used round-robin.
    pub partitions: i32,
    /// Bytes of each value.
    pub value_bytes: usize,
}

/// Connections that are ready to write: one for each partition up to 64, so that a slow write delays only its
/// partition.
pub struct OpenLoop {
    lanes: Vec<ProducerTask>,
    schedule: RateSchedule,
    partitions: i32,
}

struct ProducerTask {
    producer: TestProducer,
    topic: String,
    partitions: i32,
    value_bytes: usize,
}

/// Records written by a run.
pub struct WrittenRecords {
    /// Offsets of the records.
    pub produced: ProducedOffsets,
    /// Delay from each due time to the start of the write: the producer's own part of the latency.
    pub lateness: LatencyPercentiles,
}

impl OpenLoop {
    /// Opens the connections.
    pub async fn connect(target: &OpenLoopTarget<'_>, schedule: RateSchedule) -> Result<Self> {
        let mut lanes = Vec::new();
        for _ in 0..target.partitions.min(LANES_MAX) {
            let producer = TestProducer::connect(target.servers).await?;
            let (topic, value_bytes) = (target.topic.to_owned(), target.value_bytes);
            lanes.push(ProducerTask { producer, topic, partitions: target.partitions, value_bytes });
        }
        Ok(Self { lanes, schedule, partitions: target.partitions })
    }

    /// Writes every record when it is due after `start`, or as soon as its lane's previous write is done.
    pub async fn run(self, start: Instant) -> Result<WrittenRecords> {
        let schedule = self.schedule;
        let (mut doors, mut writing) = (Vec::new(), Vec::new());
        for lane in self.lanes {
            let (door, due) = mpsc::unbounded_channel();
            doors.push(door);
            writing.push(tokio::spawn(lane.write(due, schedule.clone(), start)));
        }
        // A thread sleeps with a precision of 0.1 ms; the runtime's timers have one of 1 ms.
        let ticking = thread::spawn(move || tick(&schedule, start, self.partitions, &doors));
        let (mut produced, mut late) = (ProducedOffsets::new(), Vec::new());
        for lane in writing {
            let (offsets, lane_late) = lane.await??;
            produced.extend(offsets);
            late.extend(lane_late);
        }
        ticking.join().ok().context("the schedule's thread has panicked")?;
        Ok(WrittenRecords { produced, lateness: LatencyPercentiles::of(late) })
    }
}

/// Assigns records to partitions round-robin; a partition always uses the same lane.
fn partition_of(n: u64, partitions: i32) -> i32 {
    (n % partitions as u64) as i32
}

fn tick(schedule: &RateSchedule, start: Instant, partitions: i32, doors: &[mpsc::UnboundedSender<u64>]) {
    for n in 0..schedule.count() {
        let due = start + schedule.due(n);
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::sleep(left);
        }
        // A failed lane reports its own error.
        let _ = doors[partition_of(n, partitions) as usize % doors.len()].send(n);
    }
}

impl ProducerTask {
    async fn write(
        mut self,
        mut due: mpsc::UnboundedReceiver<u64>,
        schedule: RateSchedule,
        start: Instant,
    ) -> Result<(ProducedOffsets, Vec<Duration>)> {
        let (mut produced, mut late, mut numbers) = (ProducedOffsets::new(), Vec::new(), Vec::new());
        while due.recv_many(&mut numbers, BATCH_RECORDS_MAX).await > 0 {
            let mut of_partition: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
            for n in numbers.drain(..) {
                of_partition.entry(partition_of(n, self.partitions)).or_default().push(n);
            }
            for (partition, numbers) in of_partition {
                let values = values(&schedule, &numbers, self.value_bytes);
                let records = batch_of(&values, Compression::None, -1, -1)?;
                let now = Instant::now();
                late.extend(numbers.iter().map(|n| now.saturating_duration_since(start + schedule.due(*n))));
                let base = self.producer.send(&self.topic, partition, records, None).await?;
                produced.entry(partition).or_default().extend(base..base + numbers.len() as i64);
            }
        }
        Ok((produced, late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::moment_in;

    #[test]
    fn value_carries_due_time_however_late_written() {
        use base64::Engine;
        let schedule = RateSchedule::even(1_000, 100);
        // A delayed lane takes everything that has become due meanwhile.
        let numbers: Vec<u64> = (40..90).collect();
        for (n, value) in numbers.iter().zip(values(&schedule, &numbers, 64)) {
            let quoted = format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(&value));
            assert_eq!(moment_in(&quoted), Some(Duration::from_millis(*n)));
        }
    }

    #[test]
    fn records_alternate_lanes_without_loss() {
        let schedule = RateSchedule::even(1_000_000, 100);
        let (doors, mut lanes): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::unbounded_channel()).unzip();
        tick(&schedule, Instant::now(), 6, &doors);
        for (index, lane) in lanes.iter_mut().enumerate() {
            let got: Vec<u64> = std::iter::from_fn(|| lane.try_recv().ok()).collect();
            let expected: Vec<u64> = (0..100).filter(|n| n % 3 == index as u64).collect();
            assert_eq!(got, expected);
        }
    }
}
