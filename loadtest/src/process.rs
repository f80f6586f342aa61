//! CPU time and memory of a process, from /proc.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

/// Kernel clock ticks per second, as in `/proc` on Linux.
const TICKS_PER_SECOND: u64 = 100;

/// Returns the user and system time of a process since its start, in microseconds.
pub fn cpu_us(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) * (1_000_000 / TICKS_PER_SECOND))
}

/// Returns the current resident memory of a process in KiB.
pub fn resident_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmRSS:")
}

/// Returns the peak resident memory of a process in KiB, as reported by the kernel.
pub fn resident_peak_kib(pid: u32) -> Result<u64> {
    status_kib(pid, "VmHWM:")
}

/// Resident memory of a process by kind, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessMemory {
    /// All of it.
    pub resident: u64,
    /// Memory without a file behind it: heap, stacks, relocated data.
    pub anonymous: u64,
    /// Pages of the program and its libraries, which the system can drop and read again.
    pub file: u64,
    /// Anonymous memory in pages of 2 MiB, which are resident whole, however little of them is used.
    pub huge: u64,
}

impl ProcessMemory {
    /// Reads the memory of a process.
    pub fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            resident: resident_kib(pid)?,
            anonymous: status_kib(pid, "RssAnon:")?,
            file: status_kib(pid, "RssFile:")?,
            huge: kib_in(&format!("/proc/{pid}/smaps_rollup"), "AnonHugePages:")?,
        })
    }
}

/// Returns the number of open file descriptors of a process.
pub fn descriptors(pid: u32) -> Result<u64> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

/// Returns how often the threads of a process have given up the processor in order to wait.
pub fn wakeups(pid: u32) -> Result<u64> {
    let mut all = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let waits = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        all += waits.and_then(|waits| waits.trim().parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(all)
}

fn status_kib(pid: u32, field: &'static str) -> Result<u64> {
    kib_in(&format!("/proc/{pid}/status"), field)
}

fn kib_in(path: &str, field: &'static str) -> Result<u64> {
    let text = fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.with_context(|| format!("no {field} in /proc"))
}

/// Polls the resident memory of a process while it lives, and returns its running maximum in KiB.
pub fn watch_resident_kib(pid: u32) -> Arc<AtomicU64> {
    let peak = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&peak);
    tokio::spawn(async move {
        while let Ok(kib) = resident_kib(pid) {
            seen.fetch_max(kib, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    peak
}
