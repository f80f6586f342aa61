//! Facts about functions: their timeouts, which may change at any time. A node has a single
//! [`questions::QuestionBook`]. Mappings of the same function share its queries, and all of them together stay far
//! below the account's limit at Lambda's control plane.

pub mod asking;
pub mod questions;
pub mod timeout;

pub use asking::{FactsActor, FunctionWatch};
pub use timeout::{FunctionTimeout, RUN_MAX};
