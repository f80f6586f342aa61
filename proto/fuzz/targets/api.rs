//! `cargo fuzz run api`
#![no_main]

#[path = "../subjects/api.rs"]
mod api;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    api::run(bytes);
});
