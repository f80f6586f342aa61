//! Limit of open files, mostly sockets, of this process. Most systems start a process with 1,024, for the sake of
//! programs that use `select`, and let it raise the limit itself (systemd's `LimitNOFILE=1024:524288`).

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Highest limit requested. More has no benefit, and slows down child processes that close every possible
/// descriptor.
const FILES_MAX: u64 = 1 << 20;
/// Sufficient limit: 1,000 mappings on three brokers have some ten sockets each.
const FILES_ENOUGH: u64 = 16 * 1024;

/// Limit of open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFileLimit {
    /// Limit in force.
    pub files: u64,
    /// Limit at the start of the process.
    pub before: u64,
}

/// Raises the limit as far as permitted, and warns if it remains low.
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

/// Returns the number of open files, or `None` where the system does not report it.
pub fn open_files() -> Option<usize> {
    // One of them is the directory being read.
    std::fs::read_dir("/proc/self/fd").ok().map(|files| files.count().saturating_sub(1))
}
