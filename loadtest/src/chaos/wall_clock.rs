//! Wall clock of one process that can jump, by libfaketime. Monotonic clocks are unaffected.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const LIBRARY: &str = "libfaketimeMT.so.1";
/// Folders in which distributions install it.
const FOLDERS: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu/faketime",
    "/usr/lib/aarch64-linux-gnu/faketime",
    "/usr/lib64/faketime",
    "/usr/lib/faketime",
    "/usr/local/lib/faketime",
    "/opt/homebrew/lib/faketime",
];
const REQUIRED: &str = "TEST_LIGHTERMAN_REQUIRE_FAKETIME";

/// Wall clock of one process.
pub(super) struct WallClock {
    library: PathBuf,
    /// File with the clock's offset from the true time.
    file: PathBuf,
    _folder: TempDir,
}

impl WallClock {
    /// Creates a clock without an offset. Returns `None` if libfaketime is not installed and not required.
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

    /// Sets the clock to `hours` from the true time.
    pub(super) fn set(&self, hours: i64) -> Result<()> {
        // Renamed into place, since the process may read it at any moment.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{hours:+}h\n"))?;
        fs::rename(&next, &self.file).context("the clock cannot be set")
    }

    /// Returns the environment variables that the process needs.
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
