//! One measured run of one contender: its cost, and the check that every record arrived.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::checker::check;
use crate::contender::{Contender, ContenderSetup, StartedContender};
use crate::function::{ArrivalCount, FakeLambda, HandshakeCount};
use crate::latency::{LatencyPercentiles, LatencyStopwatch};
use crate::open_loop::{OpenLoop, OpenLoopTarget, WrittenRecords};
use crate::process::{cpu_us, resident_peak_kib};
use crate::produce::{Compression, ProducedOffsets, TestProducer, ends};
use crate::schedule::RateSchedule;

/// Time for which records are written at the rate before the measurement starts.
const WARM_UP: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);

/// Results of a run.
#[derive(Clone, Debug)]
pub struct BenchFigures {
    /// Records that arrived while CPU time was counted.
    pub records: u64,
    /// Invocations that carried them.
    pub invocations: u64,
    /// Bytes of their events.
    pub payload_bytes: u64,
    /// Time between the first arrival and the last.
    pub took: Duration,
    /// Time from the start signal to the first arrival.
    pub first_after: Duration,
    /// User and system time in microseconds, from the start signal (at a fixed rate: while records were written).
    pub cpu_us: u64,
    /// Peak resident memory in KiB.
    pub resident_kib: u64,
    /// Deliveries beyond the first.
    pub repeated: u64,
    /// TLS handshakes of the whole run; `None` over plain HTTP.
    pub handshakes: Option<u64>,
    /// Latency from due time to arrival, at a fixed rate only.
    pub latency: Option<BenchLatency>,
}

/// Latency of a run at a fixed rate.
#[derive(Clone, Debug)]
pub struct BenchLatency {
    /// Time from a record's due time to its arrival at the function.
    pub took: LatencyPercentiles,
    /// The producer's part: time from a record's due time to the start of its write.
    pub lateness: LatencyPercentiles,
}

/// Environment of the runs.
pub struct BenchEnv<'g> {
    /// The function.
    pub lambda: &'g FakeLambda,
    /// A client of the broker.
    pub producer: &'g mut TestProducer,
    /// Time limit of a drain.
    pub limit: Duration,
}

impl BenchEnv<'_> {
    /// Drains a topic that holds `produced`.
    pub async fn drain(
        &mut self,
        who: Contender,
        setup: &ContenderSetup,
        run: &str,
        produced: &ProducedOffsets,
    ) -> Result<BenchFigures> {
        self.lambda.clear();
        let shaken = self.lambda.handshakes();
        let mut started = who.start(setup, run).await?;
        let (before, began) = (cpu_us(started.pid())?, Instant::now());
        let group = started.begin().await?;
        let total: usize = produced.values().map(BTreeSet::len).sum();
        let drained = self.await_records(total as u64, self.limit).await;
        let spent_us = cpu_us(started.pid())? - before;
        if !drained {
            println!("not drained within {} s", self.limit.as_secs());
        }
        let expected = drained.then_some(produced);
        let figures = self.finish(started, &setup.topic, &group, expected, (spent_us, began)).await?;
        Ok(BenchFigures { handshakes: self.handshakes_since(shaken)?, ..figures })
    }

    /// Writes at a fixed rate to a new topic while the contender reads it.
    pub async fn steady(
        &mut self,
        who: Contender,
        setup: &ContenderSetup,
        partitions: i32,
        value_bytes: usize,
        rate: (u64, Duration),
    ) -> Result<BenchFigures> {
        let (rate, lasting) = rate;
        self.producer.create_topic(&setup.topic, partitions).await?;
        let target = OpenLoopTarget { servers: &setup.servers, topic: &setup.topic, partitions, value_bytes };
        let count = rate * (WARM_UP + lasting).as_secs();
        let open_loop = OpenLoop::connect(&target, RateSchedule::even(rate, count)).await?;
        self.lambda.clear();
        let shaken = self.lambda.handshakes();
        let mut started = who.start(setup, &setup.topic).await?;
        let began = Instant::now();
        let group = started.begin().await?;
        self.greet(&setup.topic, &group, partitions).await?;
        self.lambda.clear();
        let before = cpu_us(started.pid())?;
        let start = Instant::now() + LOOK_AGAIN;
        self.lambda.time_with(LatencyStopwatch::new(start, WARM_UP));
        let WrittenRecords { produced, lateness } = open_loop.run(start).await?;
        let arrived = self.await_records(count, SETTLE_DEADLINE).await;
        let spent_us = cpu_us(started.pid())? - before;
        let took = self.lambda.take_times().context("the stopwatch is gone")?.percentiles();
        ensure!(arrived, "{} of {count} records arrived", self.lambda.tally().records);
        ensure!(took.count() as u64 >= rate * lasting.as_secs(), "only {} records were timed", took.count());
        let figures = self.finish(started, &setup.topic, &group, Some(&produced), (spent_us, began)).await?;
        let handshakes = self.handshakes_since(shaken)?;
        Ok(BenchFigures { handshakes, latency: Some(BenchLatency { took, lateness }), ..figures })
    }

    /// Returns the handshakes since `before`. A connection that was not TLS 1.3 is an error.
    fn handshakes_since(&self, before: Option<HandshakeCount>) -> Result<Option<u64>> {
        let Some((before, after)) = before.zip(self.lambda.handshakes()) else { return Ok(None) };
        let refused = after.refused - before.refused;
        ensure!(refused == 0, "{refused} connections to the function failed to agree on TLS 1.3");
        Ok(Some(after.completed - before.completed))
    }

    /// Writes one record to each partition and waits until all are committed, so that every partition is being
    /// read.
    async fn greet(&mut self, topic: &str, group: &str, partitions: i32) -> Result<()> {
        let written =
            self.producer.write(topic, partitions, partitions as usize, 10, Compression::None).await?;
        ensure!(self.await_records(partitions as u64, SETTLE_DEADLINE).await, "it does not read {topic}");
        self.producer.await_committed(group, topic, &ends(&written), SETTLE_DEADLINE).await
    }

    async fn await_records(&self, records: u64, within: Duration) -> bool {
        let arrive = async {
            while self.lambda.tally().records < records {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(within, arrive).await.is_ok()
    }

    async fn finish(
        &mut self,
        started: StartedContender,
        topic: &str,
        group: &str,
        expected: Option<&ProducedOffsets>,
        (cpu_us, began): (u64, Instant),
    ) -> Result<BenchFigures> {
        let tally = self.lambda.tally();
        let resident_kib = resident_peak_kib(started.pid())?;
        started.end().await?;
        let mut repeated = 0;
        if let Some(produced) = expected {
            let verdict = check(produced, &self.lambda.events());
            let first = verdict.violations.first();
            ensure!(first.is_none(), "{} violations, first {first:?}", verdict.violations.len());
            repeated = verdict.repeated.values().sum();
            self.producer.await_committed(group, topic, &ends(produced), SETTLE_DEADLINE).await?;
        }
        Ok(figures(tally, began, cpu_us, resident_kib, repeated))
    }
}

fn figures(
    tally: ArrivalCount,
    began: Instant,
    cpu_us: u64,
    resident_kib: u64,
    repeated: u64,
) -> BenchFigures {
    let (first, last) = tally.between.unwrap_or((began, began));
    BenchFigures {
        records: tally.records,
        invocations: tally.invocations,
        payload_bytes: tally.payload_bytes,
        took: last - first,
        first_after: first - began,
        cpu_us,
        resident_kib,
        repeated,
        handshakes: None,
        latency: None,
    }
}
