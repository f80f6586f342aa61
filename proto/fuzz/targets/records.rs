//! `cargo fuzz run records`
#![no_main]

#[path = "../subjects/records.rs"]
mod records;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    records::run(bytes);
});
