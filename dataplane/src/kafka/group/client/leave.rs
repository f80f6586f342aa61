//! Leave requests and their retries. Until the coordinator learns of a leave, the member's partitions stay without an
//! owner for a whole session.

use std::time::Duration;

use kafka_protocol::error::ResponseError;

use super::CoordinatorClient;
use crate::kafka::group::effects::{GroupProtocol, LeaveResult, leaving};
use crate::runtime::backoff::{Backoff, random};

/// Deadline of one leave request.
pub(super) const LEAVE_DEADLINE: Duration = Duration::from_secs(3);
/// Deadline of all attempts together.
const LEAVES_WITHIN: Duration = Duration::from_secs(10);
const LEAVES_MAX: usize = 5;
const LEAVE_AGAIN: Duration = Duration::from_millis(200);

impl CoordinatorClient {
    /// Leaves the group, and retries while that may help.
    pub(in crate::kafka::group) async fn leave_with_retries(&self, member: &str) {
        let leaves = async {
            let mut backoff = Backoff::new(LEAVE_AGAIN, LEAVE_AGAIN);
            for _ in 0..LEAVES_MAX {
                if self.leave(member).await != LeaveResult::Again {
                    return;
                }
                tokio::time::sleep(backoff.next(random())).await;
            }
        };
        if tokio::time::timeout(LEAVES_WITHIN, leaves).await.is_err() {
            tracing::debug!(
                group = self.settings.group,
                "left the group without its answer; the session ends by itself"
            );
        }
    }

    /// Sends one leave request and returns its outcome.
    pub(super) async fn leave(&self, member: &str) -> LeaveResult {
        let code = match self.settings.protocol {
            GroupProtocol::Classic => self.leave_group(member).await,
            GroupProtocol::Consumer => self.leave_heartbeat(member).await,
        };
        let group = &self.settings.group;
        let code = match code {
            Ok(code) => ResponseError::try_from_code(code),
            Err(error) => {
                tracing::debug!(group, %error, "left the group without its answer");
                return LeaveResult::Again;
            }
        };
        if let Some(code) = code {
            self.response_error(code);
        }
        let result = leaving(code);
        match result {
            LeaveResult::Gone => {}
            LeaveResult::Again => {
                tracing::debug!(group, ?code, "the coordinator does not take the leave now");
            }
            LeaveResult::Refused(code) => {
                tracing::warn!(group, %code, "the coordinator does not let the member go; its session ends by itself");
            }
        }
        result
    }
}
