//! Join of a member that depends on its function. The member joins the group once it knows the function's timeout, or
//! after a bounded wait. Later changes of the timeout are passed to the group.

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

/// Lambda's control plane may be slow or throttle. After this delay the member joins with the longest timeout.
const JOIN_UNTOLD_AFTER: Duration = Duration::from_secs(5);
/// Delay before joining again after a membership ended by itself.
const JOIN_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// Time that the group allows for a drain beyond the function's timeout (H3).
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

    /// Joins the group again after `JOIN_AGAIN_AFTER`.
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
        let actors = self.actors(membership.clone(), function, ctx);
        self.joined = Some((membership, actors));
        self.unassigned_since = clock::now();
    }

    /// Adjusts the group's rebalance timeout to the function's timeout.
    fn retime(&self) {
        if let (Some((membership, actors)), true) = (&self.joined, self.stopping.is_none()) {
            let timeout = actors.function().timeout.current();
            membership.set_rebalance_timeout(rebalance_timeout(self.node.group_protocol, timeout));
        }
    }
}

/// Returns the time that the group waits for a member to release partitions. Under the consumer protocol, the
/// coordinator times a revocation by the timeout announced before it, and expels members that exceed it. A function
/// whose timeout is raised meanwhile would still run. The member therefore announces the longest possible run; dead
/// members are detected by their session timeout (KIP-848).
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
    fn own_1_h3_revocation_outlasts_function_timeout_raised_meanwhile() {
        let announced = Duration::from_secs(3);
        assert_eq!(rebalance_timeout(GroupProtocol::Classic, announced), announced + DRAIN_MARGIN);
        assert!(rebalance_timeout(GroupProtocol::Consumer, announced) >= RUN_MAX + DRAIN_MARGIN);
    }
}
