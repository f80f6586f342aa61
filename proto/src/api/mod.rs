//! Event source mapping API as AWS defines it: shapes, constraints, exact messages.
//! Model: `lambda/2015-03-31/service-2.json` of botocore; messages: recorded from AWS.

mod constraints;
mod destination;
mod error;
mod failure_policy;
mod filter_criteria;
mod function;
mod mapping;
mod paths;
mod recorded_settings;
mod request;
mod servers;
mod tags;
#[cfg(test)]
mod test_requests;
mod unknown_members;

pub use destination::{BucketArn, DestinationError, FailureDestination, QueueArn, TopicArn};
pub use error::{ApiError, ErrorKind};
pub use failure_policy::{
    DestinationConfig, DestinationTarget, FailurePolicy, FailureRequest, LiftedLimits,
    ON_DESTINATION_FAILURE_TAG, OnDestinationFailure, PARTIAL_RESPONSE_TAG, PartialOrder,
    RETRIES_WITH_DESTINATION,
};
pub use filter_criteria::{FilterCriteria, FilterEntry, FilterRequest};
pub use mapping::{AccountScope, Mapping, MappingState};
pub use paths::{PAGE_ENTRIES_MAX, check_uuid_length, page_size};
pub use recorded_settings::{
    ConsumptionMode, LoggingConfig, MetricsConfig, RecordedRequest, RecordedSettings,
};
pub use request::{
    CreateRequest, KafkaGroup, ProvisionedPollers, SourceAccess, SourceEndpoints, StartingPosition,
    UpdateRequest,
};
pub use tags::{check_tag_resource, required_tag_keys, required_tags, tag_resource_not_found};
