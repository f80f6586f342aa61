//! What an invocation says of itself in `X-Amz-Client-Context`.

use std::fmt::Write;

use lighterman_proto::ids::{MappingId, OffsetRange};
use sha2::{Digest, Sha256};

/// `{"custom":{"lighterman":{…}}}`: what a function needs to be idempotent and to refuse zombies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientContext {
    /// UUID of the mapping.
    pub mapping: MappingId,
    /// Stable key of the records: same records, same key, whoever sends them.
    pub batch: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Never decreases for a partition.
    pub fence: u64,
}

impl ClientContext {
    /// As JSON. The UUID and the key are hexadecimal: nothing in them needs escaping.
    pub fn json(&self) -> String {
        let Self { mapping, batch, attempt, fence } = self;
        let mut json = String::with_capacity(160);
        let _ = write!(
            json,
            r#"{{"custom":{{"lighterman":{{"mapping":"{mapping}","batch":"{batch}","attempt":{attempt},"fence":{fence}}}}}}}"#
        );
        json
    }

    /// As the header carries it.
    pub fn base64(&self) -> String {
        aws_smithy_types::base64::encode(self.json())
    }
}

/// The key of a batch: the first 128 bits of SHA-256 over its sorted ranges, in hexadecimal.
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
    hash.finalize().iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use lighterman_proto::ids::Offset;

    use super::*;

    #[test]
    fn the_same_records_have_the_same_key_in_any_order() {
        let range = |first, end| OffsetRange { first: Offset(first), end: Offset(end) };
        let key = batch_key("t", &[(0, range(1, 5)), (3, range(0, 2))]);
        assert_eq!(key, batch_key("t", &[(3, range(0, 2)), (0, range(1, 5))]));
        assert_ne!(key, batch_key("t", &[(0, range(1, 6)), (3, range(0, 2))]));
        assert_ne!(key, batch_key("u", &[(0, range(1, 5)), (3, range(0, 2))]));
        assert_eq!(key.len(), 32);
    }

    #[test]
    fn the_context_is_what_the_interface_says() {
        let context =
            ClientContext { mapping: MappingId(uuid::Uuid::nil()), batch: "k".into(), attempt: 2, fence: 7 };
        let json: serde_json::Value = serde_json::from_str(&context.json()).expect("JSON");
        let expected = serde_json::json!({"custom": {"lighterman": {
            "mapping": "00000000-0000-0000-0000-000000000000", "batch": "k", "attempt": 2, "fence": 7
        }}});
        assert_eq!(json, expected);
    }
}
