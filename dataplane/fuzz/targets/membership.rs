//! `cargo fuzz run membership`
#![no_main]

#[path = "../subjects/membership.rs"]
mod membership;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    membership::run(bytes);
});
