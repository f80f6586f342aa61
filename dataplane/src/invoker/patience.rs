//! How long to wait for one invocation: up to the first byte as long as the lease holds, then as long as the function may run.
//! No answer within its timeout says that the timeout may be wrong: it is asked for before the wait is given up.

use std::time::Duration;

use lighterman_proto::units::Moment;

use super::facts::{FunctionTimeout, RUN_MAX};

/// How much longer than the function we wait for its reply.
const READ_MARGIN: Duration = Duration::from_secs(30);
/// Credentials and a connection are to be had within this time, or the batch is tried again.
pub const UNSENT_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether the first byte has left, or the lease has ended.
const LOOK_UNSENT: Duration = Duration::from_millis(100);
/// How often it is looked whether the timeout has been told anew.
const LOOK_DOUBTED: Duration = Duration::from_millis(200);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitDecision {
    /// Nothing before then.
    Until(Moment),
    /// The timeout is doubted: ask for it, then look again.
    Doubt,
    /// It has not left and the lease is over.
    Withhold,
    /// It has not left, and will not.
    Unsent,
    /// Nobody will tell any more.
    GiveUp,
}

/// The wait for one invocation.
#[derive(Debug)]
pub struct ReplyWait {
    started: Moment,
    doubted: Option<Moment>,
}

impl ReplyWait {
    /// An invocation that begins to be prepared at `started`.
    pub fn new(started: Moment) -> Self {
        Self { started, doubted: None }
    }

    /// While nothing has come back. `sent_at`: when the first byte left.
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

    /// Once the reply is lost: how long the function may run is to be known before anybody says when it has ended.
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
    fn own_1_what_has_not_left_ends_with_the_lease_and_never_waits_for_ever() {
        let (mut wait, timeout) = (ReplyWait::new(at(100)), FunctionTimeout::new(seconds(3), at(0)));
        assert_eq!(wait.look(at(100), None, true, &timeout), WaitDecision::Until(at(100) + LOOK_UNSENT));
        assert_eq!(wait.look(at(159), None, false, &timeout), WaitDecision::Withhold);
        assert_eq!(wait.look(at(160), None, true, &timeout), WaitDecision::Unsent);
    }

    #[test]
    fn own_1_silence_is_a_sign_that_the_timeout_is_wrong() {
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
        assert_eq!(
            wait.look(at(252), sent, true, &timeout),
            WaitDecision::GiveUp,
            "asked since it was doubted"
        );
    }

    #[test]
    fn own_1_as_long_as_nobody_tells_it_may_run_as_long_as_any_function_may() {
        let (mut wait, timeout) = (ReplyWait::new(at(100)), FunctionTimeout::new(seconds(1), at(0)));
        let sent = Some(at(100));
        assert_eq!(wait.look(at(131), sent, true, &timeout), WaitDecision::Doubt);
        timeout.told(seconds(1), at(130), at(132));
        assert!(
            matches!(wait.look(at(600), sent, true, &timeout), WaitDecision::Until(_)),
            "asked before the doubt"
        );
        assert_eq!(wait.look(at(1030), sent, true, &timeout), WaitDecision::GiveUp);

        let (mut lost, timeout) = (ReplyWait::new(at(100)), FunctionTimeout::new(seconds(1), at(0)));
        assert_eq!(lost.look_after_loss(at(101), at(100), &timeout), WaitDecision::Doubt);
        assert!(matches!(lost.look_after_loss(at(102), at(100), &timeout), WaitDecision::Until(_)));
        timeout.told(seconds(1), at(101), at(103));
        assert_eq!(lost.look_after_loss(at(103), at(100), &timeout), WaitDecision::GiveUp);
    }
}
