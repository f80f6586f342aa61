//! `cargo fuzz run store`
#![no_main]

use std::panic;
use std::sync::Once;

#[path = "../subjects/shelf.rs"]
mod shelf;
#[path = "../subjects/store.rs"]
mod store;

static QUIET: Once = Once::new();

/// Excludes redb's panics from the fuzzer's hook, which would otherwise abort before the store catches them.
fn leave_redb_alone() {
    let fuzzer = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|location| location.file().contains("/redb-")) {
            fuzzer(panic);
        }
    }));
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(leave_redb_alone);
    store::run(bytes);
});
