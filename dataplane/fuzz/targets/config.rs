//! `cargo fuzz run config`
#![no_main]

#[path = "../subjects/config.rs"]
mod config;
#[path = "../subjects/shelf.rs"]
mod shelf;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    config::run(bytes);
});
