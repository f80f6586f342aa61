//! The invocation, its verdict, throttle control.

pub mod actor;
pub mod context;
pub mod port;
pub mod retry;
pub mod sdk;
pub mod throttle;
pub mod verdict;

pub use context::{ClientContext, batch_key};
pub use verdict::Verdict;
