//! `lighterman keys`: API key pairs.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::run::with_settings;
use super::{OutputFormat, SettingsArgs, api};

/// Examples that `--help` prints.
pub const EXAMPLES: &str = "Examples:
  lighterman keys create
  lighterman keys list --output json
  lighterman keys delete AKIA…";

/// Arguments of `keys`.
#[derive(Clone, Debug, Args)]
pub struct KeysArgs {
    /// Command.
    #[command(subcommand)]
    pub action: KeysAction,
    /// Output format.
    #[arg(long, value_enum, global = true, default_value_t)]
    pub output: OutputFormat,
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Commands of `keys`.
#[derive(Clone, Debug, Subcommand)]
pub enum KeysAction {
    /// Create a key pair; its secret is shown once
    Create,
    /// List the access key ids
    List,
    /// Delete a key pair
    Delete {
        /// Access key id of the pair
        access_key_id: String,
    },
}

/// Runs `lighterman keys` against the node.
pub fn run(args: &KeysArgs) -> ExitCode {
    with_settings(&args.settings, |settings| async move {
        let client = api::client(&settings)?;
        match &args.action {
            KeysAction::Create => {
                let reply = client.call("POST", "/lighterman/v1/keys", None).await?;
                let rows = ["AccessKeyId", "SecretAccessKey"]
                    .map(|name| vec![name.to_owned(), api::cell(&reply, name)]);
                api::print(args.output, &reply, &rows);
            }
            KeysAction::List => {
                let reply = client.call("GET", "/lighterman/v1/keys", None).await?;
                let ids = reply["keys"].as_array().cloned().unwrap_or_default();
                let rows: Vec<_> = ids.iter().filter_map(|id| Some(vec![id.as_str()?.to_owned()])).collect();
                api::print(args.output, &reply, &rows);
            }
            KeysAction::Delete { access_key_id } => {
                client.call("DELETE", &format!("/lighterman/v1/keys/{access_key_id}"), None).await?;
            }
        }
        Ok(())
    })
}
