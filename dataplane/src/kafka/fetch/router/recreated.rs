//! Detection of topics that are deleted and recreated while they are read. Fetches of the old topic are answered
//! with an error.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};

use super::FetchRouter;
use crate::kafka::fetch::messages::{FetchAnswered, FetchError, FetchRequested};
use crate::kafka::fetch::places::NumberedWant;
use crate::runtime::outbox::post;
use crate::runtime::owned_task::OwnedTask;
use crate::runtime::task::outcome;

/// Interval of metadata queries for a topic whose brokers do not report a recreation themselves.
const ASK_AFTER: Duration = Duration::from_secs(30);

#[derive(Message)]
#[rtype(result = "()")]
struct TopicQuestion;

#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct LookAtTopic;

/// Answers a fetch whose topic name belongs to another topic.
pub(super) fn answer_recreated(want: &FetchRequested) {
    let (epoch, position) = (want.epoch, want.position);
    let _ = post(&want.reply, FetchAnswered { epoch, position, outcome: Err(FetchError::Recreated) });
}

impl FetchRouter {
    /// Answers pending fetches of a topic that was deleted since. A broker that addresses topics by name would serve
    /// them records of the new topic.
    pub(super) fn settle_outdated(&mut self) {
        let topics: BTreeSet<Arc<str>> =
            self.places.assigned_broker().map(|placed| Arc::clone(&placed.topic)).collect();
        for topic in topics {
            let now = self.cluster.topic_id(&topic);
            for broker in self.brokers.values() {
                for NumberedWant { want, .. } in broker.shared.fetches.borrow_mut().take_outdated(&topic, now)
                {
                    self.places.forget(&want.partition);
                    answer_recreated(&want);
                }
            }
        }
    }

    /// Checks the topic id in metadata, because brokers that address topics by name do not report a recreation.
    fn look_at_topic(&mut self, ctx: &mut Context<Self>) {
        self.settle_outdated();
        let by_names = self.brokers.values().any(|broker| broker.shared.by_names.get());
        let Some(topic) =
            self.places.assigned_broker().next().filter(|_| by_names).map(|placed| Arc::clone(&placed.topic))
        else {
            return;
        };
        if self.asking.is_some() {
            return;
        }
        let (cluster, me) = (self.cluster.clone(), ctx.address().downgrade());
        self.asking = Some(OwnedTask::spawn(async move {
            // A failure needs no handling, because `settle_outdated` uses the cached topic id.
            let _ = outcome("look at the topic", cluster.topic(&topic, ASK_AFTER)).await;
            if let Some(me) = me.upgrade() {
                me.do_send(TopicQuestion);
            }
        }));
    }
}

impl Handler<LookAtTopic> for FetchRouter {
    type Result = ();

    fn handle(&mut self, _: LookAtTopic, ctx: &mut Self::Context) {
        self.look_at_topic(ctx);
        self.tell_unknown_ends();
    }
}

impl Handler<TopicQuestion> for FetchRouter {
    type Result = ();

    fn handle(&mut self, _: TopicQuestion, _: &mut Self::Context) {
        self.asking = None;
        self.settle_outdated();
    }
}
