//! How many files, sockets first, this process may have open. Most systems start a program with 1,024, kept for programs that
//! use `select`, and let it raise that by itself (systemd's `LimitNOFILE=1024:524288`).

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Beyond this nothing is won, and programs that we start and that close every descriptor they could have would take long.
const FILES_MAX: u64 = 1 << 20;
/// 1,000 mappings on three brokers have some ten sockets each.
const FILES_ENOUGH: u64 = 16 * 1024;

/// How many files may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFileLimit {
    /// In force now.
    pub files: u64,
    /// How many there were before.
    pub before: u64,
}

/// Raises the limit as far as it may be raised, and warns when that is little.
pub fn raise_open_file_limit() -> OpenFileLimit {
    let now = getrlimit(Resource::Nofile);
    let before = now.current.unwrap_or(u64::MAX);
    let wanted = now.maximum.unwrap_or(u64::MAX).min(FILES_MAX);
    let raised = if wanted > before { raise_to(wanted, now) } else { Ok(()) };
    if let Err(error) = &raised {
        tracing::warn!(%error, before, wanted, "the limit of open files could not be raised");
    }
    let files = if raised.is_ok() { wanted.max(before) } else { before };
    if files < FILES_ENOUGH {
        tracing::warn!(
            files,
            "few files, sockets included, may be open at once: enough for some hundred mappings. Raise the hard limit \
             (`ulimit -Hn`, systemd: `LimitNOFILE=`)"
        );
    }
    metrics::gauge!(crate::metrics::OPEN_FILES_LIMIT).set(files as f64);
    OpenFileLimit { files, before }
}

fn raise_to(files: u64, now: Rlimit) -> io::Result<()> {
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..now })?)
}

/// How many files are open now; `None` where the system does not tell.
pub fn open_files() -> Option<usize> {
    // One of them is the folder that is being read.
    std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1))
}
