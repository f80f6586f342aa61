//! JSON scalars with precomputed lengths: decimal numbers, escaped strings, arrays of signed bytes.

use bytes::{BufMut, BytesMut};

const DIGITS_MAX: usize = 20;

/// Returns the length of `value` in decimal.
#[inline]
pub(super) fn decimal_len(value: i64) -> usize {
    let magnitude = value.unsigned_abs();
    magnitude.checked_ilog10().map_or(1, |log| log as usize + 1) + usize::from(value < 0)
}

/// Text of the numbers from 00 to 99.
const PAIRS: [[u8; 2]; 100] = {
    let mut table = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        table[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    table
};

/// Appends `value` in decimal.
#[inline]
pub(super) fn append_decimal(value: i64, into: &mut BytesMut) {
    let mut digits = [0u8; DIGITS_MAX];
    let mut at = DIGITS_MAX;
    let mut left = value.unsigned_abs();
    while left >= 100 {
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[(left % 100) as usize]);
        left /= 100;
    }
    at -= 2;
    digits[at..at + 2].copy_from_slice(&PAIRS[left as usize]);
    if value < 0 {
        into.put_u8(b'-');
    }
    into.put_slice(&digits[at + usize::from(left < 10)..]);
}

/// Returns the length of `byte` as a signed number.
const fn signed_len(byte: u8) -> u8 {
    let value = byte as i8;
    let digits = match value.unsigned_abs() {
        0..=9 => 1,
        10..=99 => 2,
        _ => 3,
    };
    if value < 0 { digits + 1 } else { digits }
}

/// Text of every byte as a signed number followed by a comma, and the length of that text.
const SIGNED: [([u8; 5], u8); 256] = {
    let mut table = [([0u8; 5], 0u8); 256];
    let mut byte = 0;
    while byte < 256 {
        let length = signed_len(byte as u8);
        let mut text = [b','; 5];
        let mut left = (byte as u8 as i8).unsigned_abs();
        let mut at = length as usize;
        loop {
            at -= 1;
            text[at] = b'0' + left % 10;
            left /= 10;
            if left == 0 {
                break;
            }
        }
        if (byte as u8 as i8) < 0 {
            text[0] = b'-';
        }
        table[byte] = (text, length + 1);
        byte += 1;
    }
    table
};

/// Returns the length of the array `[1,-2,…]`.
pub(super) fn signed_array_len(bytes: &[u8]) -> usize {
    let items: usize = bytes.iter().map(|byte| usize::from(SIGNED[usize::from(*byte)].1)).sum();
    2 + items.saturating_sub(1)
}

/// Appends the array `[1,-2,…]`.
pub(super) fn append_signed_array(bytes: &[u8], into: &mut BytesMut) {
    into.put_u8(b'[');
    for byte in bytes {
        let (text, length) = &SIGNED[usize::from(*byte)];
        into.put_slice(&text[..usize::from(*length)]);
    }
    if !bytes.is_empty() {
        into.truncate(into.len() - 1);
    }
    into.put_u8(b']');
}

fn escape(character: char) -> Option<&'static str> {
    const CONTROL: [&str; 32] = [
        "\\u0000", "\\u0001", "\\u0002", "\\u0003", "\\u0004", "\\u0005", "\\u0006", "\\u0007", "\\b", "\\t",
        "\\n", "\\u000b", "\\f", "\\r", "\\u000e", "\\u000f", "\\u0010", "\\u0011", "\\u0012", "\\u0013",
        "\\u0014", "\\u0015", "\\u0016", "\\u0017", "\\u0018", "\\u0019", "\\u001a", "\\u001b", "\\u001c",
        "\\u001d", "\\u001e", "\\u001f",
    ];
    match character {
        '"' => Some("\\\""),
        '\\' => Some("\\\\"),
        control if (control as usize) < CONTROL.len() => Some(CONTROL[control as usize]),
        _ => None,
    }
}

/// Splits `bytes` into its valid UTF-8 parts, with U+FFFD for invalid ones, as Java decodes header names.
fn lossy(bytes: &[u8]) -> impl Iterator<Item = &str> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let replacement = if chunk.invalid().is_empty() { "" } else { "\u{fffd}" };
        [chunk.valid(), replacement]
    })
}

/// True if the string literal of `bytes` is `bytes` itself in quotes, as with nearly all header names.
fn is_plain(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| (b' '..=b'~').contains(byte) && *byte != b'"' && *byte != b'\\')
}

/// Returns the length of the string literal `"…"`.
pub(super) fn string_len(bytes: &[u8]) -> usize {
    if is_plain(bytes) {
        return bytes.len() + 2;
    }
    let inside: usize = lossy(bytes)
        .flat_map(str::chars)
        .map(|character| escape(character).map_or(character.len_utf8(), str::len))
        .sum();
    inside + 2
}

/// Appends the string literal `"…"`.
pub(super) fn append_string(bytes: &[u8], into: &mut BytesMut) {
    into.put_u8(b'"');
    if is_plain(bytes) {
        into.put_slice(bytes);
        into.put_u8(b'"');
        return;
    }
    for character in lossy(bytes).flat_map(str::chars) {
        match escape(character) {
            Some(escaped) => into.put_slice(escaped.as_bytes()),
            None => into.put_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    into.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = i64> {
        (any::<i64>(), 0_u32..63).prop_map(|(value, shift)| value >> shift)
    }

    proptest! {
        #[test]
        fn decimal_equals_that_of_the_formatter(value in prop_oneof![number(), Just(i64::MIN), Just(i64::MAX)]) {
            let mut text = BytesMut::new();
            append_decimal(value, &mut text);
            let expected = value.to_string();
            prop_assert_eq!(&text[..], expected.as_bytes());
            prop_assert_eq!(decimal_len(value), text.len());
        }

        #[test]
        fn string_equals_that_of_serde_json(name in "[ -~\\u{0}-\\u{1f}\\u{7f}éß✓]{0,12}") {
            let mut text = BytesMut::new();
            append_string(name.as_bytes(), &mut text);
            let read: String = serde_json::from_slice(&text).expect("JSON");
            prop_assert_eq!(&read, &name);
            prop_assert_eq!(string_len(name.as_bytes()), text.len());
        }
    }
}
