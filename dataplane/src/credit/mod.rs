//! Three kinds of credit: bytes (memory held), slots (concurrent invocations) and offers (one outstanding each).
//! Flow control uses these alone and relies on no queue for backpressure.

pub mod memory_budget;
mod memory_limit;
mod overdraft;
pub mod slots;
