//! What the function of `lighterman dev` prints and how it fails, on the terminal.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::cli::print_line;
use crate::local::function_host::observer::{FunctionError, FunctionObserver};
use crate::runtime::clock;
use crate::telemetry::LineLimit;

const LINES_PER_SECOND_MAX: u32 = 50;

/// How far the function's first instance has come.
#[derive(Clone, Debug, Default)]
pub(super) enum FunctionStart {
    /// It runs its initialization.
    #[default]
    Pending,
    /// It waits for its first invocation.
    Ready,
    /// It cannot start.
    Failed(FunctionError),
}

/// Prints a function's lines with their request ids, and each new error once, with its stack trace.
pub(super) struct ConsoleObserver {
    start: watch::Sender<FunctionStart>,
    limit: LineLimit,
    last_error: Mutex<Option<FunctionError>>,
}

impl ConsoleObserver {
    /// An observer, and where to hear of the function's start.
    pub(super) fn new() -> (Self, watch::Receiver<FunctionStart>) {
        let (start, started) = watch::channel(FunctionStart::Pending);
        let limit = LineLimit::new(LINES_PER_SECOND_MAX, Duration::from_secs(1));
        (Self { start, limit, last_error: Mutex::new(None) }, started)
    }

    fn print(&self, text: &str) {
        match self.limit.pass(clock::now()) {
            Some(0) => print_line(&text),
            Some(held_back) => print_line(&format!("(function: {held_back} lines are not shown)\n{text}")),
            None => {}
        }
    }

    /// True when it differs from the last one: a batch that is tried again fails alike each time.
    fn is_news(&self, error: &FunctionError) -> bool {
        self.last_error.lock().replace(error.clone()).as_ref() != Some(error)
    }
}

impl FunctionObserver for ConsoleObserver {
    fn initialized(&self, _: &str) {
        self.start.send_replace(FunctionStart::Ready);
    }

    fn initialization_failed(&self, _: &str, error: &FunctionError) {
        let first = self.start.send_if_modified(|start| {
            let is_pending = matches!(start, FunctionStart::Pending);
            if is_pending {
                *start = FunctionStart::Failed(error.clone());
            }
            is_pending
        });
        if !first && self.is_news(error) {
            self.print(&format!("function cannot start: {error}"));
        }
    }

    fn printed(&self, _: &str, request: Option<Uuid>, line: &str) {
        match request {
            Some(request) => self.print(&format!("{request} | {line}")),
            None => self.print(&format!("function start | {line}")),
        }
    }

    fn failed(&self, _: &str, request: Uuid, error: &FunctionError) {
        if self.is_news(error) {
            self.print(&format!("{request} | function error {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_news_once_until_another_comes() {
        let (observer, started) = ConsoleObserver::new();
        let error = |kind: &str| FunctionError { error_type: kind.into(), ..FunctionError::default() };
        assert!(observer.is_news(&error("A")) && !observer.is_news(&error("A")));
        assert!(observer.is_news(&error("B")) && observer.is_news(&error("A")));
        observer.initialization_failed("f", &error("A"));
        observer.initialization_failed("f", &error("B"));
        assert!(matches!(&*started.borrow(), FunctionStart::Failed(first) if first.error_type == "A"));
    }
}
