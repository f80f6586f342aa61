//! Temporary folders for the fuzz subjects, in memory if available.

use std::path::Path;

use tempfile::TempDir;

/// Creates an empty folder.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a folder")
}
