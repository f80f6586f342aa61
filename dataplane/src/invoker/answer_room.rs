//! Memory that a response is read into. A small part is read without a lease, more only on the mapping's byte
//! budget (MEM-1).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::port::{ANSWER_BYTES_MAX, ERROR_BYTES_MAX};
use crate::credit::memory_budget::{MemoryBudget, MemoryLease, Overdraft};

/// Bytes of a response that are read without a lease.
const UNLEASED_BYTES_MAX: usize = ERROR_BYTES_MAX;

/// Limit and byte budget of one response, shared by its clones. The leased bytes return to the budget when the last
/// clone is dropped, or when the holder of the taken lease drops it.
#[derive(Clone)]
pub struct AnswerRoom {
    bytes_max: usize,
    budget: MemoryBudget,
    lease: Arc<Mutex<Option<MemoryLease>>>,
}

impl AnswerRoom {
    /// Creates room for `bytes_max` bytes of a response, capped at Lambda's longest.
    pub fn new(bytes_max: usize, budget: MemoryBudget) -> Self {
        Self { bytes_max: bytes_max.min(ANSWER_BYTES_MAX), budget, lease: Arc::default() }
    }

    /// Takes the lease of the response, if it needed one. It must be held for as long as the response.
    pub fn take_lease(&self) -> Option<MemoryLease> {
        self.lease.lock().take()
    }
}

impl fmt::Debug for AnswerRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerRoom").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

/// Response while it is being read.
pub(super) struct AnswerBuffer<'r> {
    room: &'r AnswerRoom,
    bytes: Vec<u8>,
    /// Announced length of the response.
    announced: Option<u64>,
    lease: Option<MemoryLease>,
}

impl<'r> AnswerBuffer<'r> {
    pub(super) fn new(room: &'r AnswerRoom, announced: Option<u64>) -> Self {
        Self { room, bytes: Vec::new(), announced, lease: None }
    }

    /// Retains the bytes that fit. Waits for memory at most once, and holds no lease of the response meanwhile.
    /// Once the lease is granted, the whole response can be read.
    pub(super) async fn extend(&mut self, data: &[u8]) {
        let data = &data[..data.len().min(self.room.bytes_max - self.bytes.len())];
        if self.lease.is_none() && self.bytes.len() + data.len() > UNLEASED_BYTES_MAX {
            let announced = self.announced.and_then(|bytes| usize::try_from(bytes).ok());
            let whole = announced.unwrap_or(usize::MAX).min(self.room.bytes_max);
            let whole = whole.max(self.bytes.len() + data.len());
            self.lease = Some(self.room.budget.lease_or_overdraft(whole, Overdraft::Answer).await);
            self.bytes.reserve_exact(whole - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
    }

    /// Returns the retained bytes and leaves their lease in the room.
    pub(super) fn finish(mut self) -> Bytes {
        if let Some(mut lease) = self.lease {
            self.bytes.shrink_to_fit();
            lease.shrink_to(self.bytes.len());
            *self.room.lease.lock() = Some(lease);
        }
        Bytes::from(self.bytes)
    }
}
