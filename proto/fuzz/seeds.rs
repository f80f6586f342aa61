//! The files of a corpus, for the tests that go through it.

use std::fs;
use std::path::{Path, PathBuf};

/// The contents of `fuzz/corpus/SUBJECT` of the crate whose folder is `krate`, in the order of their names.
pub(crate) fn seeds(krate: &str, subject: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(krate).join("fuzz/corpus").join(subject);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&folder).expect("a corpus").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{}", folder.display());
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}
