//! Terminal output. A closed pipe (`| head`) is no failure.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use clap::ValueEnum;

/// Output format of tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Text for operators.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Prints a line to standard output.
pub fn print_line(line: &dyn Display) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints an error to standard error.
pub fn print_problem(problem: &dyn Display) {
    let mut stderr = std::io::stderr().lock();
    let _ = if stderr.is_terminal() {
        writeln!(stderr, "\x1b[31merror:\x1b[0m {problem}")
    } else {
        writeln!(stderr, "error: {problem}")
    };
}
