//! Data directory of a node in a chaos run: a folder, or a file system that can be filled.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::small_disk::SmallDisk;

/// The data of one node.
pub(super) enum NodeData {
    /// Folder whose writes can be made to fail for the process only: every write to a file returns EFBIG. The text
    /// is the reason why no disk was mounted.
    Folder(TempDir, String),
    /// File system that can be filled.
    Disk(SmallDisk),
}

/// Writes of a store that succeed while the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WritesMeanwhile {
    /// None: every write fails.
    None,
    /// Writes into blocks that are already allocated.
    WithoutNewBlocks,
}

impl NodeData {
    /// Creates a data directory that never fills up.
    pub(super) fn with_room() -> Result<Self> {
        Ok(Self::Folder(tempfile::tempdir()?, String::new()))
    }

    /// Creates a data directory on a disk that can be filled. If none can be mounted, the process's writes can be
    /// refused instead.
    pub(super) fn that_fills_up() -> Result<Self> {
        match SmallDisk::mount() {
            Ok(disk) => Ok(Self::Disk(disk)),
            Err(why) => Ok(Self::Folder(tempfile::tempdir()?, format!("{why:#}"))),
        }
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(folder, _) => folder.path(),
            Self::Disk(disk) => disk.path(),
        }
    }

    /// Removes all free space for process `pid`.
    pub(super) fn fill(&self, pid: u32) -> Result<()> {
        match self {
            Self::Folder(..) => limit_files(pid, "0"),
            Self::Disk(disk) => disk.fill(),
        }
    }

    /// Restores the free space.
    pub(super) fn free(&self, pid: u32) -> Result<()> {
        match self {
            Self::Folder(..) => limit_files(pid, "unlimited"),
            Self::Disk(disk) => disk.free(),
        }
    }

    pub(super) fn writes_meanwhile(&self) -> WritesMeanwhile {
        match self {
            Self::Folder(..) => WritesMeanwhile::None,
            Self::Disk(_) => WritesMeanwhile::WithoutNewBlocks,
        }
    }
}

impl fmt::Display for NodeData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(_, why) => write!(f, "writes refused by prlimit (EFBIG), for {why}"),
            Self::Disk(_) => write!(f, "a tmpfs without room (ENOSPC)"),
        }
    }
}

fn limit_files(pid: u32, bytes: &str) -> Result<()> {
    let limit = format!("--fsize={bytes}:");
    let set =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().context("prlimit")?;
    ensure!(set.success(), "prlimit {limit}");
    Ok(())
}
