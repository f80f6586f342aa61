//! Clocks of the process, the only source of the current time.

use std::time::Duration;

use lighterman_proto::units::{Moment, TimestampMs};
use rustix::time::{ClockId, clock_gettime};

/// Returns the current time of a clock that counts suspend: a laptop that slept must not consider its lease valid
/// (H1).
pub fn now() -> Moment {
    let t = clock_gettime(ClockId::Boottime);
    Moment::from_micros(t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1_000)
}

/// Wall-clock time in milliseconds, for latencies against record timestamps and for display, never for ownership.
pub fn wall_ms() -> TimestampMs {
    let since_epoch =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    TimestampMs(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
