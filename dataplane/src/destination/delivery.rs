//! Letters on their way until each has arrived, is too large, or is given up.

use std::sync::Arc;
use std::time::Duration;

use lighterman_proto::units::Moment;
use metrics::{Counter, Label, counter};
use parking_lot::Mutex;

use super::error::DeliveryError;
use super::message::{DestinationPort, FailureMessage, UndeliveredMessage};
use super::retry::{DeliveryCore, LetterForm, NextTry, OnFailure};
use crate::invoker::retry::RetryPolicy;
use crate::metrics as names;
use crate::runtime::backoff::random;
use crate::runtime::clock;
use crate::telemetry::LineLimit;

const LINE_EACH: Duration = Duration::from_secs(60);

/// What became of the letters. Those in neither list have arrived.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use = "letters that did not arrive are in here"]
pub struct DeliveryResult {
    /// They will never fit: send them without their payload. Empty for [`LetterForm::Smallest`].
    pub too_large: Vec<UndeliveredMessage>,
    /// Given up, because the mapping drops. Not yet counted as dropped.
    pub dropped: Vec<UndeliveredMessage>,
}

impl DeliveryResult {
    /// True when every letter has arrived.
    pub fn is_complete(&self) -> bool {
        self.too_large.is_empty() && self.dropped.is_empty()
    }
}

/// One try that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedTry {
    /// Why.
    pub error: DeliveryError,
    /// Which one of this letter, from 1.
    pub tries: u32,
    /// When it is tried again; `None` when it is not.
    pub next_at: Option<Moment>,
}

/// Whoever wants to know how deliveries go.
pub trait DeliveryObserver: Send + Sync {
    /// A try failed.
    fn failed(&self, failed: FailedTry);

    /// A letter arrived.
    fn arrived(&self);
}

/// Sends `letters` one after another, each until it has arrived; a failing one holds those behind it. With
/// [`OnFailure::Hold`] this ends only with success: spawn it, and abort it when the partition is lost.
///
/// # Cancel safety
/// Dropped at any point, letters that arrived have arrived and at most the one on the wire is in doubt; nothing runs on.
/// Letters are in memory until this ends: their bytes are the caller's to account for.
pub async fn deliver(
    port: Arc<dyn DestinationPort>,
    letters: Vec<FailureMessage>,
    policy: RetryPolicy,
    on_failure: OnFailure,
    form: LetterForm,
    observer: Arc<dyn DeliveryObserver>,
) -> DeliveryResult {
    let mut delivery = DeliveryResult::default();
    for letter in letters {
        let core = DeliveryCore::new(policy, on_failure, form);
        match deliver_one(&*port, letter, core, &*observer).await {
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
    mut letter: FailureMessage,
    mut core: DeliveryCore,
    observer: &dyn DeliveryObserver,
) -> Result<(), (DeliveryFate, UndeliveredMessage)> {
    loop {
        let Err(undelivered) = port.deliver(letter).await else {
            observer.arrived();
            return Ok(());
        };
        let now = clock::now();
        let next = core.failed(undelivered.error.class(), now, random());
        let next_at = if let NextTry::Retry { at } = next { Some(at) } else { None };
        observer.failed(FailedTry { error: undelivered.error.clone(), tries: core.tries(), next_at });
        letter = match next {
            NextTry::Retry { at } => {
                tokio::time::sleep(at.since(now)).await;
                undelivered.rest
            }
            NextTry::SendSmaller => return Err((DeliveryFate::TooLarge, *undelivered)),
            NextTry::Drop => return Err((DeliveryFate::Dropped, *undelivered)),
        };
    }
}

/// The watch of one mapping: counts each failed try, logs the first and then one a minute, and shows the last.
pub struct DeliveryWatch {
    mapping: Arc<str>,
    errors: Counter,
    lines: LineLimit,
    failing: Mutex<Option<FailedTry>>,
}

impl DeliveryWatch {
    /// For a mapping, by its id; `labels` are those of its metrics.
    pub fn new(mapping: impl Into<Arc<str>>, labels: &[Label]) -> Self {
        Self {
            mapping: mapping.into(),
            errors: counter!(names::DESTINATION_ERRORS, labels.iter()),
            lines: LineLimit::new(1, LINE_EACH),
            failing: Mutex::new(None),
        }
    }

    /// The last failed try, until a letter arrives: what people are shown.
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
