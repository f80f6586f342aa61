//! Terminal output of the function of `lighterman dev`: lines and errors.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use uuid::Uuid;

use crate::cli::print_line;
use crate::local::function_host::observer::{FunctionObserver, HostedFunctionError};
use crate::runtime::clock;
use crate::telemetry::LineLimit;

const LINES_PER_SECOND_MAX: u32 = 50;

/// State of the function's first instance.
#[derive(Clone, Debug, Default)]
pub(super) enum FunctionStart {
    /// Initialization is running.
    #[default]
    Pending,
    /// Ready for its first invocation.
    Ready,
    /// Initialization failed.
    Failed(HostedFunctionError),
}

/// Observer that prints the function's lines with their request ids, and each new error once, with its stack trace.
pub(super) struct ConsoleObserver {
    start: watch::Sender<FunctionStart>,
    lines: LineLimit,
    start_errors: ErrorNews,
    errors: ErrorNews,
}

/// Filter of repeated errors. An error equal to the last printed one is dropped, as a retried batch fails the same
/// way each time.
struct ErrorNews {
    /// Separate from the limit of the function's lines, which may be many just before it fails.
    limit: LineLimit,
    last: Mutex<Option<HostedFunctionError>>,
}

impl ErrorNews {
    fn new() -> Self {
        Self { limit: line_limit(), last: Mutex::new(None) }
    }

    /// Calls `print` unless the error is a repeat or over the limit. Returns true if it was printed.
    fn tell(&self, error: &HostedFunctionError, print: impl FnOnce(u64)) -> bool {
        let mut last = self.last.lock();
        if last.as_ref() == Some(error) {
            return false;
        }
        let Some(held_back) = self.limit.pass(clock::now()) else { return false };
        print(held_back);
        *last = Some(error.clone());
        true
    }
}

fn line_limit() -> LineLimit {
    LineLimit::new(LINES_PER_SECOND_MAX, Duration::from_secs(1))
}

fn print(text: &str, held_back: u64) {
    match held_back {
        0 => print_line(&text),
        held_back => print_line(&format!("(function: {held_back} lines are not shown)\n{text}")),
    }
}

impl ConsoleObserver {
    /// Creates an observer, with a receiver of the function's start.
    pub(super) fn new() -> (Self, watch::Receiver<FunctionStart>) {
        let (start, started) = watch::channel(FunctionStart::Pending);
        let (start_errors, errors) = (ErrorNews::new(), ErrorNews::new());
        (Self { start, lines: line_limit(), start_errors, errors }, started)
    }
}

impl FunctionObserver for ConsoleObserver {
    fn initialized(&self, _: &str) {
        self.start.send_replace(FunctionStart::Ready);
    }

    fn initialization_failed(&self, _: &str, error: &HostedFunctionError) {
        let first = self.start.send_if_modified(|start| {
            let is_pending = matches!(start, FunctionStart::Pending);
            if is_pending {
                *start = FunctionStart::Failed(error.clone());
            }
            is_pending
        });
        if !first {
            let text = format!("function cannot start: {error}");
            self.start_errors.tell(error, |held_back| print(&text, held_back));
        }
    }

    fn printed(&self, _: &str, request: Option<Uuid>, line: &str) {
        let Some(held_back) = self.lines.pass(clock::now()) else { return };
        match request {
            Some(request) => print(&format!("{request} | {line}"), held_back),
            None => print(&format!("function start | {line}"), held_back),
        }
    }

    fn failed(&self, _: &str, request: Uuid, error: &HostedFunctionError) {
        let text = format!("{request} | function error {error}");
        self.errors.tell(error, |held_back| print(&text, held_back));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_error_is_printed_once() {
        let (observer, started) = ConsoleObserver::new();
        let error =
            |kind: &str| HostedFunctionError { error_type: kind.into(), ..HostedFunctionError::default() };
        let is_news = |kind: &str| observer.errors.tell(&error(kind), |_| {});
        assert!(is_news("A") && !is_news("A"));
        assert!(is_news("B") && is_news("A"));
        observer.initialization_failed("f", &error("A"));
        observer.initialization_failed("f", &error("B"));
        assert!(matches!(&*started.borrow(), FunctionStart::Failed(first) if first.error_type == "A"));
    }

    #[test]
    fn suppressed_error_is_printed_later() {
        let news = ErrorNews { limit: LineLimit::new(1, Duration::from_secs(3_600)), last: Mutex::new(None) };
        let error =
            |kind: &str| HostedFunctionError { error_type: kind.into(), ..HostedFunctionError::default() };
        assert!(news.tell(&error("A"), |_| {}));
        assert!(!news.tell(&error("B"), |_| panic!("over the limit")));
        assert_eq!(news.last.lock().as_ref(), Some(&error("A")), "B is printed once the limit allows it");
    }
}
