//! `lighterman dev`: everything on this laptop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lighterman_proto::event::EventSource;
use lighterman_proto::ids::MappingId;
use lighterman_scaler::policy::Bounds;

use super::{EXIT_FAILED, EXIT_FINE, EXIT_USAGE, SettingsArgs, print_line, print_problem};
use crate::app::Dataplane;
use crate::config::Settings;
use crate::consumer::member::floor::MappingRun;
use crate::invoker::sdk::SdkPort;
use crate::kafka::offsets::At;
use crate::kafka::transport::BrokerAddress;
use crate::local::broker::{Broker, BrokerSettings};
use crate::local::function_host::command::{FunctionCommand, Interpreters};
use crate::local::function_host::{FunctionHost, FunctionHostSettings, FunctionSpec};
use crate::local::sample_records::SampleProducer;

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

const KAFKA_PORT: u16 = 9092;
const FUNCTION: &str = "sample";
const FUNCTION_TIMEOUT: Duration = Duration::from_secs(30);
const FUNCTION_CONCURRENCY: u32 = 16;

/// Runs the laptop until Ctrl-C, or until the records are drained.
pub fn run(args: &DevArgs) -> ExitCode {
    let settings = match args.settings.load() {
        Ok(settings) => settings,
        Err(error) => {
            print_problem(&error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match actix_rt::System::new().block_on(dev(args, &settings)) {
        Ok(()) => ExitCode::from(EXIT_FINE),
        Err(error) => {
            print_problem(&format!("{error:#}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

async fn dev(args: &DevArgs, settings: &Settings) -> anyhow::Result<()> {
    crate::telemetry::install(&settings.log)?;
    let host = host_function(args, settings)?;
    let broker = match &args.kafka {
        None => Some(start_broker()?),
        Some(_) => None,
    };
    let servers = match (&args.kafka, &broker) {
        (Some(servers), _) => servers.clone(),
        (None, broker) => broker.as_ref().map(|broker| broker.address().to_string()).context("no broker")?,
    };
    let port = SdkPort::local(&host.endpoint_url(), &settings.region);
    let dataplane = Dataplane::start(settings, Arc::new(port))?;
    let mut producer = SampleProducer::connect(&servers, &args.topic, args.partitions as i32).await?;
    let id = MappingId(uuid::Uuid::new_v4());
    dataplane.run(MappingRun {
        id,
        topic: Arc::from(args.topic.as_str()),
        group: id.to_string(),
        function: Arc::from(FUNCTION),
        bootstrap: vec![BrokerAddress::parse(&servers).map_err(anyhow::Error::msg)?],
        source: EventSource::SelfManaged,
        batch_records_max: 100,
        window: Duration::from_millis(500),
        start: At::Earliest,
        bounds: Bounds { minimum: 1, maximum: 16 },
    });
    if let Some(records) = args.records {
        producer.write(records).await?;
    }
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Some(board) = dataplane.board(id) {
            let lag: Vec<_> = board.partitions().values().map(|shown| shown.gauge.lag()).collect();
            print_line(&format!("{} resolved {} lag {lag:?}", board.last_result(), board.resolved_total()));
        }
    }
    dataplane.drain().await;
    host.stop().await;
    Ok(())
}

/// The embedded broker, on Kafka's port when it is free.
fn start_broker() -> anyhow::Result<Broker> {
    let wanted = SocketAddr::from(([127, 0, 0, 1], KAFKA_PORT));
    let settings = BrokerSettings { listen: wanted, auto_create_partitions: 1, ..BrokerSettings::default() };
    match Broker::start(settings.clone()) {
        Ok(broker) => Ok(broker),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let broker = Broker::start(BrokerSettings { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..settings })?;
            print_line(&format!("port {KAFKA_PORT} is taken; the embedded broker uses {}", broker.address().port()));
            Ok(broker)
        }
        Err(error) => Err(error).context(format!("the embedded broker cannot listen on {wanted}")),
    }
}

fn host_function(args: &DevArgs, settings: &Settings) -> anyhow::Result<FunctionHost> {
    let command = match &args.function {
        None => FunctionCommand::sample()?,
        Some(text) => FunctionCommand::resolve(text, &Interpreters::default())?,
    };
    let function = FunctionSpec {
        name: FUNCTION.to_owned(),
        command,
        timeout: FUNCTION_TIMEOUT,
        max_concurrency: FUNCTION_CONCURRENCY,
        env: BTreeMap::new(),
    };
    Ok(FunctionHost::start(FunctionHostSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        region: settings.region.clone(),
        account_id: settings.account_id.clone(),
        functions: vec![function],
    })?)
}
