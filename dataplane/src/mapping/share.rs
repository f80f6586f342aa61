//! Actors shared by a mapping's consumers on one data arbiter.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr};

use super::wiring::{MappingActors, watch};
use crate::invoker::actor::InvokerActor;
use crate::kafka::error::KafkaError;
use crate::kafka::fetch::{FetchRouter, FetchStatus};
use crate::status::MappingStatus;

/// Actors shared by the consumers on one data arbiter. They live as long as one of these consumers.
pub(super) struct ArbiterShare {
    pub(super) router: Addr<FetchRouter>,
    /// Invoker on the paired invoker arbiter, which signs large payloads.
    pub(super) invoker: Addr<InvokerActor>,
}

impl MappingActors {
    /// Returns the shared actors of data arbiter `arbiter`, and starts them on first use.
    pub(super) fn share(&mut self, arbiter: usize) -> &ArbiterShare {
        let placement = &self.node.placement;
        let start = || {
            let (cluster, budget, settings) =
                (self.cluster.clone(), self.budget.clone(), self.node.fetch.clone());
            let status: Arc<dyn FetchStatus> = Arc::new(ShownFetches(self.status.clone()));
            let died = watch(&self.shared_death, "fetch router");
            let router = FetchRouter::start_in_arbiter(&placement.data(arbiter), move |_| {
                FetchRouter::new(cluster, budget, settings, status, died)
            });
            let (invoker, died) = (self.invoker.clone(), watch(&self.shared_death, "invoker"));
            let invoker = InvokerActor::start_in_arbiter(&placement.invoker(arbiter), move |_| {
                InvokerActor::new(invoker, died)
            });
            ArbiterShare { router, invoker }
        };
        self.shares.entry(arbiter).or_insert_with(start)
    }
}

struct ShownFetches(MappingStatus);

impl FetchStatus for ShownFetches {
    fn reachable(&self) {
        self.0.reachable();
    }

    fn unreachable(&self, error: &KafkaError) {
        self.0.poll_failed(&error.to_string());
    }

    fn throttled(&self, wait: Duration) {
        self.0.fetch_throttled(wait);
    }
}
