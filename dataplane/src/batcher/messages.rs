//! Messages to the batcher.

use actix::Message;

use crate::credit::memory_budget::MemoryLease;
use crate::credit::slots::Slot;

/// Requested slot.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SlotGranted(pub Slot);

/// Requested payload bytes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct BytesGranted(pub MemoryLease);
