//! Dataplane as the host of the control API.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use lighterman_proto::api::{Mapping, PartialOrder, StartingPosition};
use lighterman_proto::event::EventSource;
use lighterman_proto::ids::{MappingId, OffsetRange};
use lighterman_proto::units::WINDOW_DEFAULT;
use lighterman_scaler::policy::PollerBounds;
use serde_json::Value;

use super::{Dataplane, views};
use crate::audit::{AuditEntry, EntryKind};
use crate::control::controller::{MappingHost, SkipWish};
use crate::invoker::port::FunctionFacts;
use crate::kafka::offsets::OffsetSpec;
use crate::kafka::transport::BrokerAddress;
use crate::mapping::wiring::{FailureSpec, MappingSpec};
use crate::messages::skip::SkipAnswer;
use crate::partition::attempts::attempt::FailureHandling;
use crate::runtime::clock;
use crate::runtime::outbox::ReceiverClosed;

const POLLERS_MAX_DEFAULT: u32 = 200;

/// Host that runs accepted mappings on a dataplane.
pub struct DataplaneHost(pub Arc<Dataplane>);

impl MappingHost for DataplaneHost {
    fn run(&self, mapping: &Mapping) -> BoxFuture<'static, Result<(), ReceiverClosed>> {
        self.0.run(run_of(mapping)).map(|answer| answer.map_err(|_| ReceiverClosed)).boxed()
    }

    fn stop(&self, id: MappingId) -> BoxFuture<'static, Result<(), ReceiverClosed>> {
        self.0.stop(id).map(|answer| answer.map_err(|_| ReceiverClosed)).boxed()
    }

    fn last_result(&self, id: MappingId) -> Option<String> {
        Some(self.0.mapping_status(id)?.last_result())
    }

    fn partitions(&self, id: MappingId) -> Option<Value> {
        let now = clock::now();
        let shown = self.0.mapping_status(id)?.partitions();
        let wall = clock::wall_ms();
        Some(shown.iter().map(|(partition, shown)| views::partition(*partition, shown, now, wall)).collect())
    }

    fn audit(&self, id: MappingId) -> BoxFuture<'static, Value> {
        let (log, mapping_status) = (self.0.audit().clone(), self.0.mapping_status(id));
        async move {
            let running =
                mapping_status.map(|mapping_status| mapping_status.partitions()).unwrap_or_default();
            let committed =
                running.into_iter().map(|(partition, shown)| (partition, shown.stats.committed())).collect();
            views::audit(log.read(id).await, &committed)
        }
        .boxed()
    }

    fn skip(&self, id: MappingId, wish: SkipWish) -> BoxFuture<'static, Option<SkipAnswer>> {
        let dataplane = Arc::clone(&self.0);
        async move {
            let answer = dataplane.skip(id, wish.clone()).await;
            let SkipWish { partition, offset, end, reason } = wish;
            if matches!(answer, Some(SkipAnswer::Skipped | SkipAnswer::AfterThisAttempt)) {
                let range = OffsetRange { first: offset, end: end.unwrap_or(offset.next()) };
                let what = EntryKind::Reason(reason.into());
                let entry = AuditEntry { at: clock::wall_ms(), partition, range, what };
                dataplane.audit().append(id, vec![entry]).await;
            }
            answer
        }
        .boxed()
    }

    fn forget(&self, id: MappingId) {
        self.0.audit().remove(id);
    }

    fn function_exists(&self, function_arn: &str) -> BoxFuture<'static, bool> {
        let asked = self.0.port().facts(Arc::from(function_arn));
        async move { asked.await != FunctionFacts::Missing }.boxed()
    }
}

fn failure_of(mapping: &Mapping) -> FailureSpec {
    let asked = &mapping.failure;
    FailureSpec {
        policy: FailureHandling {
            retries_max: asked.retries_max_in_force(),
            record_age_max: asked
                .record_age_max_seconds
                .map(|seconds| Duration::from_secs(u64::from(seconds))),
            bisect: asked.bisects(),
            named_only: mapping.partial_order() == PartialOrder::Named,
            has_destination: asked.destination.is_some(),
        },
        partial_responses: asked.partial_responses,
        destination: asked.destination.clone(),
        on_destination_failure: mapping.on_destination_failure(),
    }
}

/// Converts a mapping to the dataplane's configuration.
pub fn run_of(mapping: &Mapping) -> MappingSpec {
    let pollers = mapping.pollers.clone().unwrap_or_default();
    let count =
        |value: Option<i64>, default| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(default);
    let minimum = count(pollers.minimum_pollers, 1);
    MappingSpec {
        id: mapping.id,
        topic: Arc::from(mapping.topic.as_str()),
        group: mapping.group.clone(),
        function: Arc::from(mapping.function_arn.as_str()),
        bootstrap: mapping
            .bootstrap_servers
            .iter()
            .filter_map(|server| BrokerAddress::parse(server).ok())
            .collect(),
        source: EventSource::SelfManaged,
        batch_records_max: mapping.batch_records_max,
        window: mapping
            .window_seconds
            .map_or(WINDOW_DEFAULT, |seconds| Duration::from_secs(u64::from(seconds))),
        start: match (mapping.starting_position, mapping.starting_timestamp) {
            (StartingPosition::Latest, _) => OffsetSpec::Latest,
            (StartingPosition::AtTimestamp, Some(seconds)) => {
                OffsetSpec::Timestamp((seconds * 1000.0) as i64)
            }
            (StartingPosition::TrimHorizon | StartingPosition::AtTimestamp, _) => OffsetSpec::Earliest,
        },
        bounds: PollerBounds {
            minimum,
            maximum: count(pollers.maximum_pollers, POLLERS_MAX_DEFAULT).max(minimum),
        },
        failure: failure_of(mapping),
        filters: mapping.filters.clone(),
    }
}
