//! Fetch sessions (KIP-227), each over all partitions of one broker, with fetches routed to the partition leaders.

mod broker_task;
mod messages;
pub mod pending;
mod places;
mod router;
pub mod session;
mod setbacks;
pub mod wire;

pub use messages::{
    FetchAnswered, FetchCancelled, FetchError, FetchRequested, FetchedRecords, HighWatermarkSeen,
};
pub use router::{FetchRouter, FetchSettings, FetchStatus};
