//! JSON scalars with precomputed lengths: decimal numbers, escaped strings, arrays of signed bytes.

use bytes::{BufMut, BytesMut};

const DIGITS_MAX: usize = 20;

/// Returns the length of `value` in decimal.
#[inline]
pub(super) fn decimal_len(value: i64) -> usize {
    let magnitude = value.unsigned_abs();
    magnitude.checked_ilog10().map_or(1, |log| log as usize + 1) + usize::from(value < 0)
}

/// Appends `value` in decimal.
#[inline]
pub(super) fn append_decimal(value: i64, into: &mut BytesMut) {
    let mut digits = [0u8; DIGITS_MAX];
    let mut at = DIGITS_MAX;
    let mut left = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if value < 0 {
        into.put_u8(b'-');
    }
    into.put_slice(&digits[at..]);
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

/// Returns the length of the string literal `"…"`.
pub(super) fn string_len(bytes: &[u8]) -> usize {
    let inside: usize = lossy(bytes)
        .flat_map(str::chars)
        .map(|character| escape(character).map_or(character.len_utf8(), str::len))
        .sum();
    inside + 2
}

/// Appends the string literal `"…"`.
pub(super) fn append_string(bytes: &[u8], into: &mut BytesMut) {
    into.put_u8(b'"');
    for character in lossy(bytes).flat_map(str::chars) {
        match escape(character) {
            Some(escaped) => into.put_slice(escaped.as_bytes()),
            None => into.put_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    into.put_u8(b'"');
}
