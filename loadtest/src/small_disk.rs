//! A file system of its own that can be full: every write to it that needs room fails with ENOSPC, and goes again when there is
//! room. It is a tmpfs, which needs Linux and the right to mount.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Room for a node's data many times over, and filled at once.
const SIZE: &str = "size=16m,mode=700";
/// tmpfs gives room by pages.
const PAGE_BYTES: usize = 4096;
/// A disk that takes more is not the one that was mounted.
const PAGES_MAX: usize = 64 * 1024 * 1024 / PAGE_BYTES;

/// A small file system; dropping it takes it away, and a process that is killed leaves it mounted.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one. The error is what this machine does not permit.
    pub fn mount() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "lighterman-loadtest"]).arg(folder.path());
        let said = mount.stdin(Stdio::null()).output().context("mount")?;
        let why = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "no tmpfs can be mounted: {}", why.trim());
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves no room on it.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::options().create(true).append(true).open(self.filler())?;
        let full = (0..PAGES_MAX).find_map(|_| filler.write_all(&[0; PAGE_BYTES]).err());
        let full = full.with_context(|| format!("{} does not fill up", self.path().display()))?;
        ensure!(full.kind() == io::ErrorKind::StorageFull, "it is not full, but: {full}");
        Ok(())
    }

    /// Gives the room back.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that has just been killed may still have its files: it goes with the last of them.
        let mut unmount = Command::new("umount");
        unmount.arg("--lazy").arg(self.folder.path()).stdin(Stdio::null()).stderr(Stdio::null());
        let _ = unmount.status();
    }
}
