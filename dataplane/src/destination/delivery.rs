//! Delivery of failure messages, retried until each arrives, is too large, or is dropped.

use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::units::Moment;
use metrics::{Counter, Label, counter};
use parking_lot::Mutex;

use super::error::DeliveryError;
use super::message::{DestinationPort, FailureMessage, UndeliveredMessage};
use super::retry::{DeliveryCore, MessageForm, NextTry, OnFailure};
use crate::invoker::retry::RetryPolicy;
use crate::metrics as names;
use crate::runtime::backoff::random;
use crate::runtime::clock;
use crate::telemetry::LineLimit;

const LINE_EACH: Duration = Duration::from_secs(60);

/// Result of a delivery. Messages in neither list have arrived.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "letters that did not arrive are in here"]
pub struct DeliveryResult {
    /// Messages that can never fit and must be sent without their payload. Empty for [`MessageForm::Smallest`].
    pub too_large: Vec<UndeliveredMessage>,
    /// Messages dropped because the mapping drops. They are not yet counted as dropped.
    pub dropped: Vec<UndeliveredMessage>,
}

impl DeliveryResult {
    /// True if every message has arrived.
    pub fn is_complete(&self) -> bool {
        self.too_large.is_empty() && self.dropped.is_empty()
    }
}

/// Failed delivery attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedTry {
    /// Error of the attempt.
    pub error: DeliveryError,
    /// Number of this message's attempts, from 1.
    pub tries: u32,
    /// Time of the next attempt, or `None` if there is none.
    pub next_at: Option<Moment>,
}

/// Observer of deliveries.
pub trait DeliveryObserver: Send + Sync {
    /// Handles a failed attempt.
    fn failed(&self, failed: FailedTry);

    /// Handles the arrival of a message.
    fn arrived(&self);
}

/// Sends `failure_messages` one after another, each until it has arrived. A failing message holds up those behind it. With
/// [`OnFailure::Hold`] this ends only with success: spawn it, and abort it when the partition is lost.
///
/// # Cancel safety
/// If the future is dropped, arrived messages stay delivered, and at most the message on the wire is in doubt. No
/// task outlives the future. The caller accounts for the messages' bytes until this ends.
pub async fn deliver(
    port: Arc<dyn DestinationPort>,
    failure_messages: Vec<FailureMessage>,
    policy: RetryPolicy,
    on_failure: OnFailure,
    form: MessageForm,
    observer: Arc<dyn DeliveryObserver>,
) -> DeliveryResult {
    let mut delivery = DeliveryResult::default();
    for failure_message in failure_messages {
        let core = DeliveryCore::new(policy, on_failure, form);
        match deliver_one(&*port, failure_message, core, &*observer).await {
            Ok(()) => {}
            Err((DeliveryFate::TooLarge, undelivered)) => delivery.too_large.push(undelivered),
            Err((DeliveryFate::Dropped, undelivered)) => delivery.dropped.push(undelivered),
        }
    }
    delivery
}

enum DeliveryFate {
    TooLarge,
    Dropped,
}

async fn deliver_one(
    port: &dyn DestinationPort,
    mut failure_message: FailureMessage,
    mut core: DeliveryCore,
    observer: &dyn DeliveryObserver,
) -> Result<(), (DeliveryFate, UndeliveredMessage)> {
    loop {
        let Err(undelivered) = port.deliver(failure_message).await else {
            observer.arrived();
            return Ok(());
        };
        let now = clock::now();
        let next = core.failed(undelivered.error.class(), now, random());
        let next_at = if let NextTry::Retry { at } = next { Some(at) } else { None };
        observer.failed(FailedTry { error: undelivered.error.clone(), tries: core.tries(), next_at });
        failure_message = match next {
            NextTry::Retry { at } => {
                tokio::time::sleep(at.since(now)).await;
                undelivered.rest
            }
            NextTry::SendSmaller => return Err((DeliveryFate::TooLarge, *undelivered)),
            NextTry::Drop => return Err((DeliveryFate::Dropped, *undelivered)),
        };
    }
}

/// Observer of one mapping's deliveries. It counts each failed attempt, logs the first and then one a minute, and
/// keeps the last.
pub struct DeliveryWatch {
    mapping: Arc<str>,
    errors: Counter,
    lines: LineLimit,
    failing: Mutex<Option<FailedTry>>,
}

impl DeliveryWatch {
    /// Creates the observer of the mapping with this id. `labels` are those of its metrics.
    pub fn new(mapping: impl Into<Arc<str>>, labels: &[Label]) -> Self {
        Self {
            mapping: mapping.into(),
            errors: counter!(names::DESTINATION_ERRORS, labels.iter()),
            lines: LineLimit::new(1, LINE_EACH),
            failing: Mutex::new(None),
        }
    }

    /// Returns the last failed attempt, until a message arrives. Operators see it in the status.
    pub fn failing(&self) -> Option<FailedTry> {
        self.failing.lock().clone()
    }
}

impl DeliveryObserver for DeliveryWatch {
    fn failed(&self, failed: FailedTry) {
        self.errors.increment(1);
        if let Some(held_back) = self.lines.pass(clock::now()) {
            let (mapping, tries) = (&*self.mapping, failed.tries);
            let error = &failed.error;
            tracing::warn!(mapping, tries, held_back, %error, "failed records do not reach their destination");
        }
        *self.failing.lock() = Some(failed);
    }

    fn arrived(&self) {
        *self.failing.lock() = None;
    }
}

#[cfg(test)]
mod tests;
