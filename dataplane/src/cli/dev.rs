//! `lighterman dev`: everything on this laptop.

use clap::Args;

use super::SettingsArgs;

/// Shown under `--help`.
pub const EXAMPLES: &str = "Examples:
  lighterman dev
  lighterman dev --function app.handler                    # handler() of app.py
  lighterman dev --kafka localhost:9092 --topic orders --rate 0
  lighterman dev --records 100000 --exit-when-drained      # for scripts";

/// Arguments of `dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// An executable bootstrap, app.handler of app.py, or index.handler of a Node file [default: a built-in sample]
    #[arg(long, value_name = "PATH")]
    pub function: Option<String>,
    /// A real broker instead of the embedded one
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Topic to read
    #[arg(long, default_value = "sample", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub topic: String,
    /// Partitions of the topic, when it is made
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub partitions: u32,
    /// Sample records a second, 0 for none
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub rate: u32,
    /// Sample records to make, as fast as they are taken, instead of a rate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub records: Option<u64>,
    /// Exit 0 when all --records are delivered and committed
    #[arg(long, requires = "records")]
    pub exit_when_drained: bool,
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}
