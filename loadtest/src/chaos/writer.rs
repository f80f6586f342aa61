//! Writer that appends records at a fixed rate to every partition during a chaos run.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::plan::ChaosPlan;
use crate::fault_proxy::FaultRandom;
use crate::produce::{TestProducer, batch};
use crate::transactions::TransactionalProducer;

const EVERY: Duration = Duration::from_millis(100);
const VALUE_BYTES: usize = 60;
/// Time within which a killed broker is back.
const BROKER_AWAY_MAX: Duration = Duration::from_secs(60);

/// Offsets that hold no record for a function: markers and aborted records.
pub(super) type NonRecordOffsets = Arc<Mutex<BTreeSet<(i32, i64)>>>;

/// Settings of the writer.
pub(super) struct ChaosWriter {
    pub(super) plan: ChaosPlan,
    pub(super) servers: String,
    pub(super) topic: String,
    pub(super) otherwise: NonRecordOffsets,
}

impl ChaosWriter {
    /// Writes until it receives the stop signal.
    pub(super) async fn run(self, mut stop: oneshot::Receiver<()>) -> Result<()> {
        let mut producer = TestProducer::connect(&self.servers).await?;
        let mut other = TestProducer::connect(&self.servers).await?;
        let mut transactions = None;
        if self.plan.transactions {
            transactions = Some(TransactionalProducer::begin(&mut other, &self.topic).await?);
        }
        let mut random = FaultRandom(self.plan.seed ^ 0x7472_616e);
        let (begin, mut written) = (Instant::now(), 0);
        while stop.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty) {
            let due = begin.elapsed().as_millis() as u64 * self.plan.records_per_second / 1_000;
            let count = due.saturating_sub(written).min(100) as usize;
            for partition in (0..self.plan.partitions).filter(|_| count > 0) {
                match &mut transactions {
                    Some(transactions) if random.below(3) == 0 => {
                        self.write_in_a_transaction(transactions, partition, count, random.below(3) > 0)
                            .await?;
                    }
                    _ => producer = self.write(producer, partition, count).await?,
                }
            }
            written += count as u64;
            tokio::time::sleep(EVERY).await;
        }
        Ok(())
    }

    async fn write(&self, mut producer: TestProducer, partition: i32, count: usize) -> Result<TestProducer> {
        let records = batch(count, VALUE_BYTES, self.plan.codec, -1, -1)?;
        let deadline = Instant::now() + BROKER_AWAY_MAX;
        loop {
            let sent = producer.send(&self.topic, partition, records.clone(), None).await;
            match sent {
                Ok(_) => return Ok(producer),
                // Records sent before the broker died may be in the log; the final log determines what was written.
                Err(_) if self.plan.needs_the_broker() && Instant::now() < deadline => {
                    tokio::time::sleep(EVERY).await;
                    if let Ok(anew) = TestProducer::connect(&self.servers).await {
                        producer = anew;
                    }
                }
                Err(error) => return Err(error).context("writing records"),
            }
        }
    }

    async fn write_in_a_transaction(
        &self,
        transactions: &mut TransactionalProducer<'_>,
        partition: i32,
        count: usize,
        commit: bool,
    ) -> Result<()> {
        let base = transactions.append(&self.topic, partition, count).await?;
        let marker = base + count as i64;
        // Published before anyone can have read past it.
        let first = if commit { marker } else { base };
        self.otherwise.lock().extend((first..=marker).map(|offset| (partition, offset)));
        transactions.end(commit).await
    }
}
