//! Time limits of one invocation. Before the first byte the limit is the lease, after it the function's timeout. A
//! missing reply suggests that the known timeout is wrong, so it is queried before the wait ends.

use std::time::Duration;

use lighterman_proto::units::Moment;

use super::facts::{FunctionTimeout, RUN_MAX};

/// Time to wait for a reply beyond the function's timeout.
const READ_MARGIN: Duration = Duration::from_secs(30);
/// Time limit for credentials and a connection. After it the batch is retried.
pub const UNSENT_MAX: Duration = Duration::from_secs(60);
/// Interval of checks whether the first byte has left or the lease has ended.
const LOOK_UNSENT: Duration = Duration::from_millis(100);
/// Interval of checks whether a query has confirmed the timeout.
const LOOK_DOUBTED: Duration = Duration::from_millis(200);

/// Next step of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitDecision {
    /// Wait until this time.
    Until(Moment),
    /// Query the doubted timeout, then check again.
    Doubt,
    /// Withhold the request: no byte has left and the lease has ended.
    Withhold,
    /// Abort the request: no byte has left within [`UNSENT_MAX`].
    Unsent,
    /// Stop waiting: a reply is no longer expected.
    GiveUp,
}

/// State of the wait for one invocation.
#[derive(Debug)]
pub struct ReplyWait {
    started: Moment,
    doubted: Option<Moment>,
}

impl ReplyWait {
    /// Creates the wait of an invocation whose preparation starts at `started`.
    pub fn new(started: Moment) -> Self {
        Self { started, doubted: None }
    }

    /// Returns the next step while there is no reply. `sent_at` is the send time of the first byte.
    pub fn look(
        &mut self,
        now: Moment,
        sent_at: Option<Moment>,
        is_lease_good: bool,
        timeout: &FunctionTimeout,
    ) -> WaitDecision {
        let Some(sent_at) = sent_at else {
            return if !is_lease_good {
                WaitDecision::Withhold
            } else if now >= self.started + UNSENT_MAX {
                WaitDecision::Unsent
            } else {
                WaitDecision::Until(now + LOOK_UNSENT)
            };
        };
        let due = sent_at + timeout.longest_since(sent_at) + READ_MARGIN;
        if now < due {
            return WaitDecision::Until(due);
        }
        self.doubt(now, sent_at + RUN_MAX + READ_MARGIN, timeout)
    }

    /// Returns the next step after a lost reply. The timeout must be confirmed before the function is assumed to
    /// have ended.
    pub fn look_after_loss(
        &mut self,
        now: Moment,
        sent_at: Moment,
        timeout: &FunctionTimeout,
    ) -> WaitDecision {
        self.doubt(now, sent_at + RUN_MAX, timeout)
    }

    fn doubt(&mut self, now: Moment, longest: Moment, timeout: &FunctionTimeout) -> WaitDecision {
        let Some(doubted) = self.doubted else {
            self.doubted = Some(now);
            return WaitDecision::Doubt;
        };
        if now >= longest || timeout.is_confirmed_since(doubted) {
            return WaitDecision::GiveUp;
        }
        WaitDecision::Until((now + LOOK_DOUBTED).min(longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_micros(seconds * 1_000_000)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn own_1_unsent_request_ends_with_lease_or_time_limit() {
        let (mut wait, timeout) = (ReplyWait::new(at(100)), FunctionTimeout::new(seconds(3), at(0)));
        assert_eq!(wait.look(at(100), None, true, &timeout), WaitDecision::Until(at(100) + LOOK_UNSENT));
        assert_eq!(wait.look(at(159), None, false, &timeout), WaitDecision::Withhold);
        assert_eq!(wait.look(at(160), None, true, &timeout), WaitDecision::Unsent);
    }

    #[test]
    fn own_1_missing_reply_casts_doubt_on_timeout() {
        let (mut wait, timeout) = (ReplyWait::new(at(100)), FunctionTimeout::new(seconds(1), at(0)));
        let sent = Some(at(102));
        assert_eq!(wait.look(at(103), sent, true, &timeout), WaitDecision::Until(at(133)));
        assert_eq!(
            wait.look(at(133), sent, false, &timeout),
            WaitDecision::Doubt,
            "a lease is for beginning"
        );
        assert!(matches!(wait.look(at(134), sent, true, &timeout), WaitDecision::Until(_)));
        timeout.told(seconds(120), at(133), at(135));
        assert_eq!(
            wait.look(at(135), sent, true, &timeout),
            WaitDecision::Until(at(252)),
            "raised meanwhile"
        );
        assert_eq!(wait.look(at(252), sent, true, &timeout), WaitDecision::GiveUp, "queried after the doubt");
    }

    #[test]
    fn own_1_unconfirmed_timeout_waits_for_lambda_maximum() {
        let (mut wait, timeout) = (ReplyWait::new(at(100)), FunctionTimeout::new(seconds(1), at(0)));
        let sent = Some(at(100));
        assert_eq!(wait.look(at(131), sent, true, &timeout), WaitDecision::Doubt);
        timeout.told(seconds(1), at(130), at(132));
        assert!(
            matches!(wait.look(at(600), sent, true, &timeout), WaitDecision::Until(_)),
            "queried before the doubt"
        );
        assert_eq!(wait.look(at(1030), sent, true, &timeout), WaitDecision::GiveUp);

        let (mut lost, timeout) = (ReplyWait::new(at(100)), FunctionTimeout::new(seconds(1), at(0)));
        assert_eq!(lost.look_after_loss(at(101), at(100), &timeout), WaitDecision::Doubt);
        assert!(matches!(lost.look_after_loss(at(102), at(100), &timeout), WaitDecision::Until(_)));
        timeout.told(seconds(1), at(101), at(103));
        assert_eq!(lost.look_after_loss(at(103), at(100), &timeout), WaitDecision::GiveUp);
    }
}
