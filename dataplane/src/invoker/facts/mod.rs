//! What is known of the functions: how long each may run, which may change at any time. One book for a node: mappings with the
//! same function ask once, and all of them together stay far below what Lambda's control plane takes of an account.

pub mod asking;
pub mod questions;
pub mod timeout;

pub use asking::{FactsDesk, FunctionWatch};
pub use timeout::{FunctionTimeout, RUN_MAX};
