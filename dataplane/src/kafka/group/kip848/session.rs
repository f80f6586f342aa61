//! How long the coordinator waits for a member that has gone quiet. The protocol does not tell it to members: it is the
//! broker's setting, the group's within the broker's bounds. A lease must end before the shortest session that can be in
//! force; who holds back after a loss waits for the longest.

use std::time::Duration;

/// The broker's own setting, and the bounds within which a group's may be changed while it runs.
pub const BROKER_KEYS: [&str; 3] = [
    "group.consumer.session.timeout.ms",
    "group.consumer.min.session.timeout.ms",
    "group.consumer.max.session.timeout.ms",
];
/// The group's setting.
pub const GROUP_KEYS: [&str; 1] = ["consumer.session.timeout.ms"];

/// Kafka's defaults of `group.consumer.session.timeout.ms` and `group.consumer.max.session.timeout.ms`.
const USUAL: Duration = Duration::from_secs(45);
const USUAL_MAX: Duration = Duration::from_secs(60);

/// Between these lies the session, whatever is changed while the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionBounds {
    /// No session is shorter.
    pub shortest: Duration,
    /// No session is longer.
    pub longest: Duration,
}

impl SessionBounds {
    /// What a broker that does not say is taken for: `configured` promises that its session is no shorter, and Kafka's
    /// default is the most that is believed of it.
    pub fn assumed(configured: Duration) -> Self {
        Self { shortest: configured.min(USUAL), longest: configured.max(USUAL_MAX) }
    }

    /// From the values of [`BROKER_KEYS`] and [`GROUP_KEYS`], in milliseconds, as far as the broker told them; `None` when
    /// it told nothing that can be used.
    pub fn told<'v>(values: impl IntoIterator<Item = &'v str>) -> Option<Self> {
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
    fn h1_the_lease_is_measured_by_the_shortest_session_that_can_be_in_force() {
        let told = SessionBounds::told(["45000", "30000", "60000", "40000"]).expect("told");
        assert_eq!(told.shortest, Duration::from_secs(30));
        assert_eq!(told.longest, Duration::from_mins(1));
        assert_eq!(SessionBounds::told(["", "0", "soon"]), None);
    }

    #[test]
    fn h1_a_broker_that_does_not_say_is_believed_no_more_than_the_default() {
        let assumed = |seconds| SessionBounds::assumed(Duration::from_secs(seconds));
        assert_eq!(assumed(10).shortest, Duration::from_secs(10));
        assert_eq!(assumed(300).shortest, Duration::from_secs(45));
        assert_eq!(
            (assumed(10).longest, assumed(300).longest),
            (Duration::from_mins(1), Duration::from_mins(5))
        );
    }
}
