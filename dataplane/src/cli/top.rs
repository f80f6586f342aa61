//! `lighterman top`: the live partition map.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::run::{StopSignals, with_settings};
use super::{OutputFormat, SettingsArgs, api, print_line};
use crate::control::client::ApiClient;

/// Examples that `--help` prints.
pub const EXAMPLES: &str = "Examples:
  lighterman top
  lighterman top 14e0db71-5d35-4eb5-b481-8945cf9d10c2 --output json";

/// Arguments of `top`.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// UUID of a mapping [default: all]
    pub mapping: Option<uuid::Uuid>,
    /// Output format; json prints once
    #[arg(long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

const REFRESH: Duration = Duration::from_secs(1);

/// Shows the map, repeatedly on a terminal, once elsewhere.
pub fn run(args: &TopArgs) -> ExitCode {
    let live = args.output == OutputFormat::Table && std::io::stdout().is_terminal();
    with_settings(&args.settings, |settings| async move {
        let client = api::client(&settings)?;
        let mut signals = StopSignals::listen()?;
        loop {
            let reply = partition_map(&client, args.mapping).await?;
            if live {
                print_line(&"\x1b[2J\x1b[H");
            }
            api::print(args.output, &reply, &rows(&reply));
            if !live {
                return Ok(());
            }
            tokio::select! {
                () = signals.next() => return Ok(()),
                () = tokio::time::sleep(REFRESH) => {}
            }
        }
    })
}

async fn partition_map(client: &ApiClient, only: Option<uuid::Uuid>) -> anyhow::Result<Value> {
    let ids = match only {
        Some(id) => vec![id.to_string()],
        None => {
            let reply = client.call("GET", "/2015-03-31/event-source-mappings", None).await?;
            let mappings = reply["EventSourceMappings"].as_array().cloned().unwrap_or_default();
            mappings.iter().map(|mapping| api::cell(mapping, "UUID")).collect()
        }
    };
    let mut map = serde_json::Map::new();
    for id in ids {
        let reply = client.call("GET", &format!("/lighterman/v1/mappings/{id}/partitions"), None).await?;
        map.insert(id, reply["partitions"].clone());
    }
    Ok(Value::Object(map))
}

fn rows(map: &Value) -> Vec<Vec<String>> {
    const COLUMNS: [(&str, &str); 9] = [
        ("PARTITION", "partition"),
        ("CONSUMER", "consumer"),
        ("COMMITTED", "committed"),
        ("LAG", "lag"),
        ("IN FLIGHT", "inFlight"),
        ("OLDEST MS", "oldestAgeMs"),
        ("FAILING", "failing"),
        ("ATTEMPT", "attempt"),
        ("LAST ERROR", "lastError"),
    ];
    let mut rows = vec![
        std::iter::once("MAPPING").chain(COLUMNS.map(|(head, _)| head)).map(ToOwned::to_owned).collect(),
    ];
    for (id, partitions) in map.as_object().into_iter().flatten() {
        for partition in partitions.as_array().into_iter().flatten() {
            let cells = COLUMNS.map(|(_, name)| match name {
                "failing" => api::cell(&partition["failing"], "offset"),
                name => api::cell(partition, name),
            });
            rows.push(std::iter::once(id.clone()).chain(cells).collect());
        }
    }
    rows
}
