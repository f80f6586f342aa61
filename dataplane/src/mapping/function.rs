//! A member and its function: it joins the group when it knows how long the function may run, or has waited long enough for
//! that, and follows what it is told later.

use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context, Handler, Message};

use super::{GroupHappened, MappingActor};
use crate::invoker::facts::RUN_MAX;
use crate::invoker::invocation::InvokedFunction;
use crate::invoker::port::FunctionFacts;
use crate::kafka::group::effects::{GroupProtocol, MemberTiming};
use crate::kafka::group::{MembershipSettings, RebalanceTimeout};
use crate::runtime::clock;

/// Lambda's control plane may be slow or throttle: the mapping begins without its answer, and with the longest timeout.
const JOIN_UNTOLD_AFTER: Duration = Duration::from_secs(5);
/// After a membership that ended by itself.
const JOIN_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How long the group waits for us to drain beyond the function's timeout (H3).
const DRAIN_MARGIN: Duration = Duration::from_secs(60);

#[derive(Message)]
#[rtype(result = "()")]
struct FunctionTold(FunctionFacts);

#[derive(Message)]
#[rtype(result = "()")]
struct JoinUntold;

#[derive(Message)]
#[rtype(result = "()")]
struct JoinAgain;

impl MappingActor {
    pub(super) fn watch_function(&mut self, ctx: &mut Context<Self>) {
        let me = ctx.address();
        let listener = Arc::new(move |facts| me.do_send(FunctionTold(facts)));
        self.watched = Some(Arc::new(self.node.functions.watch(&self.run.function, listener)));
        let me = ctx.address();
        actix_rt::spawn(async move {
            tokio::time::sleep(JOIN_UNTOLD_AFTER).await;
            me.do_send(JoinUntold);
        });
    }

    /// Joins the group anew after a while.
    pub(super) fn join_later(ctx: &mut Context<Self>) {
        let me = ctx.address().downgrade();
        actix_rt::spawn(async move {
            tokio::time::sleep(JOIN_AGAIN_AFTER).await;
            if let Some(me) = me.upgrade() {
                me.do_send(JoinAgain);
            }
        });
    }

    fn may_join(&self) -> bool {
        self.joined.is_none() && self.stopping.is_none() && !self.leaving
    }

    fn join(&mut self, ctx: &mut Context<Self>) {
        let Some(watched) = &self.watched else { return };
        let doubted = Arc::clone(watched);
        let function = InvokedFunction {
            name: Arc::clone(&self.run.function),
            timeout: watched.timeout().clone(),
            doubt: Arc::new(move || doubted.doubt()),
        };
        let me = ctx.address();
        let sink = Arc::new(move |event| me.do_send(GroupHappened(event)));
        let rebalance_timeout = rebalance_timeout(self.node.group_protocol, function.timeout.current());
        let timing = MemberTiming::new(self.node.session_timeout, rebalance_timeout);
        let settings = MembershipSettings {
            group: self.run.group.clone(),
            topic: self.run.topic.to_string(),
            protocol: self.node.group_protocol,
            timing,
            rebalance: RebalanceTimeout::new(timing.rebalance_timeout),
        };
        let membership = self.node.groups.join(self.cluster.clone(), settings, sink);
        self.watch.held.hold(&membership);
        let floor = self.floor(membership.clone(), function, ctx);
        self.joined = Some((membership, floor));
        self.unassigned_since = clock::now();
    }

    /// The group waits as long as the function may run.
    fn retime(&self) {
        if let (Some((membership, floor)), true) = (&self.joined, self.stopping.is_none()) {
            let timeout = floor.function().timeout.current();
            membership.set_rebalance_timeout(rebalance_timeout(self.node.group_protocol, timeout));
        }
    }
}

/// How long the group waits for a member to let go. A coordinator of the consumer protocol counts a revocation with what was
/// announced before it, and expels whoever has not let go by then: a function whose timeout is raised meanwhile would still run.
/// So it is told the longest run that there is; members that have died are found out by their session (KIP-848).
fn rebalance_timeout(protocol: GroupProtocol, function_timeout: Duration) -> Duration {
    let run = match protocol {
        GroupProtocol::Classic => function_timeout,
        GroupProtocol::Consumer => RUN_MAX,
    };
    run + DRAIN_MARGIN
}

impl Handler<FunctionTold> for MappingActor {
    type Result = ();

    fn handle(&mut self, FunctionTold(facts): FunctionTold, ctx: &mut Self::Context) {
        if self.stopping.is_some() || self.leaving {
            return;
        }
        self.told = Some(facts);
        match facts {
            FunctionFacts::Known { .. } | FunctionFacts::Unknown if self.joined.is_none() => self.join(ctx),
            FunctionFacts::Known { .. } | FunctionFacts::Unknown => self.retime(),
            FunctionFacts::Missing if self.joined.is_none() => {
                self.status.problem(&format!("function {} does not exist", self.run.function));
            }
            FunctionFacts::Missing | FunctionFacts::Unanswered { .. } => {}
        }
    }
}

impl Handler<JoinUntold> for MappingActor {
    type Result = ();

    fn handle(&mut self, _: JoinUntold, ctx: &mut Self::Context) {
        if self.may_join() && self.told != Some(FunctionFacts::Missing) {
            tracing::warn!(mapping = %self.run.id, "Lambda does not tell the function's timeout yet; going on with 900 s");
            self.join(ctx);
        }
    }
}

impl Handler<JoinAgain> for MappingActor {
    type Result = ();

    fn handle(&mut self, _: JoinAgain, ctx: &mut Self::Context) {
        if self.may_join() {
            self.join(ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_1_h3_a_revocation_outlasts_a_function_whose_timeout_is_raised_after_it_began() {
        let announced = Duration::from_secs(3);
        assert_eq!(rebalance_timeout(GroupProtocol::Classic, announced), announced + DRAIN_MARGIN);
        assert!(rebalance_timeout(GroupProtocol::Consumer, announced) >= RUN_MAX + DRAIN_MARGIN);
    }
}
