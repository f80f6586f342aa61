//! Log messages, status and counters for the events of a partition.

use lighterman_proto::failure::FailureCondition;

use super::actor::PartitionActor;
use super::effects::PartitionEvent;
use crate::messages::dead_letter::AbandonedRecords;

impl PartitionActor {
    pub(super) fn note(&self, note: &PartitionEvent) {
        let partition = self.id.to_string();
        match note {
            PartitionEvent::GivenUp { records, condition } => self.note_given_up(records, *condition),
            PartitionEvent::Skipped { offset } => {
                self.status.dropped(1);
                tracing::warn!(partition, offset = offset.0, "record skipped on an operator's request");
            }
            PartitionEvent::Lost(range) => {
                self.status.lost(range.first.distance_to(range.end));
                tracing::warn!(partition, %range, "records deleted by retention before they were read");
            }
            PartitionEvent::Corrupt { first, damage } => {
                let error = &damage.error;
                self.status.poll_failed(&damage.told(self.id.partition, *first));
                self.stats.set_last_error(Some(format!("batch at offset {first} cannot be read: {error}")));
                tracing::error!(partition, offset = first.0, %error, "batch cannot be read; asking again");
            }
            PartitionEvent::Passed { range, outcome } => {
                let outcome = outcome.label();
                tracing::warn!(partition, %range, outcome, "unreadable offsets passed on an operator's request");
            }
            PartitionEvent::Rewritten { from } => {
                metrics::counter!(crate::metrics::TRUNCATIONS).increment(1);
                tracing::warn!(
                    partition,
                    from = from.0,
                    "the log was truncated and rewritten; its records are read again"
                );
            }
            PartitionEvent::LedgerRefused(refused) => {
                metrics::counter!(crate::metrics::INVARIANT_VIOLATIONS, "invariant" => "COM-1").increment(1);
                self.status.problem(&format!("partition {partition} stopped: {refused}"));
                tracing::error!(partition, %refused, invariant = "COM-1", "partition stopped");
            }
        }
    }

    fn note_given_up(&self, given_up: &AbandonedRecords, condition: FailureCondition) {
        let records = u64::from(given_up.batch.records);
        self.status.dropped(records);
        let offset =
            given_up.batch.walk().next().map_or(given_up.batch.range.first, |record| record.offset).0;
        let last =
            given_up.last.as_ref().map(|failure| format!("{}: {}", failure.error_type, failure.message));
        let text = match condition {
            FailureCondition::MaximumPayloadSizeExceeded => format!(
                "record {offset} skipped: alone it makes a payload of {} bytes, Lambda takes {}",
                given_up.batch.payload_bytes,
                lighterman_proto::units::PAYLOAD_BYTES_MAX
            ),
            FailureCondition::RecordAgeExceeded => {
                format!("{records} records from {offset} on are older than MaximumRecordAgeInSeconds")
            }
            FailureCondition::BatchUnreadable => format!("offsets from {offset} on cannot be read"),
            FailureCondition::RetryAttemptsExhausted => {
                format!("{records} records from {offset} on failed {} times", given_up.attempts_used)
            }
        };
        tracing::warn!(
            partition = %self.id, offset, records, attempts = given_up.attempts_used, last_error = last,
            "{text}; there is no on-failure destination: they are dropped"
        );
        self.stats.set_last_error(Some(text));
    }
}
