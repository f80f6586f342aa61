//! Mutants: single-line faults of production code, enabled one at a time. The simulator must catch each.

use std::cell::Cell;

/// Names of all mutants, by which their places in the code are found.
pub const ALL: &[&str] = &[
    "frontier-skips-a-gap",
    "drain-does-not-wait",
    "acknowledgement-not-awaited",
    "window-not-counted",
    "drain-commit-not-awaited",
    "fenced-commit-acknowledged",
    "late-answer-not-matched",
    "fetch-not-matched",
    "unknown-is-success",
    "bisecting-loses-a-half",
    "named-record-counts-as-good",
    "retries-one-too-few",
    "resolved-ahead-forgotten",
    "leader-epoch-forgotten",
    "overwritten-is-believed",
    "regrowing-starves-others",
    "next-offset-counts-records",
    "control-records-delivered",
    "aborted-delivered",
    "abort-marker-not-seen",
    "retry-reorders",
    "batch-over-its-limit",
    "window-too-long",
    "failed-items-ignored",
    "lost-reply-is-not-sent",
    "gateway-error-is-not-run",
    "late-arrival-not-expected",
    "slot-over-the-limit",
    "budget-leak",
    "budget-without-limit",
    "floor-ignored",
    "late-commit-retry-rewinds",
    "rewound-commit-stays",
    "two-commits-in-flight",
    "lost-commit-tried-again",
    "everybody-activates",
    "no-self-fence",
    "late-heartbeat-answer",
    "rejoins-over-running-invocations",
    "leaves-over-running-invocations",
    "revoked-is-let-go-at-once",
    "lease-counts-from-the-reply",
    "barrier-not-minded",
    "lease-not-checked",
    "no-margin",
    "moves-are-not-withheld",
    "generation-not-compared",
    "in-flight-forgotten",
    "snapshot-without-keys",
    "truncation-not-gone-back-for",
    "filtered-tail-not-committed",
    "dropped-counts-as-arrived",
    "beginning-of-an-earlier-generation",
    "beginning-committed-twice",
    "seal-takes-in-what-came-later",
    "grown-too-old-in-an-offer",
];

thread_local! {
    static ON: Cell<&'static str> = const { Cell::new("") };
}

/// Returns true if the mutant `name` is enabled on this thread.
#[inline]
pub fn is_on(name: &str) -> bool {
    ON.with(|on| on.get() == name)
}

/// Enables one mutant on this thread and disables all others; `""` disables all.
pub fn switch_on(name: &'static str) {
    ON.with(|on| on.set(name));
}
