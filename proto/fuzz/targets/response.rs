//! `cargo fuzz run response`
#![no_main]

#[path = "../subjects/response.rs"]
mod response;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    response::run(bytes);
});
