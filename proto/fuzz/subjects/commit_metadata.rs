//! The reader of commit metadata, on any bytes: no panic, and what it reads it can write and read again as the same.

use lighterman_proto::commit_metadata::{BYTES_MAX, CommitMetadata};

/// Reads `bytes` as a group would hold them; 1 when they are a text of ours, for callers that want to know that something was
/// read.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    let Some(read) = CommitMetadata::parse(&text) else { return 0 };
    assert!(text.len() <= BYTES_MAX, "nothing longer is ours");
    let written = read.encode();
    assert!(written.len() <= BYTES_MAX && written.is_ascii());
    let again = CommitMetadata::parse(&written);
    // What is written may be longer than what was read only by what it leaves out: fields that nobody knows.
    assert_eq!(again.as_ref().map(CommitMetadata::encode).as_ref(), Some(&written), "it says the same again");
    1
}
