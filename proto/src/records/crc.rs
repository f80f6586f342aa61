//! CRC-32C; the only module that depends on a particular implementation.

/// Computes the CRC-32C of `bytes`, as in the record batch header.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_crc32c_crate(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            prop_assert_eq!(super::crc32c(&bytes), crc32c::crc32c(&bytes));
        }
    }
}
