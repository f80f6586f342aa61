//! The errand of a partition: its failed records to the mapping's destination, until they are there.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::address::Destination;
use super::core::{DROP_TRIES, OnFailure};
use super::deliver::{Delivery, DeliveryObserver, deliver};
use super::letter::{DestinationPort, Letter, Undelivered};
use super::letters::{Facts, Sender};
use crate::credit::bytes::{ByteBudget, Lease};
use crate::invoker::retry::RetryPolicy;
use crate::partition::effects::Buried;
use crate::partition::failing::{Burial, Errand};
use crate::runtime::clock;

/// Buries at one destination.
#[derive(Clone)]
pub struct DestinationBurial {
    /// Who sends.
    pub sender: Sender,
    /// Where to.
    pub destination: Destination,
    /// How.
    pub port: Arc<dyn DestinationPort>,
    /// How fast to try again.
    pub retry: RetryPolicy,
    /// Whether to hold or to drop while it fails.
    pub on_failure: OnFailure,
    /// Who is told.
    pub observer: Arc<dyn DeliveryObserver>,
    /// The node's bytes: letters are on it.
    pub budget: ByteBudget,
    /// Letters of one mapping that are in memory at once: while its destination is down, the other partitions wait without.
    pub turns: Arc<Semaphore>,
}

/// Permits of [`DestinationBurial::turns`].
pub const LETTERS_AT_ONCE: usize = 2;
const LINE_PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl DestinationBurial {
    /// AWS's way to drop, or ours to hold.
    pub fn on_failure(drop: bool) -> OnFailure {
        if drop { OnFailure::Drop { tries: DROP_TRIES } } else { OnFailure::Hold }
    }

    async fn send(self, errand: &Errand) -> Buried {
        let Ok(_turn) = self.turns.acquire().await else { return Buried::Stopped };
        let _lease = self.lease(Sender::bytes_max(&self.destination, &errand.work)).await;
        let facts = Facts {
            partition: errand.partition.partition,
            work: &errand.work,
            condition: errand.condition,
            at: clock::wall_ms(),
            random: Uuid::new_v4(),
        };
        let Some(letter) = self.sender.letter(&self.destination, &facts) else { return Buried::Acknowledged };
        let delivery = self.deliver(vec![letter]).await;
        if !delivery.dropped.is_empty() {
            return Buried::Dropped;
        }
        let smaller: Vec<Letter> =
            delivery.too_large.iter().filter_map(|undelivered| self.smaller(&facts, undelivered)).collect();
        if delivery.too_large.is_empty() {
            return Buried::Acknowledged;
        }
        let second = self.deliver(smaller).await;
        if second.is_complete() { Buried::Acknowledged } else { Buried::Dropped }
    }

    /// In line with everyone; past the line when nothing moves, because all bytes may be held by partitions that wait.
    async fn lease(&self, bytes: usize) -> Lease {
        if let Ok(lease) = tokio::time::timeout(LINE_PATIENCE, self.budget.lease(bytes)).await {
            return lease;
        }
        loop {
            if let Some(lease) = self.budget.try_lease_or_overdraft(bytes) {
                return lease;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn smaller(&self, facts: &Facts<'_>, undelivered: &Undelivered) -> Option<Letter> {
        let Letter::Topic { topic, messages } = &undelivered.rest else { return None };
        self.sender.without_payload(topic, facts, messages)
    }

    async fn deliver(&self, letters: Vec<Letter>) -> Delivery {
        let (port, observer) = (Arc::clone(&self.port), Arc::clone(&self.observer));
        deliver(port, letters, self.retry, self.on_failure, observer).await
    }
}

impl Burial for DestinationBurial {
    fn bury(&self, mut errand: Errand) -> BoxFuture<'static, Buried> {
        let me = self.clone();
        Box::pin(async move {
            let (_open, closed) = tokio::sync::oneshot::channel();
            let stop = std::mem::replace(&mut errand.stop, closed);
            tokio::select! {
                buried = me.send(&errand) => buried,
                _ = stop => Buried::Stopped,
            }
        })
    }
}
