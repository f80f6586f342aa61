//! The `lighterman` binary: parse, run, exit code.

fn main() {}
