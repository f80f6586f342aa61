//! Zig-zag varints in Kafka's encoding (`ByteUtils.readVarint`): at most 5 bytes for 32 bits, 10 for 64.

/// Reads a 64-bit varint at `*at` and advances `at` past it.
#[inline]
pub(super) fn read_i64(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let first = *bytes.get(*at)?;
    if first < 0x80 {
        *at += 1;
        return Some(i64::from(first >> 1) ^ -i64::from(first & 1));
    }
    read_long(bytes, at)
}

fn read_long(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let mut value = 0u64;
    for (index, byte) in bytes.get(*at..)?.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            *at += index + 1;
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// Reads a 32-bit varint at `*at` and advances `at` past it; wider values are rejected.
#[inline]
pub(super) fn read_i32(bytes: &[u8], at: &mut usize) -> Option<i32> {
    i32::try_from(read_i64(bytes, at)?).ok()
}

/// Appends a 64-bit varint.
pub(super) fn write_i64(value: i64, into: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)) as u64;
    while left >= 0x80 {
        into.push(left as u8 | 0x80);
        left >>= 7;
    }
    into.push(left as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn write(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        super::write_i64(value, &mut out);
        out
    }

    #[test]
    fn overlong_or_overflowing_varint_is_rejected() {
        let mut at = 0;
        assert_eq!(super::read_i64(&[0xff; 11], &mut at), None);
        assert_eq!(super::read_i64(&[0x80; 3], &mut at), None);
        let mut wide = [0xff; 10];
        wide[9] = 2;
        assert_eq!(super::read_i64(&wide, &mut at), None);
        assert_eq!(super::read_i32(&write(i64::from(i32::MAX) + 1), &mut at), None);
    }

    proptest! {
        #[test]
        fn varint_written_then_read_round_trips(value in any::<i64>(), tail in prop::collection::vec(any::<u8>(), 0..3)) {
            let mut bytes = write(value);
            let length = bytes.len();
            bytes.extend(tail);
            let mut at = 0;
            prop_assert_eq!(super::read_i64(&bytes, &mut at), Some(value));
            prop_assert_eq!(at, length);
        }
    }
}
