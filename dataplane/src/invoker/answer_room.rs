//! The memory that an answer is read into: a little of it without asking, more only on the mapping's byte budget (MEM-1).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::port::{ANSWER_BYTES_MAX, ERROR_BYTES_MAX};
use crate::credit::memory::{MemoryBudget, MemoryLease, Overdraft};

/// As much of every answer is read without a lease.
const UNLEASED_BYTES_MAX: usize = ERROR_BYTES_MAX;

/// How much of one answer is kept, and on whose budget; clones are the same room. Its bytes come back when the last clone, or
/// whoever took its lease, is gone.
#[derive(Clone)]
pub struct AnswerRoom {
    bytes_max: usize,
    budget: MemoryBudget,
    lease: Arc<Mutex<Option<MemoryLease>>>,
}

impl AnswerRoom {
    /// Room for `bytes_max` bytes of an answer, and never for more than Lambda's longest.
    pub fn new(bytes_max: usize, budget: MemoryBudget) -> Self {
        Self { bytes_max: bytes_max.min(ANSWER_BYTES_MAX), budget, lease: Arc::default() }
    }

    /// What the answer in it was lent, if that was anything: to be held as long as the answer.
    pub fn take_lease(&self) -> Option<MemoryLease> {
        self.lease.lock().take()
    }
}

impl fmt::Debug for AnswerRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerRoom").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

/// An answer while it is read.
pub(super) struct AnswerBuffer<'r> {
    room: &'r AnswerRoom,
    bytes: Vec<u8>,
    /// How long the answer says that it is.
    announced: Option<u64>,
    lease: Option<MemoryLease>,
}

impl<'r> AnswerBuffer<'r> {
    pub(super) fn new(room: &'r AnswerRoom, announced: Option<u64>) -> Self {
        Self { room, bytes: Vec::new(), announced, lease: None }
    }

    /// Keeps what there is room for. Waits for memory once at most, and holds no other part of an answer meanwhile: whoever has
    /// its lease gets to the end.
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

    /// What was kept. Its lease waits in the room.
    pub(super) fn finish(mut self) -> Bytes {
        if let Some(mut lease) = self.lease {
            self.bytes.shrink_to_fit();
            lease.shrink_to(self.bytes.len());
            *self.room.lease.lock() = Some(lease);
        }
        Bytes::from(self.bytes)
    }
}
