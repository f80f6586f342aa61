//! Handling of invocation outcomes, modelled on `batcher/answers.rs`.

use lighterman::batcher::results::{BatchShare, ResultContext, partition_results};
use lighterman::invoker::InvocationOutcome;
use lighterman::invoker::retry::{AttemptInfo, retry_at};
use lighterman::messages::batch::BatchId;
use lighterman::messages::resolution::InvocationMetadata;
use lighterman_proto::ids::{ConsumerId, Epoch};
use lighterman_proto::units::Moment;

use super::super::environment::SimulatedEnvironment;
use super::SimulatedNode;
use crate::node::messages::{MessageMailbox, NodeMessage};

impl SimulatedNode {
    pub(super) fn settle(
        &mut self,
        env: &mut SimulatedEnvironment,
        id: u32,
        batch: BatchId,
        verdict: &InvocationOutcome,
        facts: Option<InvocationMetadata>,
        sent_at: Moment,
    ) {
        let wall = self.wall(env);
        let Some(consumer) = self.consumers.get_mut(&ConsumerId(id)) else { return };
        let Some(sent) = consumer.sent.remove(&batch) else { return };
        let function_timeout = env.plan.function_timeout;
        let may_run_until = verdict.may_run_until(sent_at, function_timeout);
        let ours = |(partition, _): &(i32, Epoch)| consumer.partitions.contains_key(partition);
        let shares = sent.members.iter().map(|member| (member.partition, member.epoch)).filter(ours);
        let setbacks = consumer.setbacks.after(verdict, shares);
        let sending = AttemptInfo { attempt: sent.attempt, setbacks, may_run_until };
        let random = env.random.draw();
        let settling = ResultContext {
            topic: &env.topic,
            partial_responses: env.plan.partial_responses,
            facts,
            wall,
            again_at: retry_at(verdict, sending, env.now, super::invocations::RETRY, random),
        };
        let settled = partition_results(verdict, &sent.members, sent.records, &settling);
        for flight in sent.flights {
            match may_run_until {
                Some(until) => flight.unknown(until),
                None => flight.answered(),
            }
        }
        // The current owner of the partition gets the result, and compares the epoch.
        let now_under = |member: &BatchShare| consumer.partitions.get(&member.partition).copied();
        let addresses: Vec<Option<Epoch>> = sent.members.iter().map(now_under).collect();
        for ((member, resolution), under) in sent.members.into_iter().zip(settled.resolutions).zip(addresses)
        {
            if let Some(under) = under {
                let (key, epoch) = ((member.partition, under), member.epoch);
                let resolved = NodeMessage::Resolved { key, epoch, batch, resolution: Box::new(resolution) };
                self.post(env, MessageMailbox::Partition(key.0, key.1.0), resolved);
            }
        }
        self.end_consumer_if_leaving(ConsumerId(id));
    }

    fn end_consumer_if_leaving(&mut self, id: ConsumerId) {
        let idle = self.consumers.get(&id).is_some_and(|consumer| consumer.sent.is_empty());
        if idle && self.invoker.leaving.remove(&id) {
            self.consumers.remove(&id);
        }
    }
}
