//! `cargo fuzz run reply`
#![no_main]

#[path = "../subjects/line.rs"]
mod line;
#[path = "../subjects/reply.rs"]
mod reply;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    reply::run(bytes);
});
