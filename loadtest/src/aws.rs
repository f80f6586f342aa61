//! SQS, SNS and S3 on loopback: moto's server replaces AWS, and boto3 reads the delivered messages.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};

/// Account that owns all resources of the server.
pub const ACCOUNT: &str = "123456789012";
/// Region of the server.
pub const REGION: &str = "us-east-1";
const START_DEADLINE: Duration = Duration::from_secs(60);
const CALL_DEADLINE: Duration = Duration::from_secs(90);

/// A moto server. Dropping it kills the process and discards its data.
pub struct AwsStandIn {
    python: PathBuf,
    endpoint: String,
    _server: Child,
}

/// Returns a Python that has moto, boto3 and confluent-kafka, if there is one. Its absence is an error if
/// `TEST_LIGHTERMAN_REQUIRE_CLIENTS` is set.
pub async fn python() -> Result<Option<PathBuf>> {
    let given = std::env::var_os("TEST_LIGHTERMAN_PYTHON").map(PathBuf::from);
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/clients/python/bin/python");
    let python = given.unwrap_or(installed);
    let imports = Command::new(&python)
        .args(["-c", "import boto3, confluent_kafka, moto.server"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    if imports.is_ok_and(|status| status.success()) {
        return Ok(Some(python));
    }
    let required = std::env::var_os("TEST_LIGHTERMAN_REQUIRE_CLIENTS").is_some();
    ensure!(
        !required,
        "Python with moto's server, boto3 and confluent-kafka is required: run .ci/install-clients"
    );
    Ok(None)
}

impl AwsStandIn {
    /// Starts the server under `python` and waits until it listens.
    pub async fn start(python: PathBuf) -> Result<Self> {
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let mut server = Command::new(&python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let listens = async {
            while TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_err() {
                if let Some(status) = server.try_wait()? {
                    bail!("moto's server ended: {status}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        tokio::time::timeout(START_DEADLINE, listens).await.context("moto's server does not listen")??;
        Ok(Self { python, endpoint: format!("http://{address}"), _server: server })
    }

    /// Returns the environment variables that point a node at this server.
    pub fn settings(&self) -> [(&str, &str); 3] {
        ["AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_S3"]
            .map(|name| (name, self.endpoint.as_str()))
    }

    /// Calls a function of `tests/clients/destinations.py`.
    pub async fn call<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/destinations.py");
        let mut command = Command::new(&self.python);
        command.arg(script).args(arguments).env("ENDPOINT", &self.endpoint).stdin(Stdio::null());
        command.envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]).kill_on_drop(true);
        let done = tokio::time::timeout(CALL_DEADLINE, command.output()).await;
        let done = done.with_context(|| format!("no answer to {arguments:?}"))??;
        let error = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "{arguments:?}: {error}");
        serde_json::from_slice(&done.stdout).with_context(|| format!("{arguments:?}"))
    }
}
