//! A member of either protocol, driven alike.

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
use super::kip848::session::SessionBounds;

/// What happens to a member: the answers to what it asked for.
#[derive(Debug)]
pub enum MemberEvent {
    /// The coordinator is known, and what its broker says of sessions.
    CoordinatorFound(Result<Option<SessionBounds>, String>),
    /// `JoinGroup` was answered.
    Joined(MemberIdentity, Result<JoinResult, RequestError>),
    /// `SyncGroup` was answered.
    Synced(MemberIdentity, Result<Vec<i32>, RequestError>),
    /// A heartbeat of the classic protocol was answered.
    HeartbeatAnswered(u64, Result<(), RequestError>),
    /// A heartbeat of the consumer protocol was answered.
    Told(u64, Result<Kip848Response, RequestError>),
}

/// Who the member is to the group, and what is its own: what it commits as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipView {
    /// Generation, or member epoch.
    pub generation: i32,
    /// Member id.
    pub member: String,
    /// What is its own in it and not being drained.
    pub kept: Arc<BTreeSet<i32>>,
}

impl MembershipView {
    /// Who requests are sent as.
    pub fn identity(&self) -> MemberIdentity {
        MemberIdentity { member: self.member.clone(), generation: self.generation }
    }
}

/// The member's state machine.
#[derive(Debug)]
pub enum GroupMember {
    /// Classic protocol.
    Classic(Box<ClassicMember>),
    /// Consumer protocol.
    Consumer(Box<Kip848Member>),
}

impl GroupMember {
    /// A member that has not joined; `id` is its own wherever the coordinator does not give it one.
    pub fn new(protocol: GroupProtocol, timing: MemberTiming, id: String, now: Moment) -> Self {
        match protocol {
            GroupProtocol::Classic => Self::Classic(Box::new(ClassicMember::new(timing, now))),
            GroupProtocol::Consumer => Self::Consumer(Box::new(Kip848Member::new(timing, id, now))),
        }
    }

    /// What it commits as, while it is a member.
    pub fn standing(&self) -> Option<MembershipView> {
        let (identity, kept) = match self {
            Self::Classic(core) => (core.commit_identity(), core.kept()),
            Self::Consumer(core) => (core.commit_identity(), core.kept()),
        };
        let (generation, member) = identity?;
        Some(MembershipView { generation, member: member.to_owned(), kept })
    }

    /// When [`GroupMember::tick`] has something to do next.
    pub fn wake_at(&self) -> Option<Moment> {
        match self {
            Self::Classic(core) => core.wake_at(),
            Self::Consumer(core) => core.wake_at(),
        }
    }

    /// How long the others shall wait for us to let go. In the classic protocol the next `JoinGroup` says so, and each rebalance
    /// begins with one.
    pub fn set_rebalance_timeout(&mut self, now: Moment, timeout: Duration) {
        match self {
            Self::Classic(core) => core.set_rebalance_timeout(timeout),
            Self::Consumer(core) => core.set_rebalance_timeout(now, timeout),
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment, random: u64) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.tick(now, random),
            Self::Consumer(core) => core.tick(now),
        }
    }

    /// An answer has come. One that belongs to the other protocol says nothing.
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

    /// A commit that was sent as `who`, or the question what is committed, was refused (H1).
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

    /// What was sent under `generation` and not answered must not be served any more; nothing of ours runs.
    pub fn force_rejoin(&mut self, now: Moment, generation: i32) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.force_rejoin(now, generation),
            Self::Consumer(core) => core.force_rejoin(now, generation),
        }
    }

    /// These partitions are drained and committed.
    pub fn released(&mut self, now: Moment, partitions: &[i32]) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.released(now, partitions),
            Self::Consumer(core) => core.released(now, partitions),
        }
    }

    /// Nothing of ours runs any more (H5).
    pub fn all_invocations_ended(&mut self) {
        match self {
            Self::Classic(core) => core.all_invocations_ended(),
            Self::Consumer(core) => core.all_invocations_ended(),
        }
    }

    /// Everything is released: go.
    pub fn leave(&mut self) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.leave(),
            Self::Consumer(core) => core.leave(),
        }
    }

    /// True when it is ours to look whether the topic has grown; of the consumer protocol the coordinator does (H18).
    pub fn leads(&self) -> bool {
        matches!(self, Self::Classic(core) if core.leads())
    }

    /// The topic has other partitions than when we led the assignment.
    pub fn topic_changed(&mut self, now: Moment) -> Vec<GroupEffect> {
        match self {
            Self::Classic(core) => core.topic_changed(now),
            Self::Consumer(_) => Vec::new(),
        }
    }
}
