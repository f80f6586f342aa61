//! `cargo fuzz run frame`
#![no_main]

#[path = "../subjects/frame.rs"]
mod frame;
#[path = "../subjects/line.rs"]
mod line;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    frame::run(bytes);
});
