//! Limits and units, related to each other at compile time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Maximum request size of a synchronous invocation, as Lambda counts it: 6 MiB, measured after base64 and JSON
/// encoding.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
pub const PAYLOAD_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Maximum records of a batch: `BatchSize` is 1–10,000.
pub const BATCH_RECORDS_MAX: u32 = 10_000;
/// AWS's default `BatchSize` for Kafka.
pub const BATCH_RECORDS_DEFAULT: u32 = 100;
/// AWS's default batching window for Kafka, used if `MaximumBatchingWindowInSeconds` was never set.
pub const WINDOW_DEFAULT: Duration = Duration::from_millis(500);
/// Maximum size of a Kafka response frame.
pub const FRAME_BYTES_MAX: usize = 100 * 1024 * 1024;
/// Maximum size of a record batch after decompression.
pub const INFLATED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Concurrent invocations of one consumer, as of one AWS event poller.
pub const SLOTS_PER_CONSUMER: u32 = 5;

const _: () = assert!(PAYLOAD_BYTES_MAX < INFLATED_BYTES_MAX);
const _: () = assert!(INFLATED_BYTES_MAX < FRAME_BYTES_MAX);

/// Point on the node's one clock: microseconds since boot, suspend included (`CLOCK_BOOTTIME`). Only the runtime
/// reads the clock; the cores receive moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment {
    micros: u64,
}

impl Moment {
    /// Creates the moment `micros` microseconds after boot.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self { micros }
    }

    /// Returns the microseconds since boot.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.micros
    }

    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(earlier.micros))
    }
}

impl std::ops::Add<Duration> for Moment {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self { micros: self.micros.saturating_add(u64::try_from(later.as_micros()).unwrap_or(u64::MAX)) }
    }
}

impl std::ops::Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, earlier: Duration) -> Self {
        Self { micros: self.micros.saturating_sub(u64::try_from(earlier.as_micros()).unwrap_or(u64::MAX)) }
    }
}

/// Timestamp in milliseconds since the Unix epoch, as in a record; −1 means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimestampMs(pub i64);
