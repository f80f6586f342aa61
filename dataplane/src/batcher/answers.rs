//! Handling of invocation outcomes: releases the in-flight entries and sends each partition its resolution.

use actix::Handler;
use lighterman_proto::ids::Epoch;

use super::actor::BatcherActor;
use super::results::{ResultContext, partition_results};
use crate::invoker::invocation::InvocationFinished;
use crate::invoker::retry::{AttemptInfo, retry_at};
use crate::messages::resolution::BatchResolved;
use crate::runtime::backoff::random;
use crate::runtime::clock;
use crate::runtime::outbox::post;

impl BatcherActor {
    pub(super) fn on_invocation_finished(&mut self, answered: InvocationFinished) {
        let Some(sent) = self.sent.remove(&answered.batch) else { return };
        let function_timeout = (self.parts.longest_run)(answered.sent_at);
        let may_run_until = answered.verdict.may_run_until(answered.sent_at, function_timeout);
        let ours = |(partition, _): &(i32, Epoch)| self.partitions.contains_key(partition);
        let shares = sent.members.iter().map(|member| (member.partition, member.epoch)).filter(ours);
        let setbacks = self.setbacks.after(&answered.verdict, shares);
        let sending = AttemptInfo { attempt: sent.attempt, setbacks, may_run_until };
        let settled = partition_results(
            &answered.verdict,
            &sent.members,
            sent.records,
            &ResultContext {
                topic: &self.parts.topic,
                partial_responses: self.parts.partial_responses,
                facts: answered.facts,
                wall: clock::wall_ms(),
                again_at: retry_at(&answered.verdict, sending, clock::now(), self.parts.retry, random()),
            },
        );
        self.parts.status.answered(&answered.verdict, settled.records_failed, sent.oldest_timestamp_ms);
        if let Some(error) = &settled.error {
            self.parts.status.tell_invocation_failed(self.parts.mapping, sent.attempt, error);
        }
        for flight in sent.flights {
            match may_run_until {
                Some(until) => flight.unknown(until),
                None => flight.answered(),
            }
        }
        for (member, resolution) in sent.members.into_iter().zip(settled.resolutions) {
            if let Some((_, replies)) = self.partitions.get(&member.partition) {
                let (epoch, batch, error) = (member.epoch, answered.batch, settled.error.clone());
                let _ = post(&replies.resolved, BatchResolved { epoch, batch, resolution, error });
            }
        }
        if let Some(payload) = answered.payload_back {
            self.parts.payloads.give_back(payload);
        }
    }
}

impl Handler<InvocationFinished> for BatcherActor {
    type Result = ();

    fn handle(&mut self, answered: InvocationFinished, ctx: &mut Self::Context) {
        self.on_invocation_finished(answered);
        self.pump(ctx);
    }
}
