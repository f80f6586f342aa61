//! A wall clock that jumps, for one process, by libfaketime. The monotonic clocks go on as they do.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const LIBRARY: &str = "libfaketimeMT.so.1";
/// Where distributions put it.
const FOLDERS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
    "/opt/homebrew/lib/faketime",
];
const REQUIRED: &str = "TEST_LIGHTERMAN_REQUIRE_FAKETIME";

/// The clock of one process.
pub(super) struct WallClock {
    library: PathBuf,
    /// Says how far the clock is from the true one.
    file: PathBuf,
    _folder: TempDir,
}

impl WallClock {
    /// A clock that is right so far; `None` where libfaketime is not installed and nobody requires it.
    pub(super) fn find() -> Result<Option<Self>> {
        let library =
            FOLDERS.iter().map(|folder| Path::new(folder).join(LIBRARY)).find(|path| path.is_file());
        let Some(library) = library else {
            let required = std::env::var_os(REQUIRED).is_some();
            ensure!(!required, "{LIBRARY} is required ({REQUIRED}): install the package faketime");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let clock = Self { library, file: folder.path().join("offset"), _folder: folder };
        clock.set(0)?;
        Ok(Some(clock))
    }

    /// Puts it so many hours away from the true time.
    pub(super) fn set(&self, hours: i64) -> Result<()> {
        // Renamed into place: the process reads it at any moment.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{hours:+}h\n"))?;
        fs::rename(&next, &self.file).context("the clock cannot be set")
    }

    /// What the process must find in its environment.
    pub(super) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        [
            ("LD_PRELOAD", self.library.to_str().unwrap_or_default()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap_or_default()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DISABLE_SHM", "1"),
            ("NO_FAKE_STAT", "1"),
        ]
        .into_iter()
    }
}
