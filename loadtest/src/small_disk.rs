//! A small file system that can be filled: a write that needs space fails with ENOSPC, and succeeds again once
//! there is space. It is a tmpfs, which requires Linux and permission to mount.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Many times the size of a node's data, and still filled quickly.
const SIZE: &str = "size=16m,mode=700";
/// tmpfs allocates pages.
const PAGE_BYTES: usize = 4096;
/// A disk that accepts more is not the mounted one.
const PAGES_MAX: usize = 64 * 1024 * 1024 / PAGE_BYTES;

/// A small file system. Dropping it unmounts it; a killed test process leaves it mounted.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts a file system. The error states what this machine does not permit.
    pub fn mount() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "lighterman-loadtest"]).arg(folder.path());
        let said = mount.stdin(Stdio::null()).output().context("mount")?;
        let why = String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.success(), "no tmpfs can be mounted: {}", why.trim());
        Ok(Self { folder })
    }

    /// Returns the mount point.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills the file system.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::options().create(true).append(true).open(self.filler())?;
        let full = (0..PAGES_MAX).find_map(|_| filler.write_all(&[0; PAGE_BYTES]).err());
        let full = full.with_context(|| format!("{} does not fill up", self.path().display()))?;
        ensure!(full.kind() == io::ErrorKind::StorageFull, "it is not full, but: {full}");
        Ok(())
    }

    /// Frees the space again.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A process that has just been killed may still have files open; a lazy unmount ends with the last of them.
        let mut unmount = Command::new("umount");
        unmount.arg("--lazy").arg(self.folder.path()).stdin(Stdio::null()).stderr(Stdio::null());
        let _ = unmount.status();
    }
}
