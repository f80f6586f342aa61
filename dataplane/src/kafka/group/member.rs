//! Member of either protocol, behind one interface.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use lighterman_proto::units::Moment;

use super::classic::ClassicMember;
use super::effects::{
    GroupEffect, GroupProtocol, JoinResult, Kip848Response, MemberIdentity, MemberTiming, RequestError,
};
use super::kip848::member::Kip848Member;
use super::kip848::session_bounds::SessionBounds;

/// Response to a request of a member.
#[derive(Debug)]
pub enum MemberEvent {
    /// Result of the coordinator look-up, with the session bounds that its broker reports.
    CoordinatorFound(Result<Option<SessionBounds>, String>),
    /// Response to a `JoinGroup`, with the identity that it was sent under.
    Joined(MemberIdentity, Result<JoinResult, RequestError>),
    /// Response to a `SyncGroup`, with the identity that it was sent under.
    Synced(MemberIdentity, Result<Vec<i32>, RequestError>),
    /// Response to a heartbeat of the classic protocol, by sequence number.
    HeartbeatAnswered(u64, Result<(), RequestError>),
    /// Response to a heartbeat of the consumer protocol, by sequence number.
    Told(u64, Result<Kip848Response, RequestError>),
}

/// Identity of a member in its group and the partitions that it keeps. Commits are sent under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipView {
    /// Generation, or member epoch.
    pub generation: i32,
    /// Member id.
    pub member: String,
    /// Owned partitions that are not being drained.
    pub kept: Arc<BTreeSet<i32>>,
}

impl MembershipView {
    /// Returns the identity that requests are sent under.
    pub fn identity(&self) -> MemberIdentity {
        MemberIdentity { member: self.member.clone(), generation: self.generation }
    }
}

/// State machine of a member, of either protocol.
#[derive(Debug)]
pub enum GroupMember {
    /// Classic protocol.
    Classic(Box<ClassicMember>),
    /// Consumer protocol.
    Consumer(Box<Kip848Member>),
}

impl GroupMember {
    /// Creates a member that has not joined. `id` is its member id where the coordinator does not assign one.
    pub fn new(protocol: GroupProtocol, timing: MemberTiming, id: String, now: Moment) -> Self {
        match protocol {
            GroupProtocol::Classic => Self::Classic(Box::new(ClassicMember::new(timing, now))),
            GroupProtocol::Consumer => Self::Consumer(Box::new(Kip848Member::new(timing, id, now))),
        }
    }

    /// Returns the identity that it commits under, or `None` while it is not a member.
    pub fn standing(&self) -> Option<MembershipView> {
        let (identity, kept) = match self {
            Self::Classic(core) => (core.commit_identity(), core.kept()),
            Self::Consumer(core) => (core.commit_identity(), core.kept()),
        };
        let MemberIdentity { member, generation } = identity?.clone();
        Some(MembershipView { generation, member, kept })
    }

    /// Returns the moment at which [`GroupMember::tick`] is next due.
    pub fn wake_at(&self) -> Option<Moment> {
        match self {
            Self::Classic(core) => core.wake_at(),
            Self::Consumer(core) => core.wake_at(),
        }
    }

    /// Sets the time for which the group waits for this member to release partitions. In the classic protocol the
    /// next `JoinGroup` carries it, and each rebalance starts with one.
    pub fn set_rebalance_timeout(&mut self, now: Moment, timeout: Duration) {
        match self {
            Self::Classic(core) => core.set_rebalance_timeout(timeout),
            Self::Consumer(core) => core.set_rebalance_timeout(now, timeout),
        }
    }

    /// Advances the member to `now` and returns the effects that are due.
    pub fn tick(&mut self, now: Moment) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.tick(now),
            Self::Consumer(core) => core.tick(now),
        }
    }

    /// Handles a response. A response of the other protocol is ignored.
    pub fn take(&mut self, now: Moment, event: MemberEvent, random: u64) -> Vec<GroupEffect> {
        match (self, event) {
            (Self::Classic(core), MemberEvent::CoordinatorFound(found)) => {
                core.coordinator_found(now, found.map(|_| ()), random)
            }
            (Self::Classic(core), MemberEvent::Joined(who, answer)) => core.joined(now, &who, answer, random),
            (Self::Classic(core), MemberEvent::Synced(who, answer)) => core.synced(now, &who, answer, random),
            (Self::Classic(core), MemberEvent::HeartbeatAnswered(seq, answer)) => {
                core.heartbeat_answered(now, seq, answer, random)
            }
            (Self::Consumer(core), MemberEvent::CoordinatorFound(found)) => {
                core.coordinator_found(now, found, random)
            }
            (Self::Consumer(core), MemberEvent::Told(seq, answer)) => {
                core.heartbeat_answered(now, seq, answer, random)
            }
            _ => Vec::new(),
        }
    }

    /// Handles the rejection of a commit, or of a committed-offset look-up, that was sent as `who` (H1).
    pub fn commit_refused(
        &mut self,
        now: Moment,
        who: &MemberIdentity,
        code: ResponseError,
        random: u64,
    ) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.commit_refused(now, who, code, random),
            Self::Consumer(core) => core.commit_refused(now, who, code, random),
        }
    }

    /// Rejoins, so that the coordinator rejects unanswered requests of `generation`. No invocation of this member may
    /// run.
    pub fn force_rejoin(&mut self, now: Moment, generation: i32) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.force_rejoin(now, generation),
            Self::Consumer(core) => core.force_rejoin(now, generation),
        }
    }

    /// Handles the release of partitions that are drained and committed.
    pub fn released(&mut self, now: Moment, partitions: &[i32]) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.released(now, partitions),
            Self::Consumer(core) => core.released(now, partitions),
        }
    }

    /// Records that no invocation of this member still runs (H5).
    pub fn all_invocations_ended(&mut self) {
        match self {
            Self::Classic(core) => core.all_invocations_ended(),
            Self::Consumer(core) => core.all_invocations_ended(),
        }
    }

    /// Leaves the group, after all partitions were released.
    pub fn leave(&mut self) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.leave(),
            Self::Consumer(core) => core.leave(),
        }
    }

    /// Returns true if this member must check the topic for growth. In the consumer protocol the coordinator does
    /// (H18).
    pub fn leads(&self) -> bool {
        matches!(self, Self::Classic(core) if core.leads())
    }

    /// Handles a partition count that differs from the one this member, as the leader, based the assignment on.
    pub fn topic_changed(&mut self, now: Moment) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.topic_changed(now),
            Self::Consumer(_) => Vec::new(),
        }
    }
}
