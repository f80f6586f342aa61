//! Corpus files, for the tests that run them.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the contents of `fuzz/corpus/SUBJECT` in the crate folder `krate`, sorted by file name.
pub(crate) fn seeds(krate: &str, subject: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(krate).join("fuzz/corpus").join(subject);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&folder).expect("a corpus").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}", folder.display());
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}
