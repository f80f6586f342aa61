//! Fuzz subject: the commit metadata parser on arbitrary bytes. Nothing panics, and parsed metadata is encoded and
//! parsed again without change.

use lighterman_proto::commit_metadata::{BYTES_MAX, CommitMetadata};

/// Parses `bytes` as a group would hold them. Returns 1 if they are valid metadata, so that callers can check that
/// some inputs are valid.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    let Some(read) = CommitMetadata::parse(&text) else { return 0 };
    assert!(text.len() <= BYTES_MAX, "nothing longer is ours");
    let written = read.encode();
    assert!(written.len() <= BYTES_MAX && written.is_ascii());
    let again = CommitMetadata::parse(&written);
    // Encoding drops unknown fields, so the encoded text may differ from the input; encoding it once more must not
    // change it.
    assert_eq!(again.as_ref().map(CommitMetadata::encode).as_ref(), Some(&written), "it says the same again");
    1
}
