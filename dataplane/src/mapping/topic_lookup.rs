//! Lookup of the topic while no partition of it is owned. Without owned partitions there are no fetches that would
//! report its state.

use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};
use lighterman_proto::units::Moment;

use super::MappingActor;
use crate::kafka::error::KafkaError;
use crate::runtime::clock;
use crate::runtime::task::outcome;
use crate::status::standing::StandingCause;

/// Lookup interval while the lookup fails or the state is unknown.
const LOOK_SOON: Duration = Duration::from_secs(5);
/// Lookup interval otherwise. A node without partitions is usual while other members have them.
const LOOK_LATER: Duration = Duration::from_mins(1);
const VIEW_AGE_MAX: Duration = Duration::from_secs(1);
/// Join duration above which the join is shown.
const JOINS_WITHIN: Duration = Duration::from_secs(10);

/// Schedule of the topic lookups, one at a time.
#[derive(Debug, Default)]
pub(super) struct TopicLook {
    is_out: bool,
    next: Moment,
}

#[derive(Message)]
#[rtype(result = "()")]
struct TopicSeen(Option<Result<(), KafkaError>>);

impl MappingActor {
    /// Looks up the topic when it is due. Owned partitions report the state of their topic themselves.
    pub(super) fn look_at_topic(&mut self, ctx: &mut Context<Self>) {
        let now = clock::now();
        if !self.owned.is_empty() {
            self.status.stand(StandingCause::Topic, None);
            return;
        }
        if self.look.is_out || now < self.look.next {
            return;
        }
        self.look.is_out = true;
        let (cluster, topic, me) = (self.cluster.clone(), self.run.topic.clone(), ctx.address());
        actix_rt::spawn(async move {
            let seen = outcome("look at the topic", cluster.topic(&topic, VIEW_AGE_MAX)).await;
            me.do_send(TopicSeen(seen.map(|seen| seen.map(drop))));
        });
    }

    /// Applies the result of a lookup. `None` means that the lookup panicked; the state of the topic is unknown.
    fn topic_seen(&mut self, seen: Option<Result<(), KafkaError>>) {
        let now = clock::now();
        self.look.is_out = false;
        let settled = matches!(seen, Some(Ok(()))) && self.assigned;
        self.look.next = now + if settled { LOOK_LATER } else { LOOK_SOON };
        let Some(seen) = seen else { return };
        let Err(error) = seen else {
            self.status.stand(StandingCause::Topic, None);
            return;
        };
        if matches!(error, KafkaError::NoTopic { .. }) {
            // All its records will have been written while the mapping waited for the topic.
            self.owes_all.store(true, Ordering::Relaxed);
        }
        if self.owned.is_empty() {
            self.status.stand(StandingCause::Topic, Some(error.to_string()));
        }
    }

    /// Shows a join that does not complete; no other status would tell what the mapping waits for.
    pub(super) fn watch_join(&self) {
        let waits = self.joined.is_some() && !self.assigned;
        let waited = clock::now().since(self.unassigned_since);
        let text = (waits && waited >= JOINS_WITHIN).then(|| {
            format!(
                "has waited for more than {} s for the consumer group `{}` to give it its share: a member of the group does \
                 not answer, or still drains",
                JOINS_WITHIN.as_secs(),
                self.run.group
            )
        });
        self.status.stand(StandingCause::Joining, text);
    }
}

impl Handler<TopicSeen> for MappingActor {
    type Result = ();

    fn handle(&mut self, TopicSeen(seen): TopicSeen, _: &mut Self::Context) {
        if self.stopping.is_none() {
            self.topic_seen(seen);
        }
    }
}
