//! Commands from the holders of a membership to its member. None is dropped while the member lives, and a member that
//! has ended reports it itself ([`GroupEvent::Ended`](super::GroupEvent::Ended)).
//!
//! The queue is unbounded because its commands are bounded. A partition is released once for each revocation, and the
//! member revokes it again only after handling that release. `AllInvocationsEnded` follows a loss, and
//! `ForceRejoin` a generation. `FetchCommitted` has one caller, which awaits its reply, and `Leave` is the last command. Only rejected commits can
//! accumulate while the member does not receive. They are kept apart, without duplicates.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::effects::MemberIdentity;
use super::member::MembershipView;
use super::membership_handle::CommittedReply;

pub(super) enum GroupCommand {
    Released(Vec<i32>),
    AllInvocationsEnded,
    ForceRejoin(i32),
    /// Rejected commits: the identity that each was sent under, and its error code.
    CommitsRefused(Vec<CommitRefusal>),
    FetchCommitted(MembershipView, Vec<i32>, oneshot::Sender<CommittedReply>),
    Leave(oneshot::Sender<()>),
}

pub(super) type CommitRefusal = (MemberIdentity, ResponseError);

/// Sending half, held by each handle of the membership.
#[derive(Clone)]
pub(super) struct CommandSender {
    queue: mpsc::UnboundedSender<GroupCommand>,
    refusals: Arc<Mutex<Vec<CommitRefusal>>>,
}

/// Receiving half, held by the member.
pub(super) struct CommandReceiver {
    queue: mpsc::UnboundedReceiver<GroupCommand>,
    refusals: Arc<Mutex<Vec<CommitRefusal>>>,
}

pub(super) fn channel() -> (CommandSender, CommandReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let refusals = Arc::<Mutex<Vec<CommitRefusal>>>::default();
    (
        CommandSender { queue: sender, refusals: Arc::clone(&refusals) },
        CommandReceiver { queue: receiver, refusals },
    )
}

impl CommandSender {
    /// Sends a command. If the member has ended, the command is dropped, and a caller that awaits a reply finds its
    /// sender dropped.
    pub(super) fn send_command(&self, command: GroupCommand) {
        let _ = self.queue.send(command);
    }

    /// Reports that a commit sent as `who` was rejected.
    pub(super) fn refused(&self, who: MemberIdentity, code: ResponseError) {
        let mut refusals = self.refusals.lock();
        let is_first = refusals.is_empty();
        if !refusals.contains(&(who.clone(), code)) {
            refusals.push((who, code));
        }
        drop(refusals);
        if is_first {
            self.send_command(GroupCommand::CommitsRefused(Vec::new()));
        }
    }
}

impl CommandReceiver {
    /// Returns the next command, or `None` once every handle of the membership is dropped.
    pub(super) async fn next(&mut self) -> Option<GroupCommand> {
        let command = self.queue.recv().await?;
        Some(match command {
            GroupCommand::CommitsRefused(_) => {
                GroupCommand::CommitsRefused(std::mem::take(&mut *self.refusals.lock()))
            }
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn who(generation: i32) -> MemberIdentity {
        MemberIdentity { member: "m".to_owned(), generation }
    }

    #[test]
    fn liv_1_commands_to_busy_member_are_kept() {
        let (sender, mut receiver) = channel();
        for partition in 0..50_000 {
            sender.send_command(GroupCommand::Released(vec![partition]));
        }
        for expected in 0..50_000 {
            let Some(Some(GroupCommand::Released(partitions))) = receiver.next().now_or_never() else {
                panic!("partition {expected} is not released")
            };
            assert_eq!(partitions, [expected]);
        }
    }

    #[test]
    fn mem_1_unread_commit_rejections_are_kept_once_each() {
        let (sender, mut receiver) = channel();
        for turn in 0..10_000 {
            let code = [ResponseError::UnknownMemberId, ResponseError::RebalanceInProgress][turn % 2];
            sender.refused(who(3), code);
        }
        sender.send_command(GroupCommand::AllInvocationsEnded);
        let Some(Some(GroupCommand::CommitsRefused(refusals))) = receiver.next().now_or_never() else {
            panic!("rejections are delivered first, in order")
        };
        assert_eq!(
            refusals,
            [(who(3), ResponseError::UnknownMemberId), (who(3), ResponseError::RebalanceInProgress)]
        );
        assert!(matches!(receiver.next().now_or_never(), Some(Some(GroupCommand::AllInvocationsEnded))));
        sender.refused(who(4), ResponseError::UnknownMemberId);
        assert!(
            matches!(receiver.next().now_or_never(), Some(Some(GroupCommand::CommitsRefused(all))) if all.len() == 1)
        );
    }
}
