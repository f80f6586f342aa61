//! The orders that the holders of a membership give its member. None is dropped while the member lives, and a member that has ended
//! says so itself ([`GroupEvent::Ended`](super::GroupEvent::Ended)).
//!
//! The queue has no limit because what is said is limited: a partition is released once for each time that the member had it
//! revoked, which it does not do again before it has taken that in; `Quiesced` answers a loss, `StartOver` a generation,
//! `Committed` is awaited by its one asker, `Leave` is the last. Refused commits are the only ones that go on while the member
//! does not listen: they are kept apart, each once.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::effects::MemberIdentity;
use super::member::MembershipView;
use super::membership::CommittedReply;

pub(super) enum GroupCommand {
    Released(Vec<i32>),
    Quiesced,
    StartOver(i32),
    /// Commits that were sent as these were refused so.
    CommitsRefused(Vec<CommandRefusal>),
    Committed(MembershipView, Vec<i32>, oneshot::Sender<CommittedReply>),
    Leave(oneshot::Sender<()>),
}

pub(super) type CommandRefusal = (MemberIdentity, ResponseError);

/// Held by whoever holds the membership.
#[derive(Clone)]
pub(super) struct CommandSender {
    queue: mpsc::UnboundedSender<GroupCommand>,
    refusals: Arc<Mutex<Vec<CommandRefusal>>>,
}

/// Held by the member.
pub(super) struct CommandReceiver {
    queue: mpsc::UnboundedReceiver<GroupCommand>,
    refusals: Arc<Mutex<Vec<CommandRefusal>>>,
}

pub(super) fn channel() -> (CommandSender, CommandReceiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let refusals = Arc::<Mutex<Vec<CommandRefusal>>>::default();
    (
        CommandSender { queue: sender, refusals: Arc::clone(&refusals) },
        CommandReceiver { queue: receiver, refusals },
    )
}

impl CommandSender {
    /// A member that has ended hears nothing, and whoever waits for a reply learns that the sender of it is gone.
    pub(super) fn send_command(&self, command: GroupCommand) {
        let _ = self.queue.send(command);
    }

    /// A commit that was sent as `who` was refused.
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
    /// The next one; `None` when nobody holds the membership any more.
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
    fn liv_1_no_command_is_lost_however_many_come_while_the_member_is_busy() {
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
    fn mem_1_refused_commits_that_nobody_listens_to_are_held_once_each() {
        let (sender, mut receiver) = channel();
        for turn in 0..10_000 {
            let code = [ResponseError::UnknownMemberId, ResponseError::RebalanceInProgress][turn % 2];
            sender.refused(who(3), code);
        }
        sender.send_command(GroupCommand::Quiesced);
        let Some(Some(GroupCommand::CommitsRefused(refusals))) = receiver.next().now_or_never() else {
            panic!("refusals come first, as they were said")
        };
        assert_eq!(
            refusals,
            [(who(3), ResponseError::UnknownMemberId), (who(3), ResponseError::RebalanceInProgress)]
        );
        assert!(matches!(receiver.next().now_or_never(), Some(Some(GroupCommand::Quiesced))));
        sender.refused(who(4), ResponseError::UnknownMemberId);
        assert!(
            matches!(receiver.next().now_or_never(), Some(Some(GroupCommand::CommitsRefused(all))) if all.len() == 1)
        );
    }
}
