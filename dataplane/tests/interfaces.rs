//! Public interfaces, compared byte for byte with the text files in `tests/interfaces`: command line and
//! configuration.

#[path = "interfaces/command_line.rs"]
mod command_line;
#[path = "interfaces/snapshot.rs"]
mod snapshot;

use self::snapshot::compare;

#[test]
fn command_line_and_configuration_are_unchanged() {
    compare(&[("help.txt", command_line::help()), ("configuration.txt", command_line::configuration())]);
}
