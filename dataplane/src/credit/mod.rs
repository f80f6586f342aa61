//! The three credits: bytes (how much may be held), slots (how many invocations at once), offers (one outstanding each).
//! Flow control is made of these alone; no queue is trusted to push back.

pub mod memory;
mod overdraft;
mod shares;
pub mod slots;
