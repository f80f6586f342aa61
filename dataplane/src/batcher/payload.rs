//! Single-pass writer of a sealed batch into one buffer, whose exact size is known before the first byte.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use lighterman_proto::event::{EventEnvelope, EventWriter};
use parking_lot::Mutex;

use super::core::SealedBatch;

/// Divisor of the memory budget: pooled buffers take at most this fraction, in addition to the budget.
const KEPT_SHARE_OF_BUDGET: usize = 32;
/// Largest buffer that is pooled. Beyond it, the allocation costs little compared with writing the payload.
const KEPT_BYTES_EACH_MAX: usize = 1024 * 1024;

/// Pool of payload buffers, returned once the connector has released them. There is one for each node; clones share
/// it.
#[derive(Clone)]
pub struct PayloadPool {
    shelf: Arc<Mutex<PayloadBuffers>>,
    kept_bytes_max: usize,
}

#[derive(Default)]
struct PayloadBuffers {
    buffers: Vec<BytesMut>,
    bytes: usize,
}

impl PayloadPool {
    /// Creates an empty pool for a node with a memory budget of that many bytes.
    pub fn new(memory_budget: usize) -> Self {
        Self { shelf: Arc::default(), kept_bytes_max: memory_budget / KEPT_SHARE_OF_BUDGET }
    }

    /// Returns an empty buffer that holds `bytes` without growing, preferably the most recently used one that fits.
    pub fn take(&self, bytes: usize) -> BytesMut {
        let mut shelf = self.shelf.lock();
        let fits = shelf.buffers.iter().rposition(|kept| kept.capacity() >= bytes);
        let Some(at) = fits else { return BytesMut::with_capacity(bytes) };
        let mut buffer = shelf.buffers.remove(at);
        shelf.bytes -= buffer.capacity();
        buffer.clear();
        buffer
    }

    /// Returns a payload's buffer to the pool, if it has no other holder and the pool has room.
    pub fn give_back(&self, payload: Bytes) {
        let Ok(buffer) = payload.try_into_mut() else { return };
        let bytes = buffer.capacity();
        let mut shelf = self.shelf.lock();
        if bytes <= KEPT_BYTES_EACH_MAX && shelf.bytes + bytes <= self.kept_bytes_max {
            shelf.bytes += bytes;
            shelf.buffers.push(buffer);
        }
    }
}

/// Writes the event of `plan`. Its length is exactly `plan.payload_bytes`.
pub fn write(plan: &SealedBatch, envelope: &EventEnvelope, buffer: BytesMut) -> Bytes {
    let mut writer = EventWriter::new(envelope, buffer);
    for part in &plan.parts {
        writer.begin_partition(part.partition);
        for slice in &part.partition_batch.runs {
            for record in slice.walk() {
                writer.record(&record);
            }
        }
    }
    let written = writer.finish();
    debug_assert_eq!(written.len(), plan.payload_bytes, "sizes are exact");
    written.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mem_1_pooled_buffers_stay_within_share_of_budget() {
        const BUDGET: usize = 32 * 1000;
        let pool = PayloadPool::new(BUDGET);
        for _ in 0..10 {
            pool.give_back(BytesMut::with_capacity(400).freeze());
        }
        let (kept, bytes) = {
            let shelf = pool.shelf.lock();
            (shelf.buffers.len(), shelf.bytes)
        };
        assert!(kept == 2 && bytes <= BUDGET / KEPT_SHARE_OF_BUDGET, "{kept} buffers, {bytes} bytes");
        assert!(pool.take(300).capacity() >= 300);
        assert!(pool.take(401).capacity() >= 401, "a buffer that is too small is not used");
        assert_eq!(pool.shelf.lock().buffers.len(), 1);
    }

    #[test]
    fn payload_with_another_holder_is_not_pooled() {
        let pool = PayloadPool::new(1 << 20);
        let payload = BytesMut::from(&b"{}"[..]).freeze();
        let held = payload.clone();
        pool.give_back(payload);
        assert_eq!((pool.shelf.lock().buffers.len(), &held[..]), (0, &b"{}"[..]));
    }
}
