//! Resolution of an invocation outcome for each partition of its batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lighterman_proto::ids::{Epoch, Offset};
use lighterman_proto::response::failed_items;
use lighterman_proto::units::{BATCH_RECORDS_MAX, Moment, TimestampMs};

use crate::invoker::InvocationOutcome;
use crate::messages::records::PartitionBatch;
use crate::messages::resolution::{AttemptFailure, BatchResolution, InvocationMetadata};

/// Share of one partition in a sent batch.
#[derive(Debug)]
pub struct BatchShare {
    /// Partition index.
    pub partition: i32,
    /// Ownership epoch.
    pub epoch: Epoch,
    /// Records of the share, kept if the function may report single ones.
    pub partition_batch: Option<PartitionBatch>,
}

/// Context of an outcome that its resolution needs.
#[derive(Debug)]
pub struct ResultContext<'s> {
    /// Topic of the mapping.
    pub topic: &'s str,
    /// True if the mapping has `ReportBatchItemFailures`.
    pub partial_responses: bool,
    /// Facts from Lambda's response.
    pub facts: Option<InvocationMetadata>,
    /// Wall-clock time.
    pub wall: TimestampMs,
    /// Earliest time of a retry.
    pub again_at: Moment,
}

/// Result of a batch: an error message for operators, and a resolution for each member in order.
#[derive(Debug)]
pub struct BatchResult {
    /// Error message, `None` if all records were delivered.
    pub error: Option<String>,
    /// Number of failed records as AWS counts them: the whole batch unless the function named some, and none after
    /// a throttle or a withheld invocation.
    pub records_failed: u32,
    /// Resolutions, one for each member.
    pub resolutions: Vec<BatchResolution>,
}

/// Resolves an outcome for each member of its batch.
pub fn partition_results(
    verdict: &InvocationOutcome,
    members: &[BatchShare],
    records: u32,
    settling: &ResultContext<'_>,
) -> BatchResult {
    match verdict {
        InvocationOutcome::Delivered { response } if settling.partial_responses => {
            read_response(response, members, records, settling)
        }
        InvocationOutcome::Delivered { .. } => alike(members, None, 0, || BatchResolution::Delivered),
        InvocationOutcome::FunctionError { error_type, message } => {
            let failure = settling.failure(error_type, message);
            failed(members, records, verdict.explain(), failure, settling)
        }
        InvocationOutcome::TooLarge => {
            let (mixed, again_at) = (members.len() > 1, settling.again_at);
            let failure = settling.failure("RequestTooLarge", &verdict.explain());
            alike(members, Some(verdict.explain()), records, || {
                let failure = Arc::clone(&failure);
                BatchResolution::TooLarge { mixed, failure, again_at }
            })
        }
        InvocationOutcome::Throttled { .. }
        | InvocationOutcome::Withheld
        | InvocationOutcome::ServiceError { .. }
        | InvocationOutcome::ConfigError { .. }
        | InvocationOutcome::Unknown { .. } => {
            let none = matches!(verdict, InvocationOutcome::Throttled { .. } | InvocationOutcome::Withheld);
            let records_failed = if none { 0 } else { records };
            alike(members, Some(verdict.explain()), records_failed, || BatchResolution::Again {
                at: settling.again_at,
            })
        }
    }
}

impl ResultContext<'_> {
    fn failure(&self, error_type: &str, message: &str) -> Arc<AttemptFailure> {
        Arc::new(AttemptFailure {
            at: self.wall,
            error_type: error_type.to_owned(),
            message: message.to_owned(),
            answer: self.facts.clone(),
        })
    }
}

fn alike(
    members: &[BatchShare],
    error: Option<String>,
    records_failed: u32,
    resolution: impl Fn() -> BatchResolution,
) -> BatchResult {
    BatchResult { error, records_failed, resolutions: members.iter().map(|_| resolution()).collect() }
}

fn failed(
    members: &[BatchShare],
    records: u32,
    error: String,
    failure: Arc<AttemptFailure>,
    settling: &ResultContext<'_>,
) -> BatchResult {
    let (mixed, again_at) = (members.len() > 1, settling.again_at);
    alike(members, Some(error), records, || {
        let failure = Arc::clone(&failure);
        BatchResolution::Failed { mixed, failure, again_at }
    })
}

/// Evaluates a batch response. One that violates AWS's format, or names records outside the batch, fails the whole
/// batch.
fn read_response(
    response: &[u8],
    members: &[BatchShare],
    records: u32,
    settling: &ResultContext<'_>,
) -> BatchResult {
    let named = match named_in(response, members, settling.topic) {
        Ok(named) => named,
        Err(error) => {
            let text = format!("the function's batch response fails the whole batch: {error}");
            let failure = settling.failure("InvalidBatchResponse", &text);
            return failed(members, records, text, failure, settling);
        }
    };
    let records_failed = named.values().map(|offsets| offsets.len() as u32).sum();
    if records_failed == 0 {
        return alike(members, None, 0, || BatchResolution::Delivered);
    }
    let text = format!("the function reported {records_failed} of {records} records as failed");
    let failure = settling.failure("BatchItemFailures", &text);
    let resolution = |member: &BatchShare| match named.get(&member.partition) {
        None => BatchResolution::Delivered,
        Some(failed) => partial_resolution(failed.clone(), Arc::clone(&failure), settling.again_at),
    };
    BatchResult { error: Some(text), records_failed, resolutions: members.iter().map(resolution).collect() }
}

/// Returns the resolution of a member of which only `failed` is retried.
fn partial_resolution(
    failed: BTreeSet<Offset>,
    failure: Arc<AttemptFailure>,
    again_at: Moment,
) -> BatchResolution {
    mutant!(
        "failed-items-ignored",
        BatchResolution::Partial { failed, failure, again_at },
        BatchResolution::Partial { failed: BTreeSet::new(), failure, again_at }
    )
}

fn named_in(
    response: &[u8],
    members: &[BatchShare],
    topic: &str,
) -> Result<BTreeMap<i32, BTreeSet<Offset>>, String> {
    let items =
        failed_items(response, topic, BATCH_RECORDS_MAX as usize).map_err(|error| error.to_string())?;
    let mut named: BTreeMap<i32, BTreeSet<Offset>> = BTreeMap::new();
    for item in items {
        named.entry(item.partition).or_default().insert(item.offset);
    }
    for (partition, offsets) in &named {
        let partition_batch = members.iter().find(|member| member.partition == *partition);
        let partition_batch = partition_batch.and_then(|member| member.partition_batch.as_ref());
        let partition_batch =
            partition_batch.ok_or_else(|| format!("partition {topic}-{partition} was not in the batch"))?;
        let found = partition_batch.walk().filter(|record| offsets.contains(&record.offset)).count();
        if found < offsets.len() {
            return Err(format!("it names offsets of {topic}-{partition} that were not in the batch"));
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::model_tests::{batch, cut_of};

    const AT: Moment = Moment::from_micros(9);

    fn members(partitions: &[i32]) -> Vec<BatchShare> {
        let records = batch(10, &[(0, 5), (1, 5), (2, 5)], 2, false);
        let member = |partition: &i32| BatchShare {
            partition: *partition,
            epoch: Epoch(1),
            partition_batch: Some(cut_of(&records)),
        };
        partitions.iter().map(member).collect()
    }

    fn settled(verdict: &InvocationOutcome, partitions: &[i32], partial_responses: bool) -> BatchResult {
        let (facts, wall) = (None, TimestampMs(1));
        let settling = ResultContext { topic: "t", partial_responses, facts, wall, again_at: AT };
        partition_results(verdict, &members(partitions), 3 * partitions.len() as u32, &settling)
    }

    fn answered(body: &'static str) -> InvocationOutcome {
        InvocationOutcome::Delivered { response: body.into() }
    }

    #[test]
    fn only_function_failure_uses_an_attempt() {
        let text = String::new;
        for verdict in [
            InvocationOutcome::Throttled { reason: text(), retry_after: None },
            InvocationOutcome::Withheld,
            InvocationOutcome::ServiceError { message: text() },
            InvocationOutcome::ConfigError { message: text() },
            InvocationOutcome::Unknown { message: text() },
        ] {
            assert_eq!(
                settled(&verdict, &[0], true).resolutions,
                [BatchResolution::Again { at: AT }],
                "{verdict:?}"
            );
        }
        let failed = InvocationOutcome::FunctionError { error_type: "E".into(), message: text() };
        for (partitions, expected) in [(&[0][..], false), (&[0, 1][..], true)] {
            for resolution in settled(&failed, partitions, true).resolutions {
                assert!(matches!(resolution, BatchResolution::Failed { mixed, .. } if mixed == expected));
            }
            for resolution in settled(&InvocationOutcome::TooLarge, partitions, true).resolutions {
                assert!(matches!(resolution, BatchResolution::TooLarge { mixed, .. } if mixed == expected));
            }
        }
    }

    #[test]
    fn named_records_fail_others_are_delivered() {
        let named = answered(r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"t-1","offset":11}}]}"#);
        let settled = settled(&named, &[0, 1], true);
        assert_eq!((settled.records_failed, &settled.resolutions[0]), (1, &BatchResolution::Delivered));
        let BatchResolution::Partial { failed, .. } = &settled.resolutions[1] else { panic!("{settled:?}") };
        assert_eq!(failed, &BTreeSet::from([Offset(11)]));
    }

    #[test]
    fn batch_response_counts_only_if_configured() {
        let named = answered(r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"t-0","offset":11}}]}"#);
        assert_eq!(settled(&named, &[0], false).resolutions, [BatchResolution::Delivered]);
        for good in ["null", "{}", r#"{"batchItemFailures":[]}"#] {
            let settled = settled(&answered(good), &[0], true);
            assert_eq!(
                (settled.error, settled.resolutions),
                (None, vec![BatchResolution::Delivered]),
                "{good}"
            );
        }
    }

    #[test]
    fn alo_1_response_naming_foreign_records_fails_whole_batch() {
        for bad in [
            "not JSON",
            r#"{"batchItemFailures":3}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"t-0","offset":13}}]}"#,
            r#"{"batchItemFailures":[{"itemIdentifier":{"partition":"t-7","offset":11}}]}"#,
        ] {
            for resolution in settled(&answered(bad), &[0, 1], true).resolutions {
                assert!(matches!(resolution, BatchResolution::Failed { .. }), "{bad}");
            }
        }
    }
}
