//! Latency of records. Each carries the time at which it was due to be written. A delayed producer then makes its
//! records late instead of omitting them (no coordinated omission).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Length of the shortest value that carries a time.
pub const VALUE_BYTES_MIN: usize = 9;
/// Base64 characters of nine bytes without padding, of which the first eight bytes matter.
const STAMP_CHARACTERS: usize = 12;

/// Creates a value of `bytes` bytes that carries `due` in microseconds.
pub fn value_due(due: Duration, bytes: usize) -> Bytes {
    let mut value = vec![b'v'; bytes.max(VALUE_BYTES_MIN)];
    value[..8].copy_from_slice(&(due.as_micros() as u64).to_le_bytes());
    value.into()
}

/// Returns the time that a value carries, given its quoted base64 from an event.
pub fn moment_in(quoted: &str) -> Option<Duration> {
    let stamp = quoted.strip_prefix('"')?.get(..STAMP_CHARACTERS)?;
    let bytes = STANDARD.decode(stamp).ok()?;
    Some(Duration::from_micros(u64::from_le_bytes(*bytes.first_chunk()?)))
}

/// Measurement of records that are due after a warm-up.
#[derive(Clone, Debug)]
pub struct LatencyStopwatch {
    start: Instant,
    from: Duration,
    /// Due time and latency.
    timed: Vec<(Duration, Duration)>,
}

impl LatencyStopwatch {
    /// Measures records due from `from` after `start`; earlier ones are warm-up.
    pub fn new(start: Instant, from: Duration) -> Self {
        Self { start, from, timed: Vec::new() }
    }

    /// Records the arrival of a record that was due `due` after the start.
    pub fn arrived(&mut self, due: Duration, at: Instant) {
        if due >= self.from {
            self.timed.push((due, at.saturating_duration_since(self.start + due)));
        }
    }

    /// Returns the percentiles of all measured records.
    pub fn percentiles(&self) -> LatencyPercentiles {
        LatencyPercentiles::of(self.timed.iter().map(|(_, took)| *took).collect())
    }

    /// Returns the percentiles of the records due in each second after the start.
    pub fn by_second(&self) -> BTreeMap<u64, LatencyPercentiles> {
        let mut seconds: BTreeMap<u64, Vec<Duration>> = BTreeMap::new();
        for (due, took) in &self.timed {
            seconds.entry(due.as_secs()).or_default().push(*took);
        }
        seconds.into_iter().map(|(second, took)| (second, LatencyPercentiles::of(took))).collect()
    }
}

/// All measured durations, sorted. They are exact, which short runs can afford (eight bytes and a count of
/// nanoseconds per record).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyPercentiles {
    sorted: Vec<Duration>,
}

impl LatencyPercentiles {
    /// Sorts `samples`.
    pub fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self { sorted: samples }
    }

    /// Returns the smallest sample that at least `permille` of a thousand samples do not exceed; zero if there are
    /// none.
    pub fn at(&self, permille: usize) -> Duration {
        let rank = (self.sorted.len() * permille).div_ceil(1000).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// Returns the number of samples.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        // Reversed, so that the order of arrival cannot matter.
        let thousand = LatencyPercentiles::of((1..=1000).rev().map(|n| MS * n).collect());
        assert_eq!(
            [500, 990, 999, 1000].map(|permille| thousand.at(permille).as_millis()),
            [500, 990, 999, 1000]
        );
        let few = LatencyPercentiles::of(vec![MS * 3, MS, MS * 2]);
        assert_eq!(
            [1, 333, 334, 500, 667, 999].map(|permille| few.at(permille).as_millis()),
            [1, 1, 2, 2, 3, 3]
        );
        assert_eq!((LatencyPercentiles::default().at(500), few.count()), (Duration::ZERO, 3));
    }

    #[test]
    fn percentiles_agree_with_counting() {
        let samples: Vec<Duration> =
            (0..777_u64).map(|n| Duration::from_micros(n * n * 7919 % 10_007)).collect();
        let sorted = LatencyPercentiles::of(samples.clone());
        for permille in [1, 10, 500, 900, 990, 999, 1000] {
            let at = sorted.at(permille);
            let within = |bound: &dyn Fn(&Duration) -> bool| {
                samples.iter().filter(|sample| bound(sample)).count() * 1000
            };
            assert!(within(&|sample| *sample <= at) >= permille * samples.len(), "{permille}: too small");
            assert!(within(&|sample| *sample < at) < permille * samples.len(), "{permille}: too large");
        }
    }

    #[test]
    fn value_carries_due_time_through_base64() {
        for (due, bytes) in [(Duration::ZERO, 9), (MS * 1_234_567, 1024), (Duration::from_secs(1 << 33), 10)]
        {
            let value = value_due(due, bytes);
            assert_eq!(value.len(), bytes);
            assert_eq!(moment_in(&format!("\"{}\"", STANDARD.encode(&value))), Some(due));
        }
        for other in ["null", "\"\"", "\"short\"", "\"????????????????\""] {
            assert_eq!(moment_in(other), None, "{other}");
        }
    }

    #[test]
    fn latency_counts_from_due_time() {
        let start = Instant::now();
        let mut stopwatch = LatencyStopwatch::new(start, MS * 100);
        stopwatch.arrived(MS * 99, start + MS * 500); // warm-up
        // The producer was delayed and wrote both at 400 ms; both arrive at 401 ms.
        stopwatch.arrived(MS * 100, start + MS * 401);
        stopwatch.arrived(MS * 400, start + MS * 401);
        assert_eq!(stopwatch.percentiles(), LatencyPercentiles::of(vec![MS * 301, MS]));
        stopwatch.arrived(MS * 2_999, start + MS * 3_001);
        let seconds = stopwatch.by_second();
        assert_eq!(seconds.keys().collect::<Vec<_>>(), [&0, &2]);
        assert_eq!((seconds[&0].count(), seconds[&2].at(500)), (2, MS * 2));
    }
}
