//! A node for foreign clients: the embedded broker, a function host with the sample function, and `lighterman run`.

#![allow(dead_code)] // each test file uses its part

mod listening;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use lighterman::local::function_host::command::FunctionCommand;
use lighterman::local::function_host::observer::LoggingObserver;
use lighterman::local::function_host::{FunctionHost, FunctionHostSettings, FunctionSpec};

use self::listening::{REGION, listening_node};

const LIMIT_SECONDS: &str = "150";
const KEY: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "LMANTEST"), ("AWS_SECRET_ACCESS_KEY", "a secret/with+signs")];

/// Returns the client. Prints one line and returns `None` if it is not installed.
pub(crate) fn client(name: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    if found.is_none() {
        let required = std::env::var_os("TEST_LIGHTERMAN_REQUIRE_CLIENTS").is_some();
        assert!(!required, "{name} is required: run .ci/install-clients");
        println!("skipped: {name} is not installed (.ci/install-clients brings it)");
    }
    found
}

/// Runs a client to its end, for at most `LIMIT_SECONDS`.
pub(crate) fn run(program: &Path, arguments: &[&Path], variables: &[(&str, String)]) -> String {
    let mut command = Command::new("timeout");
    command.arg(LIMIT_SECONDS).arg(program).args(arguments).stdin(Stdio::null());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let done = command.output().expect("timeout of coreutils runs");
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{}: {}\n{out}\n{error}", program.display(), done.status);
    out.into_owned()
}

/// Starts a broker that creates topics of one partition.
pub(crate) fn broker() -> (EmbeddedBroker, String) {
    let broker =
        EmbeddedBroker::start(BrokerSettings { auto_create_partitions: 1, ..BrokerSettings::default() });
    let broker = broker.expect("the embedded broker starts");
    let servers = broker.address().to_string();
    (broker, servers)
}

/// A running node with its broker and function host.
pub(crate) struct DrivenNode {
    _broker: EmbeddedBroker,
    host: FunctionHost,
    node: tokio::process::Child,
    _data: tempfile::TempDir,
    /// Environment of a client: `ENDPOINT`, `SERVERS`, region and key.
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl DrivenNode {
    /// Starts everything and waits until the API listens.
    pub(crate) async fn start() -> Self {
        let (broker, servers) = broker();
        let program = Path::new(env!("CARGO_BIN_EXE_lighterman"));
        let host = sample_host(program);
        let data = tempfile::tempdir().expect("folder");
        let (node, listen) = listening_node(data.path(), &host.endpoint_url(), (KEY[0].1, KEY[1].1)).await;
        let mut variables = vec![
            ("ENDPOINT", format!("http://{listen}")),
            ("SERVERS", servers),
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ];
        variables.extend(KEY.map(|(name, value)| (name, value.to_owned())));
        Self { _broker: broker, host, node, _data: data, variables }
    }

    /// Stops everything.
    pub(crate) async fn stop(mut self) {
        self.node.kill().await.expect("killed");
        self.host.stop().await;
    }
}

fn sample_host(program: &Path) -> FunctionHost {
    FunctionHost::start(FunctionHostSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        region: REGION.to_owned(),
        account_id: "000000000000".to_owned(),
        functions: vec![FunctionSpec {
            name: "sample".to_owned(),
            command: FunctionCommand::sample_of(program.to_path_buf()),
            timeout: Duration::from_secs(10),
            max_concurrency: 8,
            env: BTreeMap::new(),
            initialized_early: false,
        }],
        observer: Arc::new(LoggingObserver),
    })
    .expect("the function host starts")
}
