//! Operator actions on failing records: skipping one, and reading the audit.

use lighterman_proto::api::{ApiError, ErrorKind};
use lighterman_proto::ids::{MappingId, Offset};
use serde::Deserialize;
use serde_json::{Value, json};

use super::controller::{Controller, SkipWish};
use crate::audit::REASON_BYTES_MAX;
use crate::messages::skip::SkipAnswer;
use crate::messages::unreadable::BatchEnd;

/// Body of `POST /lighterman/v1/mappings/{uuid}/partitions/{partition}/skip`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct SkipRequest {
    /// Offset of the record, or the first offset of an unreadable batch.
    pub offset: i64,
    /// End offset (exclusive) of an unreadable batch.
    #[serde(default)]
    pub end_offset: Option<i64>,
    /// Reason, which is kept in the audit and the log.
    pub reason: String,
}

impl Controller {
    /// Resolves exactly one failing record as skipped, or exactly the offsets of an unreadable batch.
    pub async fn skip(
        &self,
        id: MappingId,
        partition: &str,
        request: SkipRequest,
    ) -> Result<Value, ApiError> {
        self.accepts_changes()?;
        self.entry(id)?;
        let partition: i32 =
            partition.parse().map_err(|_| ApiError::invalid(format!("`{partition}` is no partition.")))?;
        if request.reason.trim().is_empty() || request.reason.len() > REASON_BYTES_MAX {
            return Err(ApiError::invalid(format!("Reason must have 1 to {REASON_BYTES_MAX} bytes.")));
        }
        let (offset, end) = (request.offset, request.end_offset);
        if end.is_some_and(|end| end <= offset) {
            return Err(ApiError::invalid("EndOffset must lie behind Offset."));
        }
        let reason = request.reason;
        let wish = SkipWish { partition, offset: Offset(offset), end: end.map(Offset), reason };
        let done = |state: &str| {
            let mut answer = json!({ "Partition": partition, "Offset": offset, "State": state });
            if let Some(end) = end {
                answer["EndOffset"] = json!(end);
            }
            Ok(answer)
        };
        let not_now = |text: String| Err(ApiError::new(ErrorKind::ResourceConflict, text));
        match self.host().skip(id, wish).await {
            Some(SkipAnswer::Skipped) => done("Skipped"),
            Some(SkipAnswer::AfterThisAttempt) => done("AfterThisAttempt"),
            Some(SkipAnswer::NotFailing) => not_now(format!(
                "Nothing of partition {partition} is failing: only a record that fails can be skipped."
            )),
            Some(SkipAnswer::NotAmong(range)) => not_now(format!(
                "Record {offset} of partition {partition} is not among those that fail now, which lie in {range}."
            )),
            Some(SkipAnswer::Unreadable { first, end: BatchEnd::Certain(end) }) => not_now(format!(
                "Partition {partition} cannot be read from offset {first} to {end}: name exactly these, as Offset {first} \
                 and EndOffset {end}, to have them passed."
            )),
            Some(SkipAnswer::Unreadable { first, end: BatchEnd::Claimed(_) }) => not_now(format!(
                "Partition {partition} cannot be read from offset {first} on, and nothing tells surely how far: name \
                 Offset {first} and, as EndOffset, where to go on."
            )),
            Some(SkipAnswer::NotUnreadable) => not_now(format!(
                "Partition {partition} can be read at offset {offset}: several offsets are skipped together only where \
                 they cannot be read."
            )),
            Some(SkipAnswer::BeyondEnd(log_end)) => {
                not_now(format!("The log of partition {partition} ends at offset {log_end}."))
            }
            None => not_now(format!("Partition {partition} does not run on this node now.")),
        }
    }

    /// The audit of a mapping.
    pub async fn audit(&self, id: MappingId) -> Result<Value, ApiError> {
        self.entry(id)?;
        Ok(self.host().audit(id).await)
    }
}
