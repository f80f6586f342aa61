//! When each record is due: set before the first is written, and computed from the record's number, so that roundings do not
//! add up and nobody's slowness moves it.

use std::sync::Arc;
use std::time::Duration;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A stretch of time in which the rate goes evenly from one value to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateRamp {
    /// How long.
    pub lasting: Duration,
    /// Records a second at its beginning.
    pub from: u64,
    /// And at its end.
    pub to: u64,
}

impl RateRamp {
    /// Whole records due in it.
    pub fn count(&self) -> u64 {
        let doubled = u128::from(self.from + self.to) * self.lasting.as_nanos();
        (doubled / u128::from(2 * NANOS_PER_SECOND)) as u64
    }

    /// Records a second, `after` its beginning.
    pub fn rate_at(&self, after: Duration) -> f64 {
        let share = after.as_secs_f64() / self.lasting.as_secs_f64().max(f64::MIN_POSITIVE);
        self.from as f64 + (self.to as f64 - self.from as f64) * share.min(1.0)
    }

    /// Record `n` of it, from 0, counted from its beginning.
    fn due(&self, n: u64) -> Duration {
        if self.from == self.to {
            let rate = self.from.max(1);
            return Duration::from_secs(n / rate) + Duration::from_nanos(n % rate * NANOS_PER_SECOND / rate);
        }
        // The n-th record is where the integral of the rate, from·t + steepness·t²/2, reaches n.
        let (from, n) = (self.from as f64, n as f64);
        let steepness = (self.to as f64 - from) / self.lasting.as_secs_f64();
        let root = (from * from + 2.0 * steepness * n).max(0.0).sqrt();
        Duration::from_secs_f64((2.0 * n / (from + root).max(f64::MIN_POSITIVE)).max(0.0)).min(self.lasting)
    }
}

/// Stretches, one after the other. Clones share them.
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
    /// `count` records at `rate` a second.
    pub fn even(rate: u64, count: u64) -> Self {
        let lasting = Duration::from_secs(count.div_ceil(rate.max(1)));
        let stretch = RateRamp { lasting, from: rate, to: rate };
        Self { stretches: [PlacedRamp { begins: Duration::ZERO, first: 0, stretch }].into(), count }
    }

    /// These stretches, each with its whole records.
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

    /// Records in all.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Record `n`, from 0, counted from the start.
    pub fn due(&self, n: u64) -> Duration {
        let behind = self.stretches.partition_point(|placed| placed.first <= n);
        let Some(placed) = behind.checked_sub(1).and_then(|at| self.stretches.get(at)) else {
            return Duration::ZERO;
        };
        placed.begins + placed.stretch.due(n - placed.first)
    }

    /// Records that are due by a moment.
    pub fn due_by(&self, moment: Duration) -> u64 {
        let (mut known, mut open) = (0, self.count);
        while known < open {
            let middle = known.midpoint(open);
            if self.due(middle) <= moment { known = middle + 1 } else { open = middle }
        }
        known
    }

    /// Records a second at a moment; 0 when all is over.
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
    fn what_is_due_by_a_moment_is_what_is_due_before_the_next() {
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
    fn it_is_exact_and_does_not_drift() {
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
    fn a_ramp_has_the_records_under_its_line_and_never_goes_back() {
        for ramp in [seconds(10, 0, 200), seconds(10, 200, 0)] {
            let schedule = RateSchedule::of([ramp]);
            assert_eq!(schedule.count(), 1_000);
            assert!((0..1_000).map(|n| schedule.due(n)).is_sorted());
            assert!((0..1_000).all(|n| schedule.due(n) <= Duration::from_secs(10)));
        }
        // Rising from nothing, a quarter of the records is due in the first half.
        let half = RateSchedule::of([seconds(10, 0, 200)]).due(250);
        assert!(half.abs_diff(Duration::from_secs(5)) < Duration::from_micros(1), "{half:?}");
    }

    #[test]
    fn stretches_follow_one_another_and_silence_has_no_records() {
        let schedule = RateSchedule::of([seconds(2, 10, 10), seconds(3, 0, 0), seconds(1, 5, 5)]);
        assert_eq!(schedule.count(), 25);
        assert_eq!(schedule.due(19), Duration::from_millis(1_900));
        assert_eq!(schedule.due(20), Duration::from_secs(5));
        assert_eq!(schedule.due(21), Duration::from_millis(5_200));
        let rates = [0, 1, 3, 5, 7].map(|at| schedule.rate_at(Duration::from_secs(at)));
        assert_eq!(rates.map(|rate| rate as u64), [10, 10, 0, 5, 0]);
    }
}
