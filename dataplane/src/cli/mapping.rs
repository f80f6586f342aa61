//! `lighterman mapping`: event source mappings from the terminal.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use uuid::Uuid;

use super::run::with_settings;
use super::{OutputFormat, SettingsArgs, api};
use crate::control::client::ApiClient;

/// Examples that `--help` prints.
pub const EXAMPLES: &str = "Examples:
  lighterman mapping create --function fn --bootstrap localhost:9092 --topic orders --starting-position trim-horizon
  lighterman mapping list --output json
  lighterman mapping update 14e0db71-5d35-4eb5-b481-8945cf9d10c2 --batch-size 500 --window 2
  lighterman mapping update 14e0db71-5d35-4eb5-b481-8945cf9d10c2 --filter '{\"value\":{\"state\":[\"paid\"]}}'
  lighterman mapping pause 14e0db71-5d35-4eb5-b481-8945cf9d10c2
  lighterman mapping skip 14e0db71-5d35-4eb5-b481-8945cf9d10c2 3 1042 --reason INC-4711";

/// Arguments of `mapping`.
#[derive(Clone, Debug, Args)]
pub struct MappingArgs {
    /// Command.
    #[command(subcommand)]
    pub action: MappingAction,
    /// Output format.
    #[arg(long, value_enum, global = true, default_value_t)]
    pub output: OutputFormat,
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Commands of `mapping`.
#[derive(Clone, Debug, Subcommand)]
pub enum MappingAction {
    /// Create a mapping
    Create(CreateArgs),
    /// Show one mapping
    Get {
        /// UUID of the mapping
        uuid: Uuid,
    },
    /// List mappings
    List {
        /// Function whose mappings are listed [default: all]
        #[arg(long)]
        function: Option<String>,
    },
    /// Update a mapping
    Update(UpdateArgs),
    /// Delete a mapping; its committed offsets stay in Kafka
    Delete {
        /// UUID of the mapping
        uuid: Uuid,
    },
    /// Disable a mapping until it is resumed
    Pause {
        /// UUID of the mapping
        uuid: Uuid,
    },
    /// Enable a paused mapping
    Resume {
        /// UUID of the mapping
        uuid: Uuid,
    },
    /// Skip a failing record, or offsets that cannot be read, so that the partition continues after it
    Skip(SkipArgs),
}

/// Arguments of `mapping skip`.
#[derive(Clone, Debug, Args)]
pub struct SkipArgs {
    /// UUID of the mapping
    pub uuid: Uuid,
    /// Partition of the topic
    #[arg(value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: i32,
    /// Offset of the record, or first offset that cannot be read; `lighterman top` shows failing records
    #[arg(value_parser = clap::value_parser!(i64).range(0..))]
    pub offset: i64,
    /// Offset to continue at, if OFFSET is the first that cannot be read
    #[arg(long, value_name = "OFFSET", value_parser = clap::value_parser!(i64).range(1..))]
    pub end: Option<i64>,
    /// Reason; recorded in the audit
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

/// Arguments of `mapping create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// Function name, ARN or alias
    #[arg(long)]
    pub function: String,
    /// Bootstrap servers: HOST:PORT, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    pub bootstrap: Vec<String>,
    /// Topic to read
    #[arg(long)]
    pub topic: String,
    /// Starting position if the group has no committed offsets
    #[arg(long, value_enum, default_value_t = PositionChoice::TrimHorizon)]
    pub starting_position: PositionChoice,
    /// Time of the first record to read, in seconds since 1970
    #[arg(long, value_name = "SECONDS", required_if_eq("starting_position", "at-timestamp"))]
    pub starting_timestamp: Option<f64>,
    /// Consumer group [default: the mapping's UUID]
    #[arg(long)]
    pub group: Option<String>,
    /// Settings that an update may change.
    #[command(flatten)]
    pub tuning: TuningArgs,
    /// Create the mapping without enabling it
    #[arg(long)]
    pub disabled: bool,
}

/// Arguments of `mapping update`.
#[derive(Clone, Debug, Args)]
pub struct UpdateArgs {
    /// Its UUID
    pub uuid: Uuid,
    /// New function name, ARN or alias
    #[arg(long)]
    pub function: Option<String>,
    /// Settings to change.
    #[command(flatten)]
    pub tuning: TuningArgs,
    /// Enable or disable the mapping
    #[arg(long)]
    pub enabled: Option<bool>,
}

/// Batching, scaling and filters.
#[derive(Clone, Debug, Args)]
pub struct TuningArgs {
    /// Maximum records of a batch, 1–10000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch_size: Option<u32>,
    /// Maximum wait for a full batch, 0–300 seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=300))]
    pub window: Option<u32>,
    /// Minimum consumers
    #[arg(long, value_name = "N")]
    pub minimum_pollers: Option<u32>,
    /// Maximum consumers
    #[arg(long, value_name = "N")]
    pub maximum_pollers: Option<u32>,
    /// Deliver only records that match this pattern; if given several times, one of them must match. See `lighterman filter test`
    #[arg(long, value_name = "PATTERN")]
    pub filter: Vec<String>,
    /// Remove all filters, so that all records are delivered
    #[arg(long, conflicts_with = "filter")]
    pub no_filters: bool,
}

/// Starting position of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PositionChoice {
    /// Oldest record.
    TrimHorizon,
    /// Next record that is produced.
    Latest,
    /// First record from a given time on.
    AtTimestamp,
}

const PATH: &str = "/2015-03-31/event-source-mappings";

/// Runs `lighterman mapping` against the node.
pub fn run(args: &MappingArgs) -> ExitCode {
    with_settings(&args.settings, |settings| async move {
        let client = api::client(&settings)?;
        let reply = match &args.action {
            MappingAction::Create(create) => client.call("POST", PATH, Some(&create_body(create))).await?,
            MappingAction::Get { uuid } => client.call("GET", &format!("{PATH}/{uuid}"), None).await?,
            MappingAction::List { function } => list(&client, function.as_deref()).await?,
            MappingAction::Update(update) => {
                client.call("PUT", &format!("{PATH}/{}", update.uuid), Some(&update_body(update))).await?
            }
            MappingAction::Delete { uuid } => client.call("DELETE", &format!("{PATH}/{uuid}"), None).await?,
            MappingAction::Pause { uuid } => {
                client.call("POST", &format!("/lighterman/v1/mappings/{uuid}/pause"), None).await?
            }
            MappingAction::Resume { uuid } => {
                client.call("POST", &format!("/lighterman/v1/mappings/{uuid}/resume"), None).await?
            }
            MappingAction::Skip(skip) => return self::skip(&client, args.output, skip).await,
        };
        let mappings =
            reply["EventSourceMappings"].as_array().cloned().unwrap_or_else(|| vec![reply.clone()]);
        api::print(args.output, &reply, &rows(&mappings));
        Ok(())
    })
}

async fn skip(client: &ApiClient, output: OutputFormat, skip: &SkipArgs) -> anyhow::Result<()> {
    const COLUMNS: [&str; 3] = ["Partition", "Offset", "State"];
    let path = format!("/lighterman/v1/mappings/{}/partitions/{}/skip", skip.uuid, skip.partition);
    let mut body = json!({ "Offset": skip.offset, "Reason": skip.reason });
    if let Some(end) = skip.end {
        body["EndOffset"] = json!(end);
    }
    let reply = client.call("POST", &path, Some(&body)).await?;
    let rows =
        [COLUMNS.map(ToOwned::to_owned).to_vec(), COLUMNS.map(|name| api::cell(&reply, name)).to_vec()];
    api::print(output, &reply, &rows);
    Ok(())
}

async fn list(client: &ApiClient, function: Option<&str>) -> anyhow::Result<Value> {
    let mut all = Vec::new();
    let mut marker: Option<String> = None;
    loop {
        let mut path = format!("{PATH}?MaxItems=100");
        if let Some(function) = function {
            let function =
                percent_encoding::utf8_percent_encode(function, percent_encoding::NON_ALPHANUMERIC);
            path = format!("{path}&FunctionName={function}");
        }
        if let Some(marker) = &marker {
            path = format!("{path}&Marker={marker}");
        }
        let page = client.call("GET", &path, None).await?;
        all.extend(page["EventSourceMappings"].as_array().cloned().unwrap_or_default());
        marker = page["NextMarker"].as_str().map(ToOwned::to_owned);
        if marker.is_none() {
            return Ok(json!({ "EventSourceMappings": all }));
        }
    }
}

fn rows(mappings: &[Value]) -> Vec<Vec<String>> {
    const COLUMNS: [&str; 5] = ["UUID", "State", "Topics", "FunctionArn", "LastProcessingResult"];
    let head = COLUMNS.map(ToOwned::to_owned).to_vec();
    let row = |mapping: &Value| COLUMNS.map(|name| api::cell(mapping, name)).to_vec();
    std::iter::once(head).chain(mappings.iter().map(row)).collect()
}

fn create_body(create: &CreateArgs) -> Value {
    let position = match create.starting_position {
        PositionChoice::TrimHorizon => "TRIM_HORIZON",
        PositionChoice::Latest => "LATEST",
        PositionChoice::AtTimestamp => "AT_TIMESTAMP",
    };
    let mut body = json!({
        "FunctionName": create.function,
        "Topics": [create.topic],
        "StartingPosition": position,
        "Enabled": !create.disabled,
        "SelfManagedEventSource": { "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": create.bootstrap } },
        // AWS requires access configurations; these two mean no authentication. They are stored, not used.
        "SourceAccessConfigurations": [
            { "Type": "VPC_SUBNET", "URI": "subnet:none" },
            { "Type": "VPC_SECURITY_GROUP", "URI": "security_group:none" },
        ],
    });
    if let Some(timestamp) = create.starting_timestamp {
        body["StartingPositionTimestamp"] = json!(timestamp);
    }
    if let Some(group) = &create.group {
        body["SelfManagedKafkaEventSourceConfig"] = json!({ "ConsumerGroupId": group });
    }
    tune(&create.tuning, &mut body);
    body
}

fn update_body(update: &UpdateArgs) -> Value {
    let mut body = json!({});
    if let Some(function) = &update.function {
        body["FunctionName"] = json!(function);
    }
    if let Some(enabled) = update.enabled {
        body["Enabled"] = json!(enabled);
    }
    tune(&update.tuning, &mut body);
    body
}

fn tune(tuning: &TuningArgs, body: &mut Value) {
    if let Some(size) = tuning.batch_size {
        body["BatchSize"] = json!(size);
    }
    if let Some(window) = tuning.window {
        body["MaximumBatchingWindowInSeconds"] = json!(window);
    }
    if let Some(minimum) = tuning.minimum_pollers {
        body["ProvisionedPollerConfig"]["MinimumPollers"] = json!(minimum);
    }
    if let Some(maximum) = tuning.maximum_pollers {
        body["ProvisionedPollerConfig"]["MaximumPollers"] = json!(maximum);
    }
    if !tuning.filter.is_empty() || tuning.no_filters {
        let filters: Vec<Value> = tuning.filter.iter().map(|pattern| json!({ "Pattern": pattern })).collect();
        body["FilterCriteria"] = json!({ "Filters": filters });
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    enum PositionArgument {
        Mapping(MappingArgs),
        Audit(crate::cli::audit::AuditArgs),
        Keys(crate::cli::keys::KeysArgs),
        Dev(crate::cli::dev::DevArgs),
        Run(crate::cli::run::RunArgs),
        Top(crate::cli::top::TopArgs),
        Filter(crate::cli::filter::FilterArgs),
    }

    #[test]
    fn command_arguments_are_valid_and_examples_parse() {
        PositionArgument::command().debug_assert();
        for examples in [
            EXAMPLES,
            super::super::keys::EXAMPLES,
            super::super::dev::EXAMPLES,
            super::super::top::EXAMPLES,
            super::super::audit::EXAMPLES,
            super::super::filter::EXAMPLES,
        ] {
            for line in examples.lines().skip(1).take_while(|line| !line.is_empty()) {
                let line = line.split('#').next().unwrap_or(line);
                let parsed = PositionArgument::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {}", parsed.expect_err("wrong"));
            }
        }
    }
}
