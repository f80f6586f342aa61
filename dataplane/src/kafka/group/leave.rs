//! Leave requests and their retries. Until the coordinator learns of a leave, the member's partitions stay without an
//! owner for a whole session.

use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::LeaveGroupRequest;

use super::connections::{ConnectionKind, CoordinatorConnections};
use super::effects::{GroupProtocol, LeaveResult, leaving};
use super::kip848::requests as consumer;
use super::membership::MembershipSettings;
use super::requests::{group_id, refused, text};
use crate::kafka::connection::versions;
use crate::kafka::error::KafkaError;
use crate::runtime::backoff::{Backoff, random};

/// Deadline of one leave request.
pub(super) const LEAVE_DEADLINE: Duration = Duration::from_secs(3);
/// Deadline of all attempts together.
const LEAVES_WITHIN: Duration = Duration::from_secs(10);
const LEAVES_MAX: usize = 5;
const LEAVE_AGAIN: Duration = Duration::from_millis(200);

/// Leaves the group, and retries while that may help.
pub(super) async fn leave_with_retries(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    member: &str,
) {
    let leaves = async {
        let mut backoff = Backoff::new(LEAVE_AGAIN, LEAVE_AGAIN);
        for _ in 0..LEAVES_MAX {
            if leave(lines, settings, member).await != LeaveResult::Again {
                return;
            }
            tokio::time::sleep(backoff.next(random())).await;
        }
    };
    if tokio::time::timeout(LEAVES_WITHIN, leaves).await.is_err() {
        tracing::debug!(
            group = settings.group,
            "left the group without its answer; the session ends by itself"
        );
    }
}

/// Sends one leave request and returns its outcome.
pub(super) async fn leave(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    member: &str,
) -> LeaveResult {
    let code = match settings.protocol {
        GroupProtocol::Classic => leave_classic(lines, settings, member).await,
        GroupProtocol::Consumer => consumer::leave(lines, settings, member).await,
    };
    let group = &settings.group;
    let code = match code {
        Ok(code) => ResponseError::try_from_code(code),
        Err(error) => {
            tracing::debug!(group, %error, "left the group without its answer");
            return LeaveResult::Again;
        }
    };
    if let Some(code) = code {
        refused(lines, code);
    }
    let leaving = leaving(code);
    match leaving {
        LeaveResult::Gone => {}
        LeaveResult::Again => tracing::debug!(group, ?code, "the coordinator does not take the leave now"),
        LeaveResult::Refused(code) => {
            tracing::warn!(group, %code, "the coordinator does not let the member go; its session ends by itself");
        }
    }
    leaving
}

async fn leave_classic(
    lines: &CoordinatorConnections,
    settings: &MembershipSettings,
    member: &str,
) -> Result<i16, KafkaError> {
    let build =
        |_| LeaveGroupRequest::default().with_group_id(group_id(settings)).with_member_id(text(member));
    let reply =
        lines.call(ConnectionKind::Heartbeat, &settings.group, versions(0, 2), LEAVE_DEADLINE, build).await?;
    Ok(reply.error_code)
}
