//! Hexadecimal digits of digests and signatures, in lower case.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Appends two digits for each byte, without the formatter: it is called several times for each invocation.
pub(crate) fn push_hex(text: &mut String, bytes: &[u8]) {
    for chunk in bytes.chunks(32) {
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(chunk) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        // Digits are ASCII, so this cannot fail.
        text.push_str(std::str::from_utf8(&digits[..chunk.len() * 2]).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hex_equals_that_of_the_formatter(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let (mut ours, mut reference) = ("0x".to_owned(), "0x".to_owned());
            push_hex(&mut ours, &bytes);
            for byte in bytes {
                write!(reference, "{byte:02x}").expect("writes");
            }
            prop_assert_eq!(ours, reference);
        }
    }
}
