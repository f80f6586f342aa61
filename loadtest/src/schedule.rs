//! Due time of each record. It is fixed before the first write and computed from the record's number, so that
//! rounding errors do not accumulate and no slow component shifts it.

use std::sync::Arc;
use std::time::Duration;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Period in which the rate changes linearly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateRamp {
    /// Duration of the period.
    pub lasting: Duration,
    /// Records per second at the start.
    pub from: u64,
    /// Records per second at the end.
    pub to: u64,
}

impl RateRamp {
    /// Returns the number of whole records due in the period.
    pub fn count(&self) -> u64 {
        let doubled = u128::from(self.from + self.to) * self.lasting.as_nanos();
        (doubled / u128::from(2 * NANOS_PER_SECOND)) as u64
    }

    /// Returns the records per second at `after` from the start.
    pub fn rate_at(&self, after: Duration) -> f64 {
        let share = after.as_secs_f64() / self.lasting.as_secs_f64().max(f64::MIN_POSITIVE);
        self.from as f64 + (self.to as f64 - self.from as f64) * share.min(1.0)
    }

    /// Returns the due time of record `n`, from 0, relative to the start of the period.
    fn due(&self, n: u64) -> Duration {
        if self.from == self.to {
            let rate = self.from.max(1);
            return Duration::from_secs(n / rate) + Duration::from_nanos(n % rate * NANOS_PER_SECOND / rate);
        }
        // Record n is due when the integral of the rate, from·t + steepness·t²/2, reaches n.
        let (from, n) = (self.from as f64, n as f64);
        let steepness = (self.to as f64 - from) / self.lasting.as_secs_f64();
        let root = (from * from + 2.0 * steepness * n).max(0.0).sqrt();
        Duration::from_secs_f64((2.0 * n / (from + root).max(f64::MIN_POSITIVE)).max(0.0)).min(self.lasting)
    }
}

/// Consecutive periods, shared by clones.
#[derive(Clone, Debug, PartialEq)]
pub struct RateSchedule {
    stretches: Arc<[PlacedRamp]>,
    count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct PlacedRamp {
    begins: Duration,
    first: u64,
    stretch: RateRamp,
}

impl RateSchedule {
    /// Creates a schedule of `count` records at `rate` per second.
    pub fn even(rate: u64, count: u64) -> Self {
        let lasting = Duration::from_secs(count.div_ceil(rate.max(1)));
        let stretch = RateRamp { lasting, from: rate, to: rate };
        Self { stretches: [PlacedRamp { begins: Duration::ZERO, first: 0, stretch }].into(), count }
    }

    /// Creates a schedule of these periods, each with its whole records.
    pub fn of(stretches: impl IntoIterator<Item = RateRamp>) -> Self {
        let (mut begins, mut first) = (Duration::ZERO, 0);
        let placed = stretches.into_iter().map(|stretch| {
            let placed = PlacedRamp { begins, first, stretch };
            begins += stretch.lasting;
            first += stretch.count();
            placed
        });
        let stretches = placed.collect();
        Self { stretches, count: first }
    }

    /// Returns the total number of records.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the due time of record `n`, from 0, relative to the start.
    pub fn due(&self, n: u64) -> Duration {
        let behind = self.stretches.partition_point(|placed| placed.first <= n);
        let Some(placed) = behind.checked_sub(1).and_then(|at| self.stretches.get(at)) else {
            return Duration::ZERO;
        };
        placed.begins + placed.stretch.due(n - placed.first)
    }

    /// Returns the number of records due by a time.
    pub fn due_by(&self, moment: Duration) -> u64 {
        let (mut known, mut open) = (0, self.count);
        while known < open {
            let middle = known.midpoint(open);
            if self.due(middle) <= moment { known = middle + 1 } else { open = middle }
        }
        known
    }

    /// Returns the records per second at a time; 0 after the end.
    pub fn rate_at(&self, moment: Duration) -> f64 {
        let behind = self.stretches.partition_point(|placed| placed.begins <= moment);
        let placed = behind.checked_sub(1).and_then(|at| self.stretches.get(at));
        placed.map_or(0.0, |placed| {
            let after = moment.saturating_sub(placed.begins);
            if after > placed.stretch.lasting { 0.0 } else { placed.stretch.rate_at(after) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_by_counts_each_due_record() {
        let stretch = |seconds, from, to| RateRamp { lasting: Duration::from_secs(seconds), from, to };
        let schedule = RateSchedule::of([stretch(2, 10, 100), stretch(1, 0, 0), stretch(3, 50, 50)]);
        for n in 0..schedule.count() {
            assert_eq!(schedule.due_by(schedule.due(n)), n + 1, "{n}");
        }
        assert_eq!(schedule.due_by(Duration::from_secs(60)), schedule.count());
        assert_eq!(RateSchedule::even(10, 0).due_by(Duration::from_secs(1)), 0);
    }

    fn seconds(lasting: u64, from: u64, to: u64) -> RateRamp {
        RateRamp { lasting: Duration::from_secs(lasting), from, to }
    }

    #[test]
    fn even_schedule_is_exact_without_drift() {
        let third = RateSchedule::even(3, 10);
        let due: Vec<u128> = (0..4).map(|n| third.due(n).as_nanos()).collect();
        assert_eq!(due, [0, 333_333_333, 666_666_666, 1_000_000_000]);
        let day = 86_400;
        for rate in [1, 7, 1_000, 999_983] {
            assert_eq!(RateSchedule::even(rate, rate).due(rate * day), Duration::from_secs(day));
        }
        let thousand = RateSchedule::even(1_000, 5_000);
        assert!((0..5_000).map(|n| thousand.due(n)).is_sorted());
    }

    #[test]
    fn ramp_count_is_its_integral_and_times_rise() {
        for ramp in [seconds(10, 0, 200), seconds(10, 200, 0)] {
            let schedule = RateSchedule::of([ramp]);
            assert_eq!(schedule.count(), 1_000);
            assert!((0..1_000).map(|n| schedule.due(n)).is_sorted());
            assert!((0..1_000).all(|n| schedule.due(n) <= Duration::from_secs(10)));
        }
        // Rising from 0, a quarter of the records is due in the first half.
        let half = RateSchedule::of([seconds(10, 0, 200)]).due(250);
        assert!(half.abs_diff(Duration::from_secs(5)) < Duration::from_micros(1), "{half:?}");
    }

    #[test]
    fn periods_follow_in_order_including_empty_ones() {
        let schedule = RateSchedule::of([seconds(2, 10, 10), seconds(3, 0, 0), seconds(1, 5, 5)]);
        assert_eq!(schedule.count(), 25);
        assert_eq!(schedule.due(19), Duration::from_millis(1_900));
        assert_eq!(schedule.due(20), Duration::from_secs(5));
        assert_eq!(schedule.due(21), Duration::from_millis(5_200));
        let rates = [0, 1, 3, 5, 7].map(|at| schedule.rate_at(Duration::from_secs(at)));
        assert_eq!(rates.map(|rate| rate as u64), [10, 10, 0, 5, 0]);
    }
}
