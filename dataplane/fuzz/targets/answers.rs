//! `cargo fuzz run answers`
#![no_main]

#[path = "../subjects/answers.rs"]
mod answers;
#[path = "../subjects/line.rs"]
mod line;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    answers::run(bytes);
});
