//! Errors of record batch parsing and decompression.

use thiserror::Error;

/// Error in the bytes of a record batch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// Batch of an older format than magic 2.
    #[error("batch at offset {offset} has magic {magic}; only magic 2 (Kafka 0.11 and later) is supported")]
    Magic {
        /// Base offset of the batch.
        offset: i64,
        /// Magic byte found.
        magic: i8,
    },
    /// Checksum that does not match the bytes.
    #[error(
        "batch at offset {offset} has CRC {found:#010x}, its bytes give {computed:#010x}: corrupted on disk or on the way"
    )]
    Crc {
        /// Base offset of the batch.
        offset: i64,
        /// Checksum in the batch header.
        found: u32,
        /// Checksum computed from the bytes.
        computed: u32,
    },
    /// Invalid header field.
    #[error("batch at offset {offset}: {what}")]
    Header {
        /// Base offset of the batch.
        offset: i64,
        /// Description of the defect.
        what: &'static str,
    },
    /// Record whose contents do not match its lengths.
    #[error("record {index} of the batch at offset {offset}: {what}")]
    Record {
        /// Base offset of the batch.
        offset: i64,
        /// Index of the record in the batch, from 0.
        index: u32,
        /// Description of the defect.
        what: &'static str,
    },
    /// Compressed bytes that cannot be decompressed.
    #[error("{codec} data is broken: {what}")]
    Compressed {
        /// Codec name.
        codec: &'static str,
        /// Error message of the codec.
        what: String,
    },
    /// Codec window larger than the memory allowed.
    #[error(
        "its {codec} data needs {bytes} bytes of memory to be decompressed, {bytes_max} are allowed: raise memory_budget"
    )]
    Window {
        /// Codec name.
        codec: &'static str,
        /// Window size required, in bytes.
        bytes: usize,
        /// Limit in bytes.
        bytes_max: usize,
    },
    /// Batch that decompresses to more bytes than allowed.
    #[error("batch inflates to more than {bytes_max} bytes")]
    TooLarge {
        /// Limit in bytes.
        bytes_max: usize,
    },
}

impl RecordError {
    /// Returns the same error with a corrected record index, for a record counted within a piece of its batch.
    /// `behind` is the number of the batch's records after that piece.
    #[must_use]
    pub fn before(self, behind: u32) -> Self {
        match self {
            Self::Record { offset, index, what } => {
                Self::Record { offset, index: index.saturating_sub(behind), what }
            }
            other => other,
        }
    }
}
