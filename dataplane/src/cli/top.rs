//! `lighterman top`: the live partition map.

use clap::Args;

use super::{OutputFormat, SettingsArgs};

/// Shown under `--help`.
pub const EXAMPLES: &str = "Examples:
  lighterman top
  lighterman top 14e0db71-5d35-4eb5-b481-8945cf9d10c2 --output json";

/// Arguments of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// UUID of a mapping [default: all]
    pub mapping: Option<uuid::Uuid>,
    /// How to print; json prints once
    #[arg(long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}
