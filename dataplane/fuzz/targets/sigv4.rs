//! `cargo fuzz run sigv4`
#![no_main]

#[path = "../subjects/sigv4.rs"]
mod sigv4;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sigv4::run(bytes);
});
