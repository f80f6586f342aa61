//! Record batches, as bytes.

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

/// One record of a batch: its offset delta, and its value as a letter and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub delta: i64,
    pub letter: u8,
    pub size: usize,
}

/// A batch at `base` that ends `last_delta` behind it.
pub(super) fn batch(
    base: i64,
    epoch: i32,
    shapes: &[Shape],
    last_delta: i64,
    timestamp: i64,
    attributes: i16,
) -> Bytes {
    let mut checked = BytesMut::with_capacity(256);
    checked.put_i16(attributes);
    checked.put_i32(last_delta as i32);
    checked.put_i64(timestamp);
    checked.put_i64(timestamp);
    checked.put_i64(-1);
    checked.put_i16(-1);
    checked.put_i32(-1);
    checked.put_i32(shapes.len() as i32);
    for shape in shapes {
        let size = shape.size as i64;
        let length = 1 + 1 + varint_len(shape.delta) + 1 + varint_len(size) + shape.size + 1;
        varint(length as i64, &mut checked);
        checked.put_u8(0);
        varint(0, &mut checked);
        varint(shape.delta, &mut checked);
        varint(-1, &mut checked);
        varint(size, &mut checked);
        checked.put_bytes(shape.letter, shape.size);
        varint(0, &mut checked);
    }
    let mut whole = BytesMut::with_capacity(checked.len() + 21);
    whole.put_i64(base);
    whole.put_i32(checked.len() as i32 + 9);
    whole.put_i32(epoch);
    whole.put_i8(2);
    whole.put_u32(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &checked) as u32);
    whole.put_slice(&checked);
    whole.freeze()
}
