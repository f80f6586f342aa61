//! `lighterman check`: validation of the configuration.

use std::process::ExitCode;

use clap::Args;

use super::{EXIT_FINE, EXIT_USAGE, SettingsArgs, print_line, print_problem};

/// Examples that `--help` prints.
pub const EXAMPLES: &str = "Examples:
  lighterman check
  lighterman check --config /etc/lighterman.toml --log-level debug

Exit code 0: valid. 2: invalid, with the reason on standard error.";

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Prints the effective configuration, or its error.
pub fn run(args: &CheckArgs) -> ExitCode {
    match args.settings.load() {
        Ok(settings) => {
            print_line(&settings.effective().trim_end());
            ExitCode::from(EXIT_FINE)
        }
        Err(error) => {
            print_problem(&error);
            ExitCode::from(EXIT_USAGE)
        }
    }
}
