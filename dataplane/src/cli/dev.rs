//! `lighterman dev`: broker, function host and node on one laptop.

mod console;
mod ports;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lighterman_proto::ids::MappingId;
use tokio::sync::watch;

use self::console::{ConsoleObserver, FunctionStart};
use super::run::{StopSignals, drain, with_settings};
use super::{EXIT_FAILED, SettingsArgs, print_line, print_problem};
use crate::app::node::{NodeListeners, RunningNode};
use crate::config::Settings;
use crate::local::broker::{BrokerSettings, EmbeddedBroker};
use crate::local::function_host::command::{FunctionCommand, InterpreterPaths};
use crate::local::function_host::observer::FunctionObserver;
use crate::local::function_host::{FunctionHost, FunctionHostSettings, FunctionSpec};
use crate::local::sample_records::{SampleError, SampleProducer};

/// Examples that `--help` prints.
pub const EXAMPLES: &str = "Examples:
  lighterman dev
  lighterman dev --function app.handler                    # handler() of app.py
  lighterman dev --function orders.app.handler             # of orders/app.py, imported from the current folder
  lighterman dev --kafka localhost:9092 --topic orders --rate 0
  lighterman dev --records 100000 --exit-when-drained      # for scripts";

/// Arguments of `dev`.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// Function to run: an executable bootstrap, app.handler of app.py, package.app.handler, or index.handler of a Node file;
    /// modules are imported from the current folder [default: a built-in sample]
    #[arg(long, value_name = "PATH")]
    pub function: Option<String>,
    /// Bootstrap server of a real cluster, instead of the embedded broker
    #[arg(long, value_name = "HOST:PORT")]
    pub kafka: Option<String>,
    /// Topic to read
    #[arg(long, default_value = "sample", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub topic: String,
    /// Partitions of the topic, if it is created
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub partitions: u32,
    /// Sample records per second, 0 for none
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub rate: u32,
    /// Total of sample records, produced as fast as they are accepted, instead of a rate
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub records: Option<u64>,
    /// Exit with 0 once all --records are delivered and committed
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
const TICK: Duration = Duration::from_secs(1);
/// Maximum time without progress: a script must not wait forever.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// Runs until Ctrl-C, or until the records are drained.
pub fn run(args: &DevArgs) -> ExitCode {
    let folder = match args.settings.data_dir {
        Some(_) => None,
        None => match tempdir() {
            Ok(folder) => Some(folder),
            Err(error) => {
                print_problem(&format!("no scratch folder: {error}"));
                return ExitCode::from(EXIT_FAILED);
            }
        },
    };
    let mut settings = args.settings.clone();
    if let Some(folder) = &folder {
        settings.data_dir = Some(folder.display().to_string());
    }
    settings.log_level.get_or_insert_with(|| "warn".to_owned());
    let code = with_settings(&settings, |settings| async move { dev(args, settings).await });
    if let Some(folder) = folder {
        let _ = std::fs::remove_dir_all(folder);
    }
    code
}

/// Creates the scratch folder, which is removed at the end.
fn tempdir() -> std::io::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("lighterman-dev-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

async fn dev(args: &DevArgs, settings: Settings) -> anyhow::Result<()> {
    let signals = StopSignals::listen()?;
    let listeners = ports::listen(&settings)?;
    let settings = settings.listening_on(listeners.api.local_addr()?, listeners.metrics.local_addr()?);
    let broker = match &args.kafka {
        None => Some(start_broker()?),
        Some(_) => None,
    };
    let servers = match (&args.kafka, &broker) {
        (Some(servers), _) => servers.clone(),
        (None, broker) => broker.as_ref().map(|broker| broker.address().to_string()).context("no broker")?,
    };
    let (observer, started) = ConsoleObserver::new();
    let host = host_function(args, &settings, Arc::new(observer))?;
    let setup = DevSetup { args, settings: &settings, servers: &servers, functions: host.endpoint_url() };
    let ended = setup.run(listeners, started, signals).await;
    // The function's processes are in their own process groups, which Ctrl-C does not reach.
    host.stop().await;
    ended
}

/// Parts that a node of `dev` needs, and that outlive it.
struct DevSetup<'a> {
    args: &'a DevArgs,
    settings: &'a Settings,
    servers: &'a str,
    functions: String,
}

/// Node with its mapping, and the producer of sample records.
struct StartedNode {
    producer: SampleProducer,
    node: RunningNode,
    id: MappingId,
}

impl DevSetup<'_> {
    async fn run(
        &self,
        listeners: NodeListeners,
        started: watch::Receiver<FunctionStart>,
        mut signals: StopSignals,
    ) -> anyhow::Result<()> {
        let up = tokio::select! {
            up = self.start(listeners, started) => up?,
            () = signals.next() => anyhow::bail!("stopped before everything ran"),
        };
        let StartedNode { mut producer, node, id } = up;
        introduce(self.args, self.settings, &node, self.servers, &self.functions);
        let mut count = ResolvedCount::default();
        let finished = tokio::select! {
            finished = flow(self.args, &mut producer, &node, id, &mut count) => finished?,
            () = signals.next() => false,
        };
        let mapping_status = node.dataplane().mapping_status(id);
        drain(node, &mut signals).await?;
        if let Some(mapping_status) = mapping_status {
            let resolved = count.go_on(mapping_status.resolved_total());
            print_line(&format!("drained: {resolved} records delivered and committed"));
            let exits = self.args.exit_when_drained;
            anyhow::ensure!(!exits || finished, "not all records were delivered and committed");
        }
        Ok(())
    }

    async fn start(
        &self,
        listeners: NodeListeners,
        started: watch::Receiver<FunctionStart>,
    ) -> anyhow::Result<StartedNode> {
        let Self { args, settings, servers, functions } = self;
        await_function(args, started).await?;
        let port = crate::invoker::local_port(settings, functions).await?;
        let producer = SampleProducer::connect(servers, &args.topic, args.partitions as i32).await?;
        let node = RunningNode::start_on(settings, listeners, port)?;
        let id = create_mapping(&node, servers, &args.topic).await?;
        Ok(StartedNode { producer, node, id })
    }
}

/// Waits until the function's first instance is ready or fails. It returns eventually, because the host kills an
/// instance whose initialization takes too long.
async fn await_function(args: &DevArgs, mut started: watch::Receiver<FunctionStart>) -> anyhow::Result<()> {
    let known = started.wait_for(|start| !matches!(start, FunctionStart::Pending)).await;
    let known = known.context("the function host ended")?.clone();
    let function = args.function.as_deref().unwrap_or("sample");
    if let FunctionStart::Failed(error) = known {
        anyhow::bail!("function `{function}` cannot start: {error}");
    }
    Ok(())
}

async fn create_mapping(node: &RunningNode, servers: &str, topic: &str) -> anyhow::Result<MappingId> {
    let request = serde_json::json!({
        "FunctionName": FUNCTION,
        "Topics": [topic],
        "StartingPosition": "TRIM_HORIZON",
        "SelfManagedEventSource": { "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": servers.split(',').collect::<Vec<_>>() } },
        "SourceAccessConfigurations": [
            { "Type": "VPC_SUBNET", "URI": "subnet:laptop" },
            { "Type": "VPC_SECURITY_GROUP", "URI": "security_group:laptop" },
        ],
    });
    let shown = node.controller().create(serde_json::from_value(request)?).await?;
    let id = shown["UUID"].as_str().and_then(|id| id.parse().ok()).context("the mapping has no UUID")?;
    Ok(MappingId(id))
}

fn introduce(args: &DevArgs, settings: &Settings, node: &RunningNode, servers: &str, functions: &str) {
    let function = args.function.as_deref().unwrap_or("built-in sample");
    let endpoint = node.endpoint_url();
    let mut lines = format!(
        "Kafka        {servers}   topic {}\nfunction     {FUNCTION} ({function}) behind {functions}\n\
         control API  {endpoint}\nmetrics      http://{}/metrics\n\ntry:\n",
        args.topic, settings.metrics_listen
    );
    if let Some((id, secret)) = &node.first_key {
        let _ = writeln!(
            lines,
            "  export AWS_ACCESS_KEY_ID={id} AWS_SECRET_ACCESS_KEY={secret}\n  \
             export AWS_REGION={region} AWS_DEFAULT_REGION={region}",
            region = settings.region
        );
    }
    let _ = write!(
        lines,
        "  aws lambda list-event-source-mappings --endpoint-url {endpoint}\n  \
         aws lambda create-event-source-mapping --endpoint-url {endpoint} --function-name {FUNCTION} \
         --topics another --starting-position TRIM_HORIZON \
         --self-managed-event-source '{{\"Endpoints\":{{\"KAFKA_BOOTSTRAP_SERVERS\":[\"{servers}\"]}}}}' \
         --source-access-configurations Type=VPC_SUBNET,URI=subnet:laptop Type=VPC_SECURITY_GROUP,URI=security_group:laptop\n"
    );
    print_line(&lines);
}

/// Writes records and prints progress. Returns true once all of `--records` are delivered and committed.
async fn flow(
    args: &DevArgs,
    producer: &mut SampleProducer,
    node: &RunningNode,
    id: MappingId,
    count: &mut ResolvedCount,
) -> anyhow::Result<bool> {
    let written = async {
        match args.records {
            Some(records) => producer.write(records).await?,
            None if args.rate > 0 => producer.write_steadily(args.rate).await?,
            None => {}
        }
        // Leaves the end of the run to `watch`.
        std::future::pending::<Result<(), SampleError>>().await
    };
    tokio::select! {
        failed = written => {
            failed?;
            Ok(false)
        }
        finished = watch(args, node, id, count) => finished,
    }
}

async fn watch(
    args: &DevArgs,
    node: &RunningNode,
    id: MappingId,
    count: &mut ResolvedCount,
) -> anyhow::Result<bool> {
    let mut beat = tokio::time::interval(TICK);
    let (mut before, mut unchanged) = (0, Duration::ZERO);
    loop {
        beat.tick().await;
        let Some(mapping_status) = node.dataplane().mapping_status(id) else { continue };
        let resolved = count.go_on(mapping_status.resolved_total());
        let shown = mapping_status.partitions();
        let lag = shown.values().map(|shown| shown.stats.lag()).sum::<Option<u64>>();
        let lag_text = lag.map_or_else(|| "unknown".to_owned(), |lag| lag.to_string());
        if resolved != before || unchanged.is_zero() {
            let per_second = resolved - before;
            let result = mapping_status.last_result();
            print_line(&format!(
                "delivered {resolved:>10}   {per_second:>8}/s   lag {lag_text:>8}   {result}"
            ));
        }
        unchanged = if resolved == before { unchanged + TICK } else { Duration::ZERO };
        before = resolved;
        let all = args.records.is_some_and(|records| resolved >= records);
        if args.exit_when_drained && all && lag == Some(0) {
            return Ok(true);
        }
        anyhow::ensure!(
            !args.exit_when_drained || unchanged < STUCK_AFTER,
            "nothing was delivered for {} s: {}",
            STUCK_AFTER.as_secs(),
            mapping_status.last_result()
        );
    }
}

/// Count of resolved records since the start. The board of a changed or resumed mapping counts from zero again.
#[derive(Default)]
struct ResolvedCount {
    earlier: u64,
    shown: u64,
}

impl ResolvedCount {
    /// Returns the total count when the current board shows `shown`.
    fn go_on(&mut self, shown: u64) -> u64 {
        if shown < self.shown {
            self.earlier += self.shown;
        }
        self.shown = shown;
        self.earlier + shown
    }
}

/// Starts the embedded broker, on Kafka's port if it is free.
fn start_broker() -> anyhow::Result<EmbeddedBroker> {
    let wanted = SocketAddr::from(([127, 0, 0, 1], KAFKA_PORT));
    let start = |listen| {
        EmbeddedBroker::start(BrokerSettings {
            listen,
            auto_create_partitions: 1,
            ..BrokerSettings::default()
        })
    };
    match start(wanted) {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let broker = start(SocketAddr::new(wanted.ip(), 0))?;
            ports::tell_moved("the embedded broker", wanted, broker.address());
            Ok(broker)
        }
        started => started.with_context(|| format!("the embedded broker cannot listen on {wanted}")),
    }
}

fn host_function(
    args: &DevArgs,
    settings: &Settings,
    observer: Arc<dyn FunctionObserver>,
) -> anyhow::Result<FunctionHost> {
    let command = match &args.function {
        None => FunctionCommand::sample()?,
        Some(text) => {
            let project = std::env::current_dir().context("the project's folder is not known")?;
            FunctionCommand::resolve(text, &project, &InterpreterPaths::default())?
        }
    };
    let function = FunctionSpec {
        name: FUNCTION.to_owned(),
        command,
        timeout: FUNCTION_TIMEOUT,
        max_concurrency: FUNCTION_CONCURRENCY,
        env: BTreeMap::new(),
        initialized_early: true,
    };
    Ok(FunctionHost::start(FunctionHostSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        region: settings.region.clone(),
        account_id: settings.account_id.clone(),
        functions: vec![function],
        observer,
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_continues_after_mapping_change() {
        let mut count = ResolvedCount::default();
        let shown = [0, 10, 10, 0, 5, 20, 3];
        assert_eq!(shown.map(|shown| count.go_on(shown)), [0, 10, 10, 10, 15, 30, 33]);
    }
}
