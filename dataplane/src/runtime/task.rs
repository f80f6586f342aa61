//! Tasks whose result is awaited: a panic in one is otherwise unwound by its runtime without notice.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

/// Returns the result of `work`, or `None` if it panics. The panic is counted, and the caller must report an error
/// of its own.
pub async fn outcome<T>(what: &'static str, work: impl Future<Output = T>) -> Option<T> {
    // Nothing that the work has borrowed is accessed after its panic.
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    if ended.is_err() {
        metrics::counter!(crate::metrics::REBUILDS).increment(1);
        tracing::error!(what, "a task panicked; what waits for it is tried again");
    }
    ended.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn liv_1_task_panic_is_reported_to_its_waiter() {
        let work = async {
            let odd: Option<u32> = [1u32, 3].into_iter().find(|number| number % 2 == 0);
            odd.expect("an expected panic")
        };
        assert_eq!(outcome("test", work).now_or_never(), Some(None));
        assert_eq!(outcome("test", async { 7 }).now_or_never(), Some(Some(7)));
    }
}
