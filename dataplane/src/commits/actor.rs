//! Committer actor: one `OffsetCommit` in flight, and acknowledgements to each partition.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message};
use lighterman_proto::ids::{Epoch, Offset};

use super::coalescing::{CommitOutcome, CommitterCore};
use crate::messages::commit::{
    CommitAcknowledged, CommitGivenUp, CommitReplies, CommitRequest, FollowPartition,
};
use crate::messages::report::PartitionStopped;
use crate::runtime::backoff::random;
use crate::runtime::clock;
use crate::runtime::death_watch::DeathWatch;
use crate::runtime::outbox::{MAILBOX_MESSAGES_MAX, post};
use crate::runtime::owned_task::OwnedTask;
use crate::runtime::task::outcome;
use crate::status::MappingStatus;

/// Interval of checks whether a read-back of the group's offsets is due.
const READ_BACK_TICK: Duration = Duration::from_secs(5);

/// Result of one commit: an outcome for each partition index, or the reason for having none.
pub type CommitAnswer = Result<HashMap<i32, CommitOutcome>, CommitError>;

/// Error of a commit without a known outcome.
#[derive(Debug)]
pub struct CommitError {
    /// Error message.
    pub why: String,
    /// True if the request may have reached the broker and may still be applied.
    pub may_still_apply: bool,
}

/// Future returned by a [`CommitPort`].
pub type CommitFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Commit interface of the group's member.
pub trait CommitPort: Send + Sync {
    /// Commits all of `requests` in one request. The future may outlive the caller's interest.
    fn commit(&self, requests: Vec<CommitRequest>) -> CommitFuture<CommitAnswer>;

    /// Returns the partitions for which the group's commits differ from `requests`, or `None` if the read failed.
    fn read_back(&self, requests: Vec<CommitRequest>) -> CommitFuture<Option<Vec<i32>>>;

    /// Reports to the operator that the group has rejected `frontier` permanently and holds `acknowledged`.
    fn given_up(&self, frontier: &CommitRequest, acknowledged: Option<Offset>);
}

/// Notice that the member is stopping. Permanently rejected commits are then abandoned.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct MemberStops;

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct CommitAnswered(CommitAnswer);

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct ReadBackDue;

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct HasReadBack(Option<Vec<i32>>);

/// Actor that commits the offsets of one member. It stops with its last address; an interval of its context would
/// keep it alive forever.
pub struct CommitterActor {
    core: CommitterCore,
    port: Arc<dyn CommitPort>,
    partitions: HashMap<i32, (Epoch, CommitReplies)>,
    status: MappingStatus,
    resting: bool,
    ticks: Option<OwnedTask>,
    _watch: DeathWatch,
}

impl CommitterActor {
    /// Creates a committer that commits through `port`.
    pub fn new(port: Arc<dyn CommitPort>, status: MappingStatus, watch: DeathWatch) -> Self {
        Self {
            core: CommitterCore::default(),
            port,
            partitions: HashMap::new(),
            status,
            resting: false,
            ticks: None,
            _watch: watch,
        }
    }

    fn pump(&mut self, ctx: &mut Context<Self>) {
        if self.resting {
            return;
        }
        let requests = self.core.start();
        if requests.is_empty() {
            return;
        }
        let (answer, me) = (self.port.commit(requests), ctx.address().downgrade());
        // Not aborted with the actor: that would not undo a request on the wire.
        actix_rt::spawn(async move {
            let panicked =
                || Err(CommitError { why: "the commit's task panicked".to_owned(), may_still_apply: true });
            let answer = outcome("commit", answer).await.unwrap_or_else(panicked);
            if let Some(me) = me.upgrade() {
                me.do_send(CommitAnswered(answer));
            }
        });
    }

    fn read_back(&mut self, ctx: &mut Context<Self>) {
        let requests = self.core.start_read_back(clock::now());
        if requests.is_empty() {
            return;
        }
        let (read, me) = (self.port.read_back(requests), ctx.address().downgrade());
        actix_rt::spawn(async move {
            let read = outcome("read-back", read).await.flatten();
            if let Some(me) = me.upgrade() {
                me.do_send(HasReadBack(read));
            }
        });
    }
}

impl Actor for CommitterActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MESSAGES_MAX);
        let me = ctx.address().downgrade();
        self.ticks = Some(OwnedTask::spawn(async move {
            loop {
                tokio::time::sleep(READ_BACK_TICK).await;
                let Some(me) = me.upgrade() else { return };
                me.do_send(ReadBackDue);
            }
        }));
    }
}

impl Handler<ReadBackDue> for CommitterActor {
    type Result = ();

    fn handle(&mut self, _: ReadBackDue, ctx: &mut Self::Context) {
        self.read_back(ctx);
    }
}

impl Handler<FollowPartition> for CommitterActor {
    type Result = ();

    fn handle(&mut self, message: FollowPartition, _: &mut Self::Context) {
        let FollowPartition { beginning, replies } = message;
        self.partitions.insert(beginning.partition, (beginning.epoch, replies));
        self.core.register(beginning);
    }
}

impl Handler<PartitionStopped> for CommitterActor {
    type Result = ();

    fn handle(&mut self, message: PartitionStopped, _: &mut Self::Context) {
        if self.partitions.get(&message.partition).is_some_and(|(epoch, _)| *epoch == message.epoch) {
            self.partitions.remove(&message.partition);
            self.core.unregister(message.partition);
        }
    }
}

impl Handler<CommitRequest> for CommitterActor {
    type Result = ();

    fn handle(&mut self, frontier: CommitRequest, ctx: &mut Self::Context) {
        let owned =
            self.partitions.get(&frontier.partition).is_some_and(|(epoch, _)| *epoch == frontier.epoch);
        if owned {
            self.core.request(frontier);
            self.pump(ctx);
        }
    }
}

impl Handler<MemberStops> for CommitterActor {
    type Result = ();

    fn handle(&mut self, _: MemberStops, _: &mut Self::Context) {
        self.core.stop();
    }
}

impl Handler<CommitAnswered> for CommitterActor {
    type Result = ();

    fn handle(&mut self, CommitAnswered(answer): CommitAnswered, ctx: &mut Self::Context) {
        let outcome_of = |partition: i32| match &answer {
            Ok(outcomes) => outcomes.get(&partition).copied().unwrap_or(CommitOutcome::Again),
            Err(none) if none.may_still_apply => CommitOutcome::Unknown,
            Err(_) => CommitOutcome::Again,
        };
        let done = self.core.answered(clock::now(), outcome_of);
        let again = match &answer {
            Ok(outcomes) => outcomes.values().any(|outcome| *outcome != CommitOutcome::Done),
            Err(_) => true,
        };
        if let Err(none) = &answer {
            self.status.commit_failed(&none.why);
        }
        for frontier in done {
            self.status.committed(&frontier);
            if let Some((_, replies)) = self.partitions.get(&frontier.partition) {
                let CommitRequest { epoch, offset, seq, .. } = frontier;
                let _ = post(&replies.acknowledged, CommitAcknowledged { epoch, offset, seq });
            }
        }
        for (frontier, acknowledged) in self.core.take_given_up() {
            self.port.given_up(&frontier, acknowledged);
            if let Some((_, replies)) = self.partitions.get(&frontier.partition) {
                let _ = post(&replies.given_up, CommitGivenUp { epoch: frontier.epoch });
            }
        }
        if let Some(rest) = self.core.rest(again, random()) {
            self.resting = true;
            ctx.run_later(rest, |actor, ctx| {
                actor.resting = false;
                actor.pump(ctx);
            });
        }
        self.pump(ctx);
    }
}

impl Handler<HasReadBack> for CommitterActor {
    type Result = ();

    fn handle(&mut self, HasReadBack(differing): HasReadBack, ctx: &mut Self::Context) {
        let again = self.core.read_back(clock::now(), differing.as_deref());
        if again > 0 {
            self.status.commits_rewound(again);
            self.pump(ctx);
        }
    }
}
