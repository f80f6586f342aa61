//! Where a node of a chaos run keeps its data: a folder, or a place that can be full.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::small_disk::SmallDisk;

/// The data of one node.
pub(super) enum NodeData {
    /// It fills up for the process alone: no write to a file succeeds, which is told as EFBIG. Why it is no disk.
    Folder(TempDir, String),
    /// It fills up.
    Disk(SmallDisk),
}

/// What of a store's writes goes while the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WritesMeanwhile {
    /// Nothing.
    None,
    /// What has its place already.
    WithoutNewBlocks,
}

impl NodeData {
    /// Data that has room.
    pub(super) fn with_room() -> Result<Self> {
        Ok(Self::Folder(tempfile::tempdir()?, String::new()))
    }

    /// Data on a disk that can be full; where none can be mounted, the writes of the process can be refused.
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

    /// Leaves no room to process `pid`.
    pub(super) fn fill(&self, pid: u32) -> Result<()> {
        match self {
            Self::Folder(..) => limit_files(pid, "0"),
            Self::Disk(disk) => disk.fill(),
        }
    }

    /// Gives the room back.
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
