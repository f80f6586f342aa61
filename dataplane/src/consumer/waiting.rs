//! How many offers wait, over all batchers of a mapping.

use metrics::Gauge;

/// The share of one batcher in the offers that wait; nothing any more once this is dropped.
pub(crate) struct WaitingOffers {
    gauge: Gauge,
    shown: usize,
}

impl WaitingOffers {
    pub(super) fn new(gauge: Gauge) -> Self {
        Self { gauge, shown: 0 }
    }

    /// As many wait at this batcher now.
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
