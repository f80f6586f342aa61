//! JSON views of a running mapping's partitions for the API.

use std::collections::BTreeMap;

use lighterman_proto::failure::{FailureCondition, iso_8601};
use lighterman_proto::ids::Offset;
use lighterman_proto::units::{Moment, TimestampMs};
use serde_json::{Map, Value, json};

use crate::audit::partition_audit::{AuditRange, BeyondEnd, EarlierTopic};
use crate::audit::{AuditReport, AuditVerdict, OutcomeTotals, SkipReason};
use crate::messages::outcome::Outcome;
use crate::messages::report::FailingView;
use crate::messages::resolution::AttemptFailure;
use crate::messages::unreadable::{BatchEnd, UnreadableRange};
use crate::status::PartitionRow;

/// Returns the live state of one partition. `now` and `wall` are the same moment on both clocks.
pub fn partition(partition: i32, shown: &PartitionRow, now: Moment, wall: TimestampMs) -> Value {
    let stats = &shown.stats;
    json!({
        "partition": partition,
        "consumer": shown.consumer,
        "epoch": shown.epoch,
        "committed": stats.committed(),
        "position": stats.position(),
        "logEnd": stats.log_end(),
        "lag": stats.lag(),
        "inFlight": stats.is_in_flight(),
        "bufferedBytes": stats.buffered_bytes(),
        "attempt": stats.attempt(),
        "oldestAgeMs": stats.oldest().map(|oldest| now.since(oldest).as_millis() as u64),
        "lastError": stats.last_error(),
        "unreadable": stats.unreadable().map(|unreadable| unreadable_of(partition, &unreadable)),
        "failing": stats.failing().map(|failing| failing_of(&failing, now, wall)),
    })
}

fn unreadable_of(partition: i32, unreadable: &UnreadableRange) -> Value {
    let (end, claimed_end) = match unreadable.damage.end {
        BatchEnd::Certain(end) => (Some(end), None),
        BatchEnd::Claimed(end) => (None, end),
    };
    json!({
        "first": unreadable.first,
        "end": end,
        "claimedEnd": claimed_end,
        "reason": unreadable.damage.error.to_string(),
        "whatToDo": unreadable.damage.told(partition, unreadable.first),
    })
}

fn failing_of(failing: &FailingView, now: Moment, wall: TimestampMs) -> Value {
    let next = failing.next_attempt.map(|at| {
        let in_ms = i64::try_from(at.since(now).as_millis()).unwrap_or(i64::MAX);
        iso_8601(TimestampMs(wall.0.saturating_add(in_ms)))
    });
    json!({
        "offset": failing.offset,
        "records": failing.records,
        "attempts": failing.attempts,
        "firstError": failing.first.as_deref().map(error),
        "lastError": failing.last.as_deref().map(error),
        "nextAttemptAt": next,
        "onItsWayToDestination": failing.condition.map(condition),
    })
}

fn error(failure: &AttemptFailure) -> Value {
    json!({ "at": iso_8601(failure.at), "errorType": failure.error_type, "errorMessage": failure.message })
}

fn condition(condition: FailureCondition) -> &'static str {
    match condition {
        FailureCondition::RetryAttemptsExhausted => "RetryAttemptsExhausted",
        FailureCondition::RecordAgeExceeded => "RecordAgeExceeded",
        FailureCondition::MaximumPayloadSizeExceeded => "MaximumPayloadSizeExceeded",
        FailureCondition::BatchUnreadable => "BatchUnreadable",
    }
}

/// Returns the audit, with each partition checked against its committed offset.
pub fn audit(pages: BTreeMap<i32, AuditReport>, committed: &BTreeMap<i32, Option<Offset>>) -> Value {
    let one = |(partition, page): (i32, AuditReport)| {
        let committed = committed.get(&partition).copied().flatten();
        let (verdict, missing) = match page.verify(committed) {
            AuditVerdict::Accounted => ("accounted", None),
            AuditVerdict::Missing(range) => ("missing", Some([range.first, range.end])),
            AuditVerdict::Unknown => ("unknown", None),
        };
        let ranges: Vec<Value> =
            page.stretches.iter().map(|stretch| range_of(stretch, &page.reasons)).collect();
        json!({
            "partition": partition,
            "topicId": page.topic.map(|topic| topic.to_string()),
            "recreated": page.earlier.iter().map(earlier).collect::<Vec<_>>(),
            "beyondEnd": page.beyond_end.iter().map(beyond_end).collect::<Vec<_>>(),
            "began": page.began,
            "end": page.end,
            "committed": committed,
            "verdict": verdict,
            "missing": missing,
            "totals": sums(&page.sums),
            "rangesForgotten": page.forgotten,
            "uncommitted": page.uncommitted.map(|uncommitted| json!({
                "first": uncommitted.range.first, "end": uncommitted.range.end, "at": iso_8601(uncommitted.at),
            })),
            "ranges": ranges,
        })
    };
    json!({ "partitions": pages.into_iter().map(one).collect::<Vec<_>>() })
}

fn earlier(earlier: &EarlierTopic) -> Value {
    json!({
        "topicId": earlier.topic.map(|topic| topic.to_string()),
        "at": iso_8601(earlier.at),
        "first": earlier.range.first,
        "end": earlier.range.end,
        "outcomes": sums(&earlier.sums),
    })
}

fn beyond_end(beyond: &BeyondEnd) -> Value {
    json!({ "at": iso_8601(beyond.at), "committed": beyond.held, "began": beyond.began })
}

fn range_of(stretch: &AuditRange, reasons: &BTreeMap<Offset, SkipReason>) -> Value {
    let mut shown = json!({
        "first": stretch.range.first,
        "end": stretch.range.end,
        "at": iso_8601(stretch.at),
        "outcomes": if stretch.not_ours { json!("elsewhere") } else { sums(&stretch.sums) },
    });
    if stretch.sums[Outcome::Skipped as usize] > 0 {
        let within = reasons.range(stretch.range.first..stretch.range.end);
        let within = within.map(|(offset, reason)| (offset.to_string(), json!(reason.text)));
        shown["reasons"] = Value::Object(within.collect());
    }
    shown
}

fn sums(sums: &OutcomeTotals) -> Value {
    let shown = Outcome::ALL.into_iter().zip(sums).filter(|(_, sum)| **sum > 0);
    Value::Object(shown.map(|(outcome, sum)| (outcome.label().to_owned(), json!(sum))).collect::<Map<_, _>>())
}
