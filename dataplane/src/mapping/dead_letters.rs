//! Setup of a mapping's failure destination.

use std::sync::Arc;

use lighterman_proto::api::OnDestinationFailure;
use lighterman_proto::event::{EventEnvelope, EventSource};
use lighterman_proto::failure::RecordSource;
use tokio::sync::Semaphore;

use super::wiring::MappingActors;
use crate::destination::DestinationRouter;
use crate::destination::delivery::DeliveryWatch;
use crate::destination::encode::FailureEncoder;
use crate::destination::kafka::TopicDestinations;
use crate::destination::sender::{DestinationSink, MESSAGES_AT_ONCE};
use crate::messages::dead_letter::DeadLetterSink;

impl MappingActors {
    /// Creates the sink of records whose retries are exhausted, if the mapping has an on-failure destination.
    pub(super) fn new_burial(
        &self,
        envelope: &Arc<EventEnvelope>,
        servers: &str,
    ) -> Option<Arc<dyn DeadLetterSink>> {
        let run = &self.run;
        let destination = run.failure.destination.clone()?;
        let arn = match &run.source {
            EventSource::Msk { arn } => Some(Arc::from(arn.as_str())),
            EventSource::SelfManaged => None,
        };
        let topics = TopicDestinations::new(run.bootstrap.clone(), Arc::clone(&self.node.egress));
        let drop = run.failure.on_destination_failure == OnDestinationFailure::Drop;
        Some(Arc::new(DestinationSink {
            sender: FailureEncoder {
                mapping: run.id,
                function_arn: Arc::clone(&run.function),
                source: RecordSource { arn, bootstrap_servers: servers.into() },
                topic: Arc::clone(&run.topic),
                envelope: Arc::clone(envelope),
            },
            destination,
            port: Arc::new(DestinationRouter::new(self.node.aws.clone(), Some(topics))),
            retry: self.node.retry,
            on_failure: DestinationSink::on_failure(drop),
            observer: Arc::new(DeliveryWatch::new(run.id.to_string(), self.status.labels())),
            budget: self.budget.clone(),
            permits: Arc::new(Semaphore::new(MESSAGES_AT_ONCE)),
        }))
    }
}
