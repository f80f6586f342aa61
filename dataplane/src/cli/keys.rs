//! `lighterman keys`: API key pairs.

use clap::{Args, Subcommand};

use super::{OutputFormat, SettingsArgs};

/// Shown under `--help`.
pub const EXAMPLES: &str = "Examples:
  lighterman keys create
  lighterman keys list --output json
  lighterman keys delete AKIA…";

/// Arguments of `keys`.
#[derive(Clone, Debug, Args)]
pub struct KeysArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: KeysAction,
    /// How to print.
    #[arg(long, value_enum, global = true, default_value_t)]
    pub output: OutputFormat,
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// What to do with keys.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysAction {
    /// Make a key pair; its secret is shown once
    Create,
    /// Show the key ids
    List,
    /// Delete a key pair
    Delete {
        /// Its access key id
        access_key_id: String,
    },
}
