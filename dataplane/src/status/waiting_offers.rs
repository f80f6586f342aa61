//! Gauge of the pending offers of all batchers of a mapping.

use metrics::Gauge;

/// Contribution of one batcher to the gauge of pending offers, removed when this is dropped.
pub(crate) struct WaitingOffers {
    gauge: Gauge,
    shown: usize,
}

impl WaitingOffers {
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { gauge, shown: 0 }
    }

    /// Sets the number of offers pending at this batcher.
    pub(crate) fn set(&mut self, offers: usize) {
        if offers != self.shown {
            self.gauge.increment(offers as f64 - self.shown as f64);
            self.shown = offers;
        }
    }
}

impl Drop for WaitingOffers {
    fn drop(&mut self) {
        self.set(0);
    }
}
