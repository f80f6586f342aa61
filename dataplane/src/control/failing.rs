//! What a person does about records that fail: skip one, and see what became of all of them.

use lighterman_proto::api::{ApiError, ErrorKind};
use lighterman_proto::ids::{MappingId, Offset};
use serde::Deserialize;
use serde_json::{Value, json};

use super::controller::{Controller, SkipWish};
use crate::audit::REASON_BYTES_MAX;
use crate::partition::effects::SkipAnswer;

/// Body of `POST /lighterman/v1/mappings/{uuid}/partitions/{partition}/skip`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct SkipRequest {
    /// Which record.
    pub offset: i64,
    /// Why; kept in the audit and in the log.
    pub reason: String,
}

impl Controller {
    /// Resolves exactly one record as skipped, while it fails.
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
        let offset = request.offset;
        let wish = SkipWish { partition, offset: Offset(offset), reason: request.reason };
        let not_now = |text: String| Err(ApiError::new(ErrorKind::ResourceConflict, text));
        match self.host().skip(id, wish).await {
            Some(SkipAnswer::Skipped) => {
                Ok(json!({ "Partition": partition, "Offset": offset, "State": "Skipped" }))
            }
            Some(SkipAnswer::AfterThisAttempt) => {
                Ok(json!({ "Partition": partition, "Offset": offset, "State": "AfterThisAttempt" }))
            }
            Some(SkipAnswer::NotFailing) => not_now(format!(
                "Nothing of partition {partition} is failing: only a record that fails can be skipped."
            )),
            Some(SkipAnswer::NotAmong(range)) => not_now(format!(
                "Record {offset} of partition {partition} is not among those that fail now, which lie in {range}."
            )),
            None => not_now(format!("Partition {partition} does not run on this node now.")),
        }
    }

    /// The audit of a mapping.
    pub async fn audit(&self, id: MappingId) -> Result<Value, ApiError> {
        self.entry(id)?;
        Ok(self.host().audit(id).await)
    }
}
