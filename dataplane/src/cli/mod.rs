//! Command line: arguments and exit codes. Each command is in the module of its name.

mod api;
pub mod audit;
pub mod check;
pub mod dev;
pub mod filter;
pub mod keys;
pub mod mapping;
mod output;
pub mod run;
pub mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

pub use output::{OutputFormat, print_line, print_problem};

use crate::config::{ConfigError, Settings};
use crate::local::function_host::{command, sample};

/// Success.
pub const EXIT_FINE: u8 = 0;
/// Failure at run time.
pub const EXIT_FAILED: u8 = 1;
/// Wrong usage or configuration.
pub const EXIT_USAGE: u8 = 2;

/// Self-hosted event source mapping: delivers Kafka records to AWS Lambda functions, in order, at least once.
#[derive(Debug, Parser)]
#[command(name = "lighterman", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// Command.
    #[command(subcommand)]
    pub command: CliCommand,
}

const EXAMPLES: &str = "Examples:
  lighterman dev
  lighterman run --config lighterman.toml
  lighterman check --config lighterman.toml
  LIGHTERMAN_MEMORY_BUDGET=512MiB lighterman check

Every key of the configuration file has an environment variable: LIGHTERMAN_ and its path in capitals.";

/// Commands of this binary.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Validate the configuration and print the effective settings, with secrets hidden
    #[command(after_help = check::EXAMPLES)]
    Check(check::CheckArgs),
    /// Run a node, a broker and a function on this machine, with nothing to install
    #[command(after_help = dev::EXAMPLES)]
    Dev(dev::DevArgs),
    /// Run one node
    #[command(after_help = run::EXAMPLES)]
    Run(run::RunArgs),
    /// Manage the API key pairs of a running node
    #[command(after_help = keys::EXAMPLES)]
    Keys(keys::KeysArgs),
    /// Manage the event source mappings of a running node, without the AWS CLI
    #[command(after_help = mapping::EXAMPLES)]
    Mapping(mapping::MappingArgs),
    /// Show the outcome of every record of a mapping, and verify it against the committed offsets
    #[command(after_help = audit::EXAMPLES)]
    Audit(audit::AuditArgs),
    /// Test filter patterns on sample records, without a node
    #[command(after_help = filter::EXAMPLES)]
    Filter(filter::FilterArgs),
    /// Show the partitions of a running node live
    #[command(after_help = top::EXAMPLES)]
    Top(top::TopArgs),
}

/// Configuration flags; each overrides environment and file.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct SettingsArgs {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "LIGHTERMAN_CONFIG")]
    pub config: Option<PathBuf>,
    /// Control API address [default: 127.0.0.1:9010]
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Metrics and health address [default: 127.0.0.1:9011]
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_listen: Option<String>,
    /// Folder of the embedded store [default: ./lighterman-data]
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: Option<String>,
    /// AWS region in ARNs [default: `AWS_REGION`, or us-east-1]
    #[arg(long)]
    pub region: Option<String>,
    /// Memory for fetch buffers and payloads together: 512MiB, or a percentage of the machine's memory [default: 25%]
    #[arg(long, value_name = "SIZE")]
    pub memory_budget: Option<String>,
    /// Log format: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Log level: error, warn, info, debug, trace, or tracing directives
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl SettingsArgs {
    /// Loads the settings from file, environment and these flags.
    pub fn load(&self) -> Result<Settings, ConfigError> {
        Settings::load(self.config.as_deref(), &self.flags())
    }

    fn flags(&self) -> Vec<(&'static str, String)> {
        let given = [
            ("listen", &self.listen),
            ("metrics_listen", &self.metrics_listen),
            ("data_dir", &self.data_dir),
            ("region", &self.region),
            ("memory_budget", &self.memory_budget),
            ("log.format", &self.log_format),
            ("log.level", &self.log_level),
        ];
        given.into_iter().filter_map(|(path, value)| Some((path, value.clone()?))).collect()
    }
}

/// Runs the command in the arguments. Returns the exit code.
pub fn main() -> ExitCode {
    // Checked before parsing, because the sample starts with each cold instance and is not for users.
    if std::env::args_os().nth(1).is_some_and(|first| first == command::SAMPLE_SUBCOMMAND) {
        return run_sample();
    }
    // clap prints usage errors itself and exits with 2, which is also `EXIT_USAGE`.
    match Cli::parse().command {
        CliCommand::Check(args) => check::run(&args),
        CliCommand::Dev(args) => dev::run(&args),
        CliCommand::Run(args) => run::run(&args),
        CliCommand::Keys(args) => keys::run(&args),
        CliCommand::Mapping(args) => mapping::run(&args),
        CliCommand::Audit(args) => audit::run(&args),
        CliCommand::Filter(args) => filter::run(&args),
        CliCommand::Top(args) => top::run(&args),
    }
}

fn run_sample() -> ExitCode {
    match sample::run() {
        Ok(()) => ExitCode::from(EXIT_FINE),
        Err(error) => {
            print_problem(&error);
            ExitCode::from(EXIT_FAILED)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_valid() {
        Cli::command().debug_assert();
    }
}
