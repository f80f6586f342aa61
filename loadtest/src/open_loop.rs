//! Writes records at a fixed rate whatever happens to them: the schedule is set before the first is written, and nobody's
//! slowness moves it.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::mpsc;

use crate::latency::{Percentiles, value_due};
use crate::produce::{Compression, Produced, Producer, batch_of};

const BATCH_RECORDS_MAX: usize = 500;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// When each record is due, counted from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Records a second.
    pub rate: u64,
    /// Records in all.
    pub count: u64,
}

impl Schedule {
    /// Record `n`, from 0. Computed from the number, so that roundings do not add up.
    pub fn due(&self, n: u64) -> Duration {
        let rate = self.rate.max(1);
        Duration::from_secs(n / rate) + Duration::from_nanos(n % rate * NANOS_PER_SECOND / rate)
    }

    /// The values of records `numbers`: what they carry is when they were due, not when they are written.
    fn values(&self, numbers: &[u64], value_bytes: usize) -> Vec<bytes::Bytes> {
        numbers.iter().map(|n| value_due(self.due(*n), value_bytes)).collect()
    }
}

/// Where records go.
pub struct Target<'t> {
    /// Bootstrap server.
    pub servers: &'t str,
    /// Topic.
    pub topic: &'t str,
    /// Its partitions; records go round.
    pub partitions: i32,
    /// Bytes of each value.
    pub value_bytes: usize,
}

/// Connections that are ready to write: one for each partition, so that one slow write holds up its partition only.
pub struct OpenLoop {
    lanes: Vec<Lane>,
    schedule: Schedule,
}

struct Lane {
    producer: Producer,
    topic: String,
    partition: i32,
    value_bytes: usize,
}

/// What a run wrote.
pub struct Written {
    /// The offsets.
    pub produced: Produced,
    /// How long after its moment each write began: the producer's own part of the latency.
    pub lateness: Percentiles,
}

impl OpenLoop {
    /// Connects.
    pub async fn connect(target: &Target<'_>, schedule: Schedule) -> Result<Self> {
        let mut lanes = Vec::new();
        for partition in 0..target.partitions {
            let producer = Producer::connect(target.servers).await?;
            let (topic, value_bytes) = (target.topic.to_owned(), target.value_bytes);
            lanes.push(Lane { producer, topic, partition, value_bytes });
        }
        Ok(Self { lanes, schedule })
    }

    /// Writes every record when it is due after `start`, or as soon afterwards as its partition's last write is done.
    pub async fn run(self, start: Instant) -> Result<Written> {
        let schedule = self.schedule;
        let (mut doors, mut writing) = (Vec::new(), Vec::new());
        for lane in self.lanes {
            let (door, due) = mpsc::unbounded_channel();
            doors.push(door);
            writing.push((lane.partition, tokio::spawn(lane.write(due, schedule, start))));
        }
        // A thread sleeps to the tenth of a millisecond; the runtime's timers to the millisecond.
        let ticking = thread::spawn(move || tick(schedule, start, &doors));
        let (mut produced, mut late) = (Produced::new(), Vec::new());
        for (partition, lane) in writing {
            let (offsets, lane_late) = lane.await??;
            produced.insert(partition, offsets);
            late.extend(lane_late);
        }
        ticking.join().ok().context("the schedule's thread has panicked")?;
        Ok(Written { produced, lateness: Percentiles::of(late) })
    }
}

fn tick(schedule: Schedule, start: Instant, doors: &[mpsc::UnboundedSender<u64>]) {
    for n in 0..schedule.count {
        let due = start + schedule.due(n);
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            thread::sleep(left);
        }
        // A lane that has failed says so itself.
        let _ = doors[n as usize % doors.len()].send(n);
    }
}

impl Lane {
    async fn write(
        mut self,
        mut due: mpsc::UnboundedReceiver<u64>,
        schedule: Schedule,
        start: Instant,
    ) -> Result<(BTreeSet<i64>, Vec<Duration>)> {
        let (mut offsets, mut late, mut numbers) = (BTreeSet::new(), Vec::new(), Vec::new());
        while due.recv_many(&mut numbers, BATCH_RECORDS_MAX).await > 0 {
            let records = batch_of(&schedule.values(&numbers, self.value_bytes), Compression::None, -1, -1)?;
            let now = Instant::now();
            late.extend(numbers.iter().map(|n| now.saturating_duration_since(start + schedule.due(*n))));
            let base = self.producer.send(&self.topic, self.partition, records, None).await?;
            offsets.extend(base..base + numbers.len() as i64);
            numbers.clear();
        }
        Ok((offsets, late))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::moment_in;

    #[test]
    fn the_schedule_is_exact_and_does_not_drift() {
        let third = Schedule { rate: 3, count: 10 };
        let due: Vec<u128> = (0..4).map(|n| third.due(n).as_nanos()).collect();
        assert_eq!(due, [0, 333_333_333, 666_666_666, 1_000_000_000]);
        let day = 86_400;
        for rate in [1, 7, 1_000, 999_983] {
            assert_eq!(Schedule { rate, count: 0 }.due(rate * day), Duration::from_secs(day));
        }
        let steps = (0..5_000).map(|n| Schedule { rate: 1_000, count: 0 }.due(n));
        assert!(steps.is_sorted());
    }

    #[test]
    fn what_a_record_carries_is_when_it_was_due_however_late_it_is_written() {
        use base64::Engine;
        let schedule = Schedule { rate: 1_000, count: 100 };
        // A lane that was held up takes all that has become due meanwhile.
        let numbers: Vec<u64> = (40..90).collect();
        for (n, value) in numbers.iter().zip(schedule.values(&numbers, 64)) {
            let quoted = format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(&value));
            assert_eq!(moment_in(&quoted), Some(Duration::from_millis(*n)));
        }
    }

    #[test]
    fn every_record_is_handed_out_once_and_lanes_take_turns() {
        let schedule = Schedule { rate: 1_000_000, count: 100 };
        let (doors, mut lanes): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::unbounded_channel()).unzip();
        tick(schedule, Instant::now(), &doors);
        for (index, lane) in lanes.iter_mut().enumerate() {
            let got: Vec<u64> = std::iter::from_fn(|| lane.try_recv().ok()).collect();
            let expected: Vec<u64> = (0..100).filter(|n| n % 3 == index as u64).collect();
            assert_eq!(got, expected);
        }
    }
}
