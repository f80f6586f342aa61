//! `cargo fuzz run commit_metadata`
#![no_main]

#[path = "../subjects/commit_metadata.rs"]
mod commit_metadata;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    commit_metadata::run(bytes);
});
