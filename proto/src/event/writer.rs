//! Single-pass event writer: takes records and appends finished JSON.

use bytes::{BufMut, BytesMut};

use super::size::{EventEnvelope, HEADERS, KEY, OFFSET, RECORD_TAIL, TAIL, TIMESTAMP, VALUE, timestamp_type};
use super::{base64, json};
use crate::records::Record;

/// Writer of one event into one buffer. It never allocates if the buffer has the capacity that [`EventEnvelope`]
/// computes.
pub struct EventWriter<'e> {
    envelope: &'e EventEnvelope,
    into: BytesMut,
    partition: i32,
    partitions: u32,
    records: u32,
}

impl<'e> EventWriter<'e> {
    /// Starts an event after the existing contents of `into`.
    pub fn new(envelope: &'e EventEnvelope, mut into: BytesMut) -> Self {
        into.put_slice(&envelope.head);
        Self { envelope, into, partition: 0, partitions: 0, records: 0 }
    }

    /// Starts the records of a partition. Each partition may be started once.
    pub fn begin_partition(&mut self, partition: i32) {
        if self.partitions > 0 {
            self.into.put_slice(b"],");
        }
        self.into.put_u8(b'"');
        self.into.put_slice(&self.envelope.topic);
        self.into.put_u8(b'-');
        json::append_decimal(i64::from(partition), &mut self.into);
        self.into.put_slice(b"\":[");
        self.partition = partition;
        self.partitions += 1;
        self.records = 0;
    }

    /// Writes a record of the partition that was started last.
    #[inline]
    pub fn record(&mut self, record: &Record<'_>) {
        let into = &mut self.into;
        if self.records > 0 {
            into.put_u8(b',');
        }
        self.records += 1;
        into.put_slice(&self.envelope.record_head);
        json::append_decimal(i64::from(self.partition), into);
        into.put_slice(OFFSET);
        json::append_decimal(record.offset.0, into);
        into.put_slice(TIMESTAMP);
        json::append_decimal(record.timestamp.0, into);
        into.put_slice(timestamp_type(record.timestamp_type));
        append_field(KEY, record.key, into);
        append_field(VALUE, record.value, into);
        append_headers(record, into);
        into.put_slice(RECORD_TAIL);
    }

    /// Finishes the event.
    pub fn finish(mut self) -> BytesMut {
        if self.partitions > 0 {
            self.into.put_u8(b']');
        }
        self.into.put_slice(TAIL);
        self.into
    }
}

fn append_field(name: &[u8], value: Option<&[u8]>, into: &mut BytesMut) {
    if let Some(value) = value {
        into.put_slice(name);
        base64::append(value, into);
        into.put_u8(b'"');
    }
}

fn append_headers(record: &Record<'_>, into: &mut BytesMut) {
    into.put_slice(HEADERS);
    for (index, header) in record.headers.enumerate() {
        into.put_slice(if index == 0 { b"{" } else { b",{" });
        json::append_string(header.name, into);
        into.put_u8(b':');
        json::append_signed_array(header.value.unwrap_or_default(), into);
        into.put_u8(b'}');
    }
}
