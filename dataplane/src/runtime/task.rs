//! Tasks whose end somebody waits for: a panic in one is unwound by its runtime and nobody hears of it.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures::FutureExt;

/// The outcome of `work`, or `None` when it panics: counted, and for the caller to answer with an error of its own.
pub async fn outcome<T>(what: &'static str, work: impl Future<Output = T>) -> Option<T> {
    // Nothing that the work has borrowed is looked at after its panic.
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
    fn liv_1_whoever_waits_for_a_task_hears_of_its_panic() {
        let work = async {
            let odd: Option<u32> = [1u32, 3].into_iter().find(|number| number % 2 == 0);
            odd.expect("a panic, as it should be")
        };
        assert_eq!(outcome("test", work).now_or_never(), Some(None));
        assert_eq!(outcome("test", async { 7 }).now_or_never(), Some(Some(7)));
    }
}
