//! The one-pass writer: a sealed plan into one buffer whose exact size is known before the first byte.

use bytes::{Bytes, BytesMut};
use lighterman_proto::event::{Envelope, EventWriter};

use super::core::Plan;

/// Buffers of finished invocations, kept for the next ones: at most this many, each at most this large.
const POOL_BUFFERS_MAX: usize = 8;
const POOLED_BYTES_MAX: usize = 1024 * 1024;

/// Payload buffers that come back once the connector has let go of them.
#[derive(Default)]
pub struct PayloadPool {
    buffers: Vec<BytesMut>,
}

impl PayloadPool {
    /// An empty buffer that holds `bytes` without growing.
    pub fn take(&mut self, bytes: usize) -> BytesMut {
        let mut buffer = self.buffers.pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve(bytes);
        buffer
    }

    /// Takes a payload back, when nobody else holds it any more.
    pub fn give_back(&mut self, payload: Bytes) {
        if self.buffers.len() >= POOL_BUFFERS_MAX || payload.len() > POOLED_BYTES_MAX {
            return;
        }
        if let Ok(buffer) = payload.try_into_mut() {
            self.buffers.push(buffer);
        }
    }
}

/// Writes the event of `plan`. Its length is `plan.payload_bytes`, exactly.
pub fn write(plan: &Plan, envelope: &Envelope, buffer: BytesMut) -> Bytes {
    let mut writer = EventWriter::new(envelope, buffer);
    for part in &plan.parts {
        writer.begin_partition(part.partition);
        for slice in &part.cut.slices {
            for record in slice.walk() {
                writer.record(&record);
            }
        }
    }
    let written = writer.finish();
    debug_assert_eq!(written.len(), plan.payload_bytes, "sizes are exact");
    written.freeze()
}
