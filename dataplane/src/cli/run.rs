//! `lighterman run`: one node.

use clap::Args;

use super::SettingsArgs;

/// Shown under `--help`.
pub const EXAMPLES: &str = "Examples:
  lighterman run
  lighterman run --config /etc/lighterman.toml
  LIGHTERMAN_CONTROL_BOOTSTRAP=kafka-1:9092,kafka-2:9092 lighterman run    # one of a fleet";

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}
