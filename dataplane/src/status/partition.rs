//! Statistics of a partition for the API, the scaler and the metrics: atomics that are read without a message to the
//! actor.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use lighterman_proto::ids::Offset;
use lighterman_proto::units::Moment;
use parking_lot::Mutex;

use crate::messages::report::FailingView;
use crate::messages::unreadable::UnreadableRange;

/// Current statistics of one partition. In the atomics, −1 represents an unknown offset.
#[derive(Debug)]
pub struct PartitionStats {
    committed: AtomicI64,
    log_end: AtomicI64,
    position: AtomicI64,
    /// Records resolved since the start.
    pub resolved: AtomicU64,
    buffered_bytes: AtomicU64,
    in_flight: AtomicBool,
    attempt: AtomicU32,
    oldest_micros: AtomicU64,
    last_error: Mutex<Option<String>>,
    failing: Mutex<Option<FailingView>>,
    unreadable: Mutex<Option<UnreadableRange>>,
}

impl Default for PartitionStats {
    fn default() -> Self {
        Self {
            committed: AtomicI64::new(-1),
            log_end: AtomicI64::new(-1),
            position: AtomicI64::new(-1),
            resolved: AtomicU64::new(0),
            buffered_bytes: AtomicU64::new(0),
            in_flight: AtomicBool::new(false),
            attempt: AtomicU32::new(0),
            oldest_micros: AtomicU64::new(0),
            last_error: Mutex::new(None),
            failing: Mutex::new(None),
            unreadable: Mutex::new(None),
        }
    }
}

fn known(cell: &AtomicI64) -> Option<Offset> {
    let value = cell.load(Ordering::Relaxed);
    (value >= 0).then_some(Offset(value))
}

impl PartitionStats {
    /// Returns the committed offset.
    pub fn committed(&self) -> Option<Offset> {
        known(&self.committed)
    }

    /// Returns the end of the log, as last reported by its leader.
    pub fn log_end(&self) -> Option<Offset> {
        known(&self.log_end)
    }

    /// Returns the offset of the next fetch.
    pub fn position(&self) -> Option<Offset> {
        known(&self.position)
    }

    /// Returns log end − committed; `None` if either is unknown, never zero.
    pub fn lag(&self) -> Option<u64> {
        Some(self.committed()?.distance_to(self.log_end()?))
    }

    /// Returns the arrival time of the oldest held record without an outcome; `None` if no record is held.
    pub fn oldest(&self) -> Option<Moment> {
        let micros = self.oldest_micros.load(Ordering::Relaxed);
        (micros > 0).then_some(Moment::from_micros(micros))
    }

    /// Returns the last error, as a message for operators.
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Returns the bytes held in the fetch buffer.
    pub fn buffered_bytes(&self) -> u64 {
        self.buffered_bytes.load(Ordering::Relaxed)
    }

    /// True while an invocation with records of the partition runs.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns the attempts used up by the batch that is being retried; 0 if none has failed.
    pub fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed)
    }

    /// Returns the failing records, if there are any.
    pub fn failing(&self) -> Option<FailingView> {
        self.failing.lock().clone()
    }

    /// Returns the unreadable range, if there is one.
    pub fn unreadable(&self) -> Option<UnreadableRange> {
        self.unreadable.lock().clone()
    }

    pub(crate) fn set_unreadable(&self, unreadable: Option<&UnreadableRange>) {
        let mut shown = self.unreadable.lock();
        if shown.as_ref() != unreadable {
            *shown = unreadable.cloned();
        }
    }

    pub(crate) fn set_failing(&self, failing: Option<FailingView>) {
        *self.failing.lock() = failing;
    }

    pub(crate) fn set_buffered(&self, bytes: usize) {
        self.buffered_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_in_flight(&self, runs: bool) {
        self.in_flight.store(runs, Ordering::Relaxed);
    }

    pub(crate) fn set_attempt(&self, attempt: u32) {
        self.attempt.store(attempt, Ordering::Relaxed);
    }

    pub(crate) fn set_committed(&self, offset: Offset) {
        self.committed.store(offset.0, Ordering::Relaxed);
    }

    pub(crate) fn set_log_end(&self, offset: Option<Offset>) {
        self.log_end.store(offset.map_or(-1, |offset| offset.0), Ordering::Relaxed);
    }

    pub(crate) fn set_position(&self, offset: Offset) {
        self.position.store(offset.0, Ordering::Relaxed);
    }

    pub(crate) fn set_oldest(&self, oldest: Option<Moment>) {
        self.oldest_micros.store(oldest.map_or(0, Moment::as_micros), Ordering::Relaxed);
    }

    pub(crate) fn set_last_error(&self, error: Option<String>) {
        *self.last_error.lock() = error;
    }
}
