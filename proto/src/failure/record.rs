//! Failure messages for SQS and SNS, for S3, and for a Kafka topic.

use super::json::{ObjectMembers, append_string, string_len};
use super::{FailureCondition, FailureDetails, RecordPoint, iso_8601};

const ERROR_TYPE_BYTES_MAX: usize = 256;
const ERROR_MESSAGE_BYTES_MAX: usize = 1024;
const PAYLOAD: &str = ",\"payload\":";

/// Writes the message for SQS and SNS: metadata without the payload.
///
/// `responseContext` is `null` when no response is known and for records too large to send. It is absent for
/// records too old, as recorded from AWS with Kinesis. The message grows with the number of partitions, by less
/// than 600 bytes for each.
pub fn queue_record(failure: &FailureDetails) -> String {
    let mut text = facts(failure, None);
    append_ours(failure, None, &mut text);
    text.push('}');
    text
}

/// Writes the object for S3: metadata, and the whole event as an escaped string.
pub fn object_record(failure: &FailureDetails, payload: &[u8]) -> Vec<u8> {
    let facts = facts(failure, None);
    let mut ours = String::new();
    append_ours(failure, None, &mut ours);
    let mut text =
        String::with_capacity(facts.len() + PAYLOAD.len() + string_len(payload) + ours.len() + "}".len());
    text.push_str(&facts);
    text.push_str(PAYLOAD);
    append_string(payload, &mut text);
    text.push_str(&ours);
    text.push('}');
    text.into_bytes()
}

/// Writes the message for a Kafka topic: one record of `partition`, with its event as an object. `payload` must be
/// JSON already.
///
/// AWS's example describes a single record and differs from the other two formats. The condition for exhausted
/// retries is `RetriesExhausted`, and the function's ARN has a qualifier. `payloadSize` is the size of `payload`.
/// A record that the topic would reject is reported without a payload; the `lighterman` member then names its
/// partition as `<topic>-<partition>`.
pub fn topic_record(
    failure: &FailureDetails,
    partition: i32,
    record: RecordPoint,
    payload: Option<&[u8]>,
) -> Vec<u8> {
    let alone = SingleRecord {
        record,
        payload_bytes: payload.map_or(failure.payload_bytes, |payload| payload.len() as u64),
    };
    let facts = facts(failure, Some(alone));
    let mut ours = String::new();
    let place = payload.is_none().then(|| format!("{}-{partition}", failure.topic));
    append_ours(failure, place.as_deref(), &mut ours);
    let size = payload.map_or(0, |payload| PAYLOAD.len() + payload.len());
    let mut text = Vec::with_capacity(facts.len() + size + ours.len() + "}".len());
    text.extend_from_slice(facts.as_bytes());
    if let Some(payload) = payload {
        text.extend_from_slice(PAYLOAD.as_bytes());
        text.extend_from_slice(payload);
    }
    text.extend_from_slice(ours.as_bytes());
    text.push(b'}');
    text
}

/// Record that has a message of its own.
#[derive(Clone, Copy)]
struct SingleRecord {
    record: RecordPoint,
    payload_bytes: u64,
}

/// Writes the members up to `KafkaBatchInfo` and leaves the object open.
fn facts(failure: &FailureDetails, alone: Option<SingleRecord>) -> String {
    let mut text = String::new();
    ObjectMembers::object(&mut text, |members| {
        members.within("requestContext", |context| request_context(failure, alone.is_some(), context));
        response_context(failure, members);
        members.text("version", "1.0");
        members.text("timestamp", &iso_8601(failure.timestamp));
        members.within("KafkaBatchInfo", |info| batch_info(failure, alone, info));
    });
    text.pop();
    text
}

fn request_context(failure: &FailureDetails, alone: bool, context: &mut ObjectMembers<'_>) {
    context.text("requestId", &failure.request_id);
    if alone {
        context.text("functionArn", &qualified(&failure.function_arn));
    } else {
        context.text("functionArn", &failure.function_arn);
    }
    context.text("condition", condition(failure.condition, alone));
    context.number("approximateInvokeCount", failure.approximate_invoke_count);
}

/// Returns the ARN with a qualifier: `$LATEST` when the mapping has none.
fn qualified(arn: &str) -> String {
    // arn:aws:lambda:region:account:function:name
    const PARTS_UNQUALIFIED: usize = 7;
    if arn.split(':').count() > PARTS_UNQUALIFIED { arn.to_owned() } else { format!("{arn}:$LATEST") }
}

fn condition(condition: FailureCondition, alone: bool) -> &'static str {
    match condition {
        FailureCondition::RetryAttemptsExhausted if alone => "RetriesExhausted",
        FailureCondition::RetryAttemptsExhausted => "RetryAttemptsExhausted",
        FailureCondition::RecordAgeExceeded => "RecordAgeExceeded",
        FailureCondition::MaximumPayloadSizeExceeded => "MaximumPayloadSizeExceeded",
        FailureCondition::BatchUnreadable => "BatchUnreadable",
    }
}

fn response_context(failure: &FailureDetails, members: &mut ObjectMembers<'_>) {
    match (failure.condition, &failure.response) {
        (FailureCondition::RecordAgeExceeded, _) => {}
        (FailureCondition::MaximumPayloadSizeExceeded | FailureCondition::BatchUnreadable, _)
        | (FailureCondition::RetryAttemptsExhausted, None) => {
            members.null("responseContext");
        }
        (FailureCondition::RetryAttemptsExhausted, Some(response)) => {
            members.within("responseContext", |context| {
                context.number("statusCode", response.status_code);
                context.text("executedVersion", &response.executed_version);
                context.text_or_null("functionError", response.function_error.as_deref());
            });
        }
    }
}

fn batch_info(failure: &FailureDetails, alone: Option<SingleRecord>, info: &mut ObjectMembers<'_>) {
    info.number("batchSize", if alone.is_some() { 1 } else { failure.batch_size });
    if let Some(arn) = &failure.source.arn {
        info.text("eventSourceArn", arn);
    }
    info.text("bootstrapServers", &failure.source.bootstrap_servers);
    info.number("payloadSize", alone.map_or(failure.payload_bytes, |alone| alone.payload_bytes));
    match alone {
        Some(alone) => info.within("recordInfo", |of_record| {
            of_record.text("offset", &alone.record.offset.to_string());
            of_record.text("timestamp", &iso_8601(alone.record.timestamp));
        }),
        None => info.within("recordsInfo", |by_partition| {
            for partition in &failure.partitions {
                let name = format!("{}-{}", failure.topic, partition.partition);
                by_partition.within(&name, |of_partition| {
                    of_partition.text("firstRecordOffset", &partition.first.offset.to_string());
                    of_partition.text("lastRecordOffset", &partition.last.offset.to_string());
                    of_partition.text("firstRecordTimestamp", &iso_8601(partition.first.timestamp));
                    of_partition.text("lastRecordTimestamp", &iso_8601(partition.last.timestamp));
                });
            }
        }),
    }
}

/// Appends the `lighterman` member if it is not empty.
fn append_ours(failure: &FailureDetails, place: Option<&str>, into: &mut String) {
    if place.is_none() && failure.error.is_none() {
        return;
    }
    into.push_str(",\"lighterman\":");
    ObjectMembers::object(into, |ours| {
        if let Some(place) = place {
            ours.text("partition", place);
        }
        if let Some(error) = &failure.error {
            ours.text("errorType", beginning(&error.kind, ERROR_TYPE_BYTES_MAX));
            ours.text("errorMessage", beginning(&error.message, ERROR_MESSAGE_BYTES_MAX));
        }
    });
}

/// Returns the longest prefix of `text` of at most `bytes_max` bytes.
fn beginning(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
