//! Metadata that an invocation carries in `X-Amz-Client-Context`.

use std::fmt::Write;

use lighterman_proto::ids::{MappingId, OffsetRange};
use sha2::{Digest, Sha256};

use crate::hex::push_hex;

/// Content of `{"custom":{"lighterman":{…}}}`: the data that a function needs to be idempotent and to reject
/// zombies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientContext {
    /// UUID of the mapping.
    pub mapping: MappingId,
    /// Stable key of the records: the same for the same records, whichever node sends them.
    pub batch: String,
    /// Attempt number, from 1.
    pub attempt: u32,
    /// Fencing token. It never decreases for a partition.
    pub fence: u64,
}

impl ClientContext {
    /// Returns the JSON. The UUID and the key are hexadecimal, so nothing needs escaping.
    pub fn json(&self) -> String {
        let Self { mapping, batch, attempt, fence } = self;
        let mut json = String::with_capacity(160);
        let _ = write!(
            json,
            r#"{{"custom":{{"lighterman":{{"mapping":"{mapping}","batch":"{batch}","attempt":{attempt},"fence":{fence}}}}}}}"#
        );
        json
    }

    /// Returns the value of the header.
    pub fn base64(&self) -> String {
        aws_smithy_types::base64::encode(self.json())
    }
}

const BATCH_KEY_BYTES: usize = 16;

/// Returns the key of a batch: the first 128 bits of SHA-256 over its sorted ranges, in hexadecimal.
pub fn batch_key(topic: &str, ranges: &[(i32, OffsetRange)]) -> String {
    let mut sorted: Vec<_> =
        ranges.iter().map(|(partition, range)| (*partition, range.first.0, range.end.0)).collect();
    sorted.sort_unstable();
    let mut hash = Sha256::new();
    hash.update(topic.as_bytes());
    for (partition, first, end) in sorted {
        hash.update(partition.to_be_bytes());
        hash.update(first.to_be_bytes());
        hash.update(end.to_be_bytes());
    }
    let mut key = String::with_capacity(2 * BATCH_KEY_BYTES);
    push_hex(&mut key, &hash.finalize()[..BATCH_KEY_BYTES]);
    key
}

#[cfg(test)]
mod tests {
    use lighterman_proto::ids::Offset;

    use super::*;

    #[test]
    fn batch_key_ignores_range_order() {
        let range = |first, end| OffsetRange { first: Offset(first), end: Offset(end) };
        let key = batch_key("t", &[(0, range(1, 5)), (3, range(0, 2))]);
        assert_eq!(key, batch_key("t", &[(3, range(0, 2)), (0, range(1, 5))]));
        assert_ne!(key, batch_key("t", &[(0, range(1, 6)), (3, range(0, 2))]));
        assert_ne!(key, batch_key("u", &[(0, range(1, 5)), (3, range(0, 2))]));
        assert_eq!(key.len(), 32);
    }

    #[test]
    fn client_context_json_matches_the_interface() {
        let context =
            ClientContext { mapping: MappingId(uuid::Uuid::nil()), batch: "k".into(), attempt: 2, fence: 7 };
        let json: serde_json::Value = serde_json::from_str(&context.json()).expect("JSON");
        let expected = serde_json::json!({"custom": {"lighterman": {
            "mapping": "00000000-0000-0000-0000-000000000000", "batch": "k", "attempt": 2, "fence": 7
        }}});
        assert_eq!(json, expected);
    }
}
