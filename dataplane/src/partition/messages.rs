//! Messages that a partition accepts.

use actix::Message;

use crate::credit::memory_budget::MemoryLease;

/// Memory that was waited for, to decompress the batch at the front.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct CreditGranted(pub MemoryLease);

/// Finish what is in flight, commit, then report `Drained`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Drain;

/// Ownership has ended: stop without any further effect.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Fence;

/// Other partitions are short of memory: release the records that cannot be used yet.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GiveBack;
