//! Where the records of a mapping go that are given up.

use std::sync::Arc;

use lighterman_proto::api::OnDestinationFailure;
use lighterman_proto::event::{Envelope, EventSource};
use lighterman_proto::failure::Source;
use tokio::sync::Semaphore;

use super::floor::Floor;
use crate::destination::Destinations;
use crate::destination::burial::{DestinationBurial, LETTERS_AT_ONCE};
use crate::destination::deliver::DeliveryWatch;
use crate::destination::kafka::TopicDestinations;
use crate::destination::letters::Sender;
use crate::partition::failing::Burial;

impl Floor {
    /// Where records go that are given up, when the mapping says so.
    pub(super) fn new_burial(&self, envelope: &Arc<Envelope>, servers: &str) -> Option<Arc<dyn Burial>> {
        let run = &self.run;
        let destination = run.failure.destination.clone()?;
        let arn = match &run.source {
            EventSource::Msk { arn } => Some(Arc::from(arn.as_str())),
            EventSource::SelfManaged => None,
        };
        let topics = TopicDestinations::new(run.bootstrap.clone(), Arc::clone(&self.node.egress));
        let drop = run.failure.on_destination_failure == OnDestinationFailure::Drop;
        Some(Arc::new(DestinationBurial {
            sender: Sender {
                mapping: run.id,
                function_arn: Arc::clone(&run.function),
                source: Source { arn, bootstrap_servers: servers.into() },
                topic: Arc::clone(&run.topic),
                envelope: Arc::clone(envelope),
            },
            destination,
            port: Arc::new(Destinations::new(self.node.aws.clone(), Some(topics))),
            retry: self.node.retry,
            on_failure: DestinationBurial::on_failure(drop),
            observer: Arc::new(DeliveryWatch::new(run.id.to_string(), self.status.labels())),
            budget: self.budget.clone(),
            turns: Arc::new(Semaphore::new(LETTERS_AT_ONCE)),
        }))
    }
}
