//! The command line: what people type, and the exit code they get.

use std::process::ExitCode;

use crate::local::function_host::{command, sample};

/// Runs what the arguments say. 0 fine, 1 failed while running, 2 wrong usage or configuration.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|first| first == command::SAMPLE_SUBCOMMAND) {
        return ExitCode::from(u8::from(sample::run().is_err()));
    }
    ExitCode::from(2)
}
