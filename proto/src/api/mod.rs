//! The event source mapping API as AWS defines it: shapes, constraints, exact messages.
//! Model: `lambda/2015-03-31/service-2.json` of botocore; messages: recorded from AWS.

mod constraints;
mod error;
mod mapping;
mod request;

pub use error::{ApiError, ErrorKind};
pub use mapping::{Account, Mapping, State};
pub use request::{
    CreateRequest, Endpoints, KafkaGroup, ProvisionedPollers, SourceAccess, StartingPosition, UpdateRequest,
};
