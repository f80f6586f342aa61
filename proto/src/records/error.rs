//! What can be wrong with a record batch.

use thiserror::Error;

/// Bytes that are not what a record batch must be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// A batch of an old format.
    #[error("batch at offset {offset} has magic {magic}; only magic 2 (Kafka 0.11 and later) is supported")]
    Magic {
        /// Base offset of the batch.
        offset: i64,
        /// The magic byte.
        magic: i8,
    },
    /// The checksum does not match the bytes.
    #[error(
        "batch at offset {offset} has CRC {found:#010x}, its bytes give {computed:#010x}: corrupted on disk or on the way"
    )]
    Crc {
        /// Base offset of the batch.
        offset: i64,
        /// What the batch says.
        found: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A header field that cannot be.
    #[error("batch at offset {offset}: {what}")]
    Header {
        /// Base offset of the batch.
        offset: i64,
        /// What is wrong.
        what: &'static str,
    },
    /// A record that does not fit its own lengths.
    #[error("record {index} of the batch at offset {offset}: {what}")]
    Record {
        /// Base offset of the batch.
        offset: i64,
        /// Which record of the batch, from 0.
        index: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// Compressed bytes that do not decompress.
    #[error("{codec} data is broken: {what}")]
    Compressed {
        /// Which codec.
        codec: &'static str,
        /// What the codec said.
        what: String,
    },
    /// A codec that must look back further than there is memory for.
    #[error(
        "its {codec} data needs {bytes} bytes of memory to be decompressed, {bytes_max} are allowed: raise memory_budget"
    )]
    Window {
        /// Which codec.
        codec: &'static str,
        /// What it needs.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// More decompressed bytes than allowed.
    #[error("batch inflates to more than {bytes_max} bytes")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

impl RecordError {
    /// The same of a record that was counted as if `behind` records of its batch were not there.
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
