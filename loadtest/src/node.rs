//! A Lighterman node as a process, controlled through its API.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lighterman::control::client::ApiClient;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command as AsyncCommand};

const KEY: (&str, &str) = ("LMANLOADTEST", "loadtest-secret");
const REGION: &str = "us-east-1";
const STARTS_MAX: u32 = 3;
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A running node. Dropping it kills the process.
pub struct NodeProcess {
    process: Child,
    api: ApiClient,
    listen: u16,
    metrics: u16,
}

/// Returns the `lighterman` binary next to this program, or `LIGHTERMAN_BIN`.
pub fn binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("LIGHTERMAN_BIN") {
        return Ok(given.into());
    }
    let here = std::env::current_exe()?;
    let beside =
        here.ancestors().skip(1).take(2).map(|folder| folder.join("lighterman")).find(|path| path.is_file());
    beside.context(
        "no `lighterman` beside this program: build it (cargo build -p lighterman), or set LIGHTERMAN_BIN",
    )
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl NodeProcess {
    /// Starts a node over `data` that invokes functions at `lambda`, and waits until its API answers.
    pub async fn start(data: &Path, lambda: &str, settings: &[(&str, &str)]) -> Result<Self> {
        Self::begin(data, lambda, settings, None).await
    }

    /// Starts a node whose standard error is appended to a file. It ignores SIGXFSZ, so that a write beyond the
    /// file size limit returns an error, like a write to a full disk.
    pub async fn start_logged(
        data: &Path,
        lambda: &str,
        settings: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self> {
        Self::begin(data, lambda, settings, Some(log)).await
    }

    async fn begin(data: &Path, lambda: &str, settings: &[(&str, &str)], log: Option<&Path>) -> Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            let mut command = AsyncCommand::new(binary()?);
            if log.is_some() {
                command = AsyncCommand::new("sh");
                let ignored = "trap '' XFSZ; exec \"$0\" \"$@\"";
                command.args(["-c", ignored]).arg(binary()?).stderr(Stdio::piped());
            }
            let mut node = Self::launch(command, data, lambda, settings)?;
            if let Some(log) = log {
                node.keep_what_it_says(log).await?;
            }
            match node.answers().await? {
                None => return Ok(node),
                // A port that was free may have been assigned to another connection since.
                Some(_) if tries < STARTS_MAX => {}
                Some(status) => bail!("the node has ended at once, with {status}"),
            }
        }
    }

    async fn keep_what_it_says(&mut self, log: &Path) -> Result<()> {
        let mut said = self.process.stderr.take().context("it is piped")?;
        let mut file = tokio::fs::OpenOptions::new().create(true).append(true).open(log).await?;
        // Through a pipe, since the file size limit must not apply to the log.
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut said, &mut file).await;
            let _ = file.flush().await;
        });
        Ok(())
    }

    fn launch(
        mut command: AsyncCommand,
        data: &Path,
        lambda: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self> {
        let (listen, metrics) = (free_port()?, free_port()?);
        command
            .arg("run")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LIGHTERMAN_LISTEN", format!("127.0.0.1:{listen}"))
            .env("LIGHTERMAN_METRICS_LISTEN", format!("127.0.0.1:{metrics}"))
            .env("LIGHTERMAN_DATA_DIR", data)
            .env("LIGHTERMAN_ROOT_ACCESS_KEY_ID", KEY.0)
            .env("LIGHTERMAN_ROOT_SECRET_ACCESS_KEY", KEY.1)
            .env("LIGHTERMAN_REGION", REGION)
            .env("LIGHTERMAN_KAFKA_SESSION_TIMEOUT", "10s")
            .env("AWS_ENDPOINT_URL_LAMBDA", lambda)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        for (name, value) in settings {
            command.env(name, value);
        }
        let process = command.spawn()?;
        let api = ApiClient::new(format!("http://127.0.0.1:{listen}"), REGION.to_owned(), KEY.0, KEY.1);
        Ok(Self { process, api, listen, metrics })
    }

    /// Waits until the API answers. Returns the exit status if the process ends first.
    async fn answers(&mut self) -> Result<Option<ExitStatus>> {
        let answers = async {
            while self.api.call("GET", "/lighterman/v1/nodes", None).await.is_err() {
                if let Some(status) = self.process.try_wait()? {
                    return Ok(Some(status));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(None)
        };
        tokio::time::timeout(START_DEADLINE, answers).await.context("the node's API does not answer")?
    }

    /// Returns the exit status if the process has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.try_wait()?)
    }

    /// Sends a signal, given by name with a leading dash.
    pub fn signal(&self, which: &str) -> Result<()> {
        let pid = self.process.id().context("the node has ended already")?;
        ensure!(Command::new("kill").args([which, &pid.to_string()]).status()?.success(), "kill {which}");
        Ok(())
    }

    /// Returns the process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Returns the API client.
    pub fn api(&self) -> &ApiClient {
        &self.api
    }

    /// Returns the value of counter or gauge `name` of `mapping` from the metrics endpoint; `None` if it does not
    /// exist.
    pub async fn metric(&self, name: &str, mapping: &str) -> Result<Option<f64>> {
        let text = scrape(self.metrics, START_DEADLINE).await?;
        let value = values(&text, name).find(|(line, _)| line.contains(mapping)).map(|(_, value)| value);
        Ok(value)
    }

    /// Returns the port of the metrics endpoint.
    pub fn metrics_port(&self) -> u16 {
        self.metrics
    }

    /// Creates a mapping with `more` in addition to the defaults. Returns its UUID, which is also its group unless
    /// `more` overrides it.
    pub async fn create_mapping(&self, servers: &str, topic: &str, more: Value) -> Result<String> {
        let mut body = json!({
            "FunctionName": "f", "Topics": [topic], "StartingPosition": "TRIM_HORIZON",
            "SelfManagedEventSource": {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": [servers]}},
            "SourceAccessConfigurations": [
                {"Type": "VPC_SUBNET", "URI": "subnet:s"}, {"Type": "VPC_SECURITY_GROUP", "URI": "security_group:g"}
            ],
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let shown = self.api.call("POST", "/2015-03-31/event-source-mappings", Some(&body)).await?;
        shown["UUID"].as_str().map(ToOwned::to_owned).context("no UUID")
    }

    /// Runs a command of the binary against this node, as an operator would.
    pub async fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = AsyncCommand::new(binary()?);
        command
            .args(arguments)
            .env_clear()
            .env("LIGHTERMAN_LISTEN", format!("127.0.0.1:{}", self.listen))
            .env("LIGHTERMAN_REGION", REGION)
            .env("AWS_ACCESS_KEY_ID", KEY.0)
            .env("AWS_SECRET_ACCESS_KEY", KEY.1)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let done = tokio::time::timeout(START_DEADLINE, command.output()).await;
        Ok(done.with_context(|| format!("{arguments:?} does not end"))??)
    }

    /// Kills the process with SIGKILL.
    pub async fn kill(mut self) -> Result<()> {
        self.process.kill().await?;
        Ok(())
    }

    /// Sends SIGTERM, waits for the drain, and returns the exit code.
    pub async fn terminate(mut self, within: Duration) -> Result<Option<i32>> {
        self.signal("-TERM")?;
        match tokio::time::timeout(within, self.process.wait()).await {
            Ok(status) => Ok(status?.code()),
            Err(_) => bail!("the node does not drain"),
        }
    }
}

/// Reads the metrics at `port` on loopback.
pub async fn scrape(port: u16, within: Duration) -> Result<String> {
    let read = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    tokio::time::timeout(within, read).await.context("the node's metrics do not answer")?
}

/// Returns every value of counter or gauge `name` in scraped text, with its line.
pub fn values<'t>(text: &'t str, name: &str) -> impl Iterator<Item = (&'t str, f64)> {
    let wanted = format!("{name}{{");
    let lines = text.lines().filter(move |line| line.starts_with(&wanted));
    lines.filter_map(|line| Some((line, line.rsplit(' ').next()?.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_the_whole_name() {
        let text = "# HELP lag x\nlag{mapping=\"a\"} 3\nlag_seconds{mapping=\"a\"} 9\nlag{mapping=\"b\"} 4.5\nlag{} x\n";
        assert_eq!(values(text, "lag").map(|(_, value)| value).collect::<Vec<_>>(), [3.0, 4.5]);
        assert_eq!(values(text, "lag_").count(), 0);
    }
}
