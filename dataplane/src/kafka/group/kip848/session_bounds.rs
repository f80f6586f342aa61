//! Session timeout: the time for which the coordinator waits for a silent member. The protocol does not report it to
//! members. It is a setting of the broker, or of the group within the broker's bounds. A lease must end before the
//! shortest session that can be in force. A member that holds back after a loss waits for the longest.

use std::time::Duration;

/// Config keys of the broker: its own setting, and the bounds within which a group's may be changed at run time.
pub const BROKER_KEYS: [&str; 3] = [
    "group.consumer.session.timeout.ms",
    "group.consumer.min.session.timeout.ms",
    "group.consumer.max.session.timeout.ms",
];
/// Config key of the group.
pub const GROUP_KEYS: [&str; 1] = ["consumer.session.timeout.ms"];

/// Kafka's defaults of `group.consumer.session.timeout.ms` and `group.consumer.max.session.timeout.ms`.
const USUAL: Duration = Duration::from_secs(45);
const USUAL_MAX: Duration = Duration::from_secs(60);

/// Bounds of the session timeout, whatever is reconfigured while the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionBounds {
    /// Shortest session timeout that can be in force.
    pub shortest: Duration,
    /// Longest session timeout that can be in force.
    pub longest: Duration,
}

impl SessionBounds {
    /// Returns the bounds assumed for a broker that does not report them. `configured` promises that no session is
    /// shorter, but it is believed only up to Kafka's default.
    pub fn assumed(configured: Duration) -> Self {
        Self { shortest: configured.min(USUAL), longest: configured.max(USUAL_MAX) }
    }

    /// Parses the values of [`BROKER_KEYS`] and [`GROUP_KEYS`], in milliseconds, as far as the broker reports them.
    /// Returns `None` if no value is usable.
    pub fn reported<'v>(values: impl IntoIterator<Item = &'v str>) -> Option<Self> {
        let millis = values.into_iter().filter_map(|value| value.parse::<u32>().ok()).filter(|ms| *ms > 0);
        let mut all: Vec<Duration> = millis.map(|ms| Duration::from_millis(u64::from(ms))).collect();
        all.sort_unstable();
        Some(Self { shortest: *all.first()?, longest: *all.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h1_bounds_are_shortest_and_longest_reported_session() {
        let reported = SessionBounds::reported(["45000", "30000", "60000", "40000"]).expect("reported");
        assert_eq!(reported.shortest, Duration::from_secs(30));
        assert_eq!(reported.longest, Duration::from_mins(1));
        assert_eq!(SessionBounds::reported(["", "0", "soon"]), None);
    }

    #[test]
    fn h1_unreported_session_is_bounded_by_kafkas_default() {
        let assumed = |seconds| SessionBounds::assumed(Duration::from_secs(seconds));
        assert_eq!(assumed(10).shortest, Duration::from_secs(10));
        assert_eq!(assumed(300).shortest, Duration::from_secs(45));
        assert_eq!(
            (assumed(10).longest, assumed(300).longest),
            (Duration::from_mins(1), Duration::from_mins(5))
        );
    }
}
