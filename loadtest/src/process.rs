//! CPU time and memory of a process, from /proc.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

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

fn status_kib(pid: u32, field: &'static str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
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
