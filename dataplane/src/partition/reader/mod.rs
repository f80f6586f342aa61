//! Reading of a partition: what is fetched next, what has arrived, and what cannot be read.

pub(in crate::partition) mod compact;
pub mod fetch_buffer;
pub mod leader_epochs;
pub(in crate::partition) mod lost;
pub mod pieces;
pub(in crate::partition) mod release;
pub(in crate::partition) mod segment;
pub mod unreadable;
