//! Base64; the only module that depends on a particular implementation.

use bytes::BytesMut;

/// Returns the length of the standard base64 encoding of `bytes` bytes, padding included.
pub(super) const fn encoded_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

/// Appends the standard base64 encoding of `bytes`.
#[inline]
pub(super) fn append(bytes: &[u8], into: &mut BytesMut) {
    let from = into.len();
    let length = encoded_len(bytes.len());
    into.resize(from + length, 0);
    // The slice has exactly the length that the encoder requires, so encoding cannot fail.
    let _ = base64_turbo::STANDARD.encode_slice(bytes, &mut into[from..]);
}

#[cfg(test)]
mod tests {
    use ::base64::Engine;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_base64_crate(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut into = bytes::BytesMut::new();
            super::append(&bytes, &mut into);
            let expected = ::base64::engine::general_purpose::STANDARD.encode(&bytes);
            prop_assert_eq!(&into[..], expected.as_bytes());
        }
    }
}
