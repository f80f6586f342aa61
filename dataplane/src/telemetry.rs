//! Process log: its output, its format, and the rate limit of repeated lines.

use std::io::IsTerminal;
use std::time::Duration;

use lighterman_proto::units::Moment;
use parking_lot::Mutex;
use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogSettings};

/// Failure to install the log.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The configured level is invalid.
    #[error("`log.level` is wrong: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// A log is already installed.
    #[error("this process already has a log: {0}")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends the log of this process to standard error. Call it once.
pub fn install(settings: &LogSettings) -> Result<(), TelemetryError> {
    let mut filter = EnvFilter::try_new(&settings.level)?;
    if !settings.level.contains('=') {
        // Libraries log every connection; only their warnings matter here. rskafka also repeats its warnings on every
        // attempt, without bound. Its errors appear in Lighterman's own lines.
        for quiet in ["rskafka=off", "actix_server=warn", "actix_web=warn", "hyper=warn", "aws=warn"] {
            filter = filter.add_directive(quiet.parse()?);
        }
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

/// Rate limit of one log line. The next line that passes carries the number of lines held back.
#[derive(Debug)]
pub struct LineLimit {
    most: u32,
    within: Duration,
    state: Mutex<LogWindow>,
}

#[derive(Debug, Default)]
struct LogWindow {
    began: Option<Moment>,
    passed: u32,
    held_back: u64,
}

impl LineLimit {
    /// Creates a limit of `most` lines in each `within`.
    #[must_use]
    pub const fn new(most: u32, within: Duration) -> Self {
        let state = LogWindow { began: None, passed: 0, held_back: 0 };
        Self { most, within, state: parking_lot::const_mutex(state) }
    }

    /// Returns `Some(held back since the last line)` if a line may be written.
    pub fn pass(&self, now: Moment) -> Option<u64> {
        let mut state = self.state.lock();
        if state.began.is_none_or(|began| now.since(began) >= self.within) {
            state.began = Some(now);
            state.passed = 0;
        }
        if state.passed >= self.most {
            state.held_back += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_line_is_limited_per_window() {
        let limit = LineLimit::new(2, Duration::from_secs(1));
        let at = |ms: u64| Moment::from_micros(ms * 1000);
        assert_eq!(limit.pass(at(0)), Some(0));
        assert_eq!(limit.pass(at(1)), Some(0));
        assert_eq!(limit.pass(at(2)), None);
        assert_eq!(limit.pass(at(999)), None);
        assert_eq!(limit.pass(at(1000)), Some(2), "reports the number of suppressed lines");
        assert_eq!(limit.pass(at(1001)), Some(0));
    }
}
