//! Where subjects put files: in memory when there is such a place.

use std::path::Path;

use tempfile::TempDir;

/// An empty folder.
pub(crate) fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a folder")
}
