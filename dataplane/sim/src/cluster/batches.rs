//! Encoding of record batches.

use bytes::{BufMut, Bytes, BytesMut};

fn varint(value: i64, into: &mut BytesMut) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        into.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    into.put_u8(left as u8);
}

fn varint_len(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - zigzag.leading_zeros() as usize).max(1).div_ceil(7)
}

/// Shape of one record: its offset delta, and a value of one repeated letter.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordShape {
    pub delta: i64,
    pub letter: u8,
    pub size: usize,
}

/// Header fields of a batch that its records do not determine.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchStamp {
    pub epoch: i32,
    pub timestamp: i64,
    pub attributes: i16,
    /// Producer id, −1 for none.
    pub producer: i64,
}

/// Encodes a batch at base offset `base`, whose last offset is `base + last_delta`.
pub(super) fn batch(base: i64, stamp: BatchStamp, shapes: &[RecordShape], last_delta: i64) -> Bytes {
    let mut records = BytesMut::with_capacity(256);
    for shape in shapes {
        let size = shape.size as i64;
        let length = 1 + 1 + varint_len(shape.delta) + 1 + varint_len(size) + shape.size + 1;
        varint(length as i64, &mut records);
        records.put_u8(0);
        varint(0, &mut records);
        varint(shape.delta, &mut records);
        varint(-1, &mut records);
        varint(size, &mut records);
        records.put_bytes(shape.letter, shape.size);
        varint(0, &mut records);
    }
    whole(base, stamp, shapes.len() as i32, last_delta, &records)
}

/// Encodes the control batch that ends a transaction: one record whose key says whether it aborts.
pub(super) fn marker(base: i64, stamp: BatchStamp, aborts: bool) -> Bytes {
    let mut record = BytesMut::with_capacity(16);
    varint(10, &mut record);
    record.put_slice(&[0, 0, 0]);
    varint(4, &mut record);
    record.put_i16(0);
    record.put_i16(i16::from(!aborts));
    varint(0, &mut record);
    varint(0, &mut record);
    whole(base, stamp, 1, 0, &record)
}

fn whole(base: i64, stamp: BatchStamp, count: i32, last_delta: i64, records: &[u8]) -> Bytes {
    let mut checked = BytesMut::with_capacity(40 + records.len());
    checked.put_i16(stamp.attributes);
    checked.put_i32(last_delta as i32);
    checked.put_i64(stamp.timestamp);
    checked.put_i64(stamp.timestamp);
    checked.put_i64(stamp.producer);
    checked.put_i16(-1);
    checked.put_i32(-1);
    checked.put_i32(count);
    checked.put_slice(records);
    let mut whole = BytesMut::with_capacity(checked.len() + 21);
    whole.put_i64(base);
    whole.put_i32(checked.len() as i32 + 9);
    whole.put_i32(stamp.epoch);
    whole.put_i8(2);
    whole.put_u32(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &checked) as u32);
    whole.put_slice(&checked);
    whole.freeze()
}
