//! The one way to ask for now.

use std::time::Duration;

use lighterman_proto::units::{Moment, TimestampMs};
use rustix::time::{ClockId, clock_gettime};

/// Now, on a clock that counts suspend: a laptop that slept must not believe that its lease is still good (H1).
pub fn now() -> Moment {
    let t = clock_gettime(ClockId::Boottime);
    Moment::from_micros(t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1_000)
}

/// Wall-clock milliseconds: for latencies against record timestamps and for what people read, never for ownership.
pub fn wall_ms() -> TimestampMs {
    let since_epoch =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    TimestampMs(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
