//! JSON objects written member by member, in call order, into one string.

use std::fmt::{Display, Write as _};

/// Number of bytes that each byte of a string takes when escaped.
const ESCAPED_BYTES: [u8; 256] = {
    let mut table = [1; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = if short_escape(byte as u8).is_some() { 2 } else { 6 };
        byte += 1;
    }
    table[b'"' as usize] = 2;
    table[b'\\' as usize] = 2;
    table
};

const REPLACEMENT: &str = "\u{fffd}";

/// Returns the letter after the backslash, for bytes with a short escape.
const fn short_escape(byte: u8) -> Option<char> {
    match byte {
        b'"' => Some('"'),
        b'\\' => Some('\\'),
        0x08 => Some('b'),
        b'\t' => Some('t'),
        b'\n' => Some('n'),
        0x0c => Some('f'),
        b'\r' => Some('r'),
        _ => None,
    }
}

fn is_plain(byte: u8) -> bool {
    ESCAPED_BYTES[usize::from(byte)] == 1
}

/// Returns the length of `text` as a JSON string, quotes included.
pub(super) fn string_len(text: &[u8]) -> usize {
    let of_chunk = |chunk: std::str::Utf8Chunk<'_>| {
        let valid: usize =
            chunk.valid().bytes().map(|byte| usize::from(ESCAPED_BYTES[usize::from(byte)])).sum();
        valid + if chunk.invalid().is_empty() { 0 } else { REPLACEMENT.len() }
    };
    text.utf8_chunks().map(of_chunk).sum::<usize>() + 2
}

/// Appends `text` as a JSON string, with U+FFFD in place of invalid UTF-8.
pub(super) fn append_string(text: &[u8], into: &mut String) {
    into.push('"');
    for chunk in text.utf8_chunks() {
        append_escaped(chunk.valid(), into);
        if !chunk.invalid().is_empty() {
            into.push_str(REPLACEMENT);
        }
    }
    into.push('"');
}

fn append_escaped(mut text: &str, into: &mut String) {
    // Bytes that need an escape are ASCII, so slicing around them stays on character boundaries.
    while let Some(at) = text.bytes().position(|byte| !is_plain(byte)) {
        into.push_str(&text[..at]);
        let byte = text.as_bytes()[at];
        match short_escape(byte) {
            Some(letter) => into.extend(['\\', letter]),
            None => append(into, format_args!("\\u{byte:04x}")),
        }
        text = &text[at + 1..];
    }
    into.push_str(text);
}

fn append(into: &mut String, value: impl Display) {
    // Writing to a `String` cannot fail.
    let _ = write!(into, "{value}");
}

/// JSON object under construction.
pub(super) struct ObjectMembers<'s> {
    into: &'s mut String,
    any: bool,
}

impl<'s> ObjectMembers<'s> {
    /// Appends an object whose members `fill` writes.
    pub(super) fn object(into: &'s mut String, fill: impl FnOnce(&mut ObjectMembers<'_>)) {
        into.push('{');
        let mut members = ObjectMembers { into, any: false };
        fill(&mut members);
        members.into.push('}');
    }

    /// Writes a string member.
    pub(super) fn text(&mut self, name: &str, value: &str) {
        append_string(value.as_bytes(), self.value(name));
    }

    /// Writes a string or null member.
    pub(super) fn text_or_null(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.value(name).push_str("null"),
        }
    }

    /// Writes a number member.
    pub(super) fn number(&mut self, name: &str, value: impl Into<i128>) {
        let value: i128 = value.into();
        append(self.value(name), value);
    }

    /// Writes a null member.
    pub(super) fn null(&mut self, name: &str) {
        self.value(name).push_str("null");
    }

    /// Writes an object member.
    pub(super) fn within(&mut self, name: &str, fill: impl FnOnce(&mut ObjectMembers<'_>)) {
        ObjectMembers::object(self.value(name), fill);
    }

    /// Writes a member's name and returns the string to append its value to.
    fn value(&mut self, name: &str) -> &mut String {
        if self.any {
            self.into.push(',');
        }
        self.any = true;
        append_string(name.as_bytes(), self.into);
        self.into.push(':');
        self.into
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn checked(bytes: &[u8]) -> String {
        let mut into = String::new();
        append_string(bytes, &mut into);
        assert_eq!(into.len(), string_len(bytes));
        into
    }

    #[test]
    fn ascii_bytes_are_escaped_like_serde_json() {
        let all: String = (0..=0x7fu8).map(char::from).collect();
        assert_eq!(checked(all.as_bytes()), serde_json::to_string(&all).expect("JSON"));
    }

    proptest! {
        #[test]
        fn text_is_written_like_serde_json(text in ".*|[\\\\\"\n\u{1}é]*") {
            prop_assert_eq!(checked(text.as_bytes()), serde_json::to_string(&text).expect("JSON"));
        }

        #[test]
        fn arbitrary_bytes_are_read_back_lossily(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let read: String = serde_json::from_str(&checked(&bytes)).expect("JSON");
            prop_assert_eq!(read, String::from_utf8_lossy(&bytes));
        }
    }
}
