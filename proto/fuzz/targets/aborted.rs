//! `cargo fuzz run aborted`
#![no_main]

#[path = "../subjects/aborted.rs"]
mod aborted;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    aborted::run(bytes);
});
