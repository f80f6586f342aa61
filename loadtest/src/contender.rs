//! Contenders of a benchmark: a node and the baseline, started, measured and stopped in the same way.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::baseline::{BaselineProcess, BaselineSource};
use crate::node::NodeProcess;

/// Environment variable that replaces the machine's roots, for the node's TLS and the SDK's alike.
pub(crate) const TRUST_VARIABLE: &str = "SSL_CERT_FILE";
const DRAIN_DEADLINE: Duration = Duration::from_secs(60);

/// Kind of contender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// `lighterman run`.
    Node,
    /// `examples/baseline.rs`.
    Baseline,
}

/// Settings of a contender.
#[derive(Clone, Debug)]
pub struct ContenderSetup {
    /// Bootstrap server.
    pub servers: String,
    /// Topic, read from its beginning.
    pub topic: String,
    /// `AWS_ENDPOINT_URL_LAMBDA`.
    pub endpoint: String,
    /// PEM file of the roots to trust instead of the machine's, for an HTTPS endpoint of its own.
    pub trust_file: Option<PathBuf>,
    /// `BatchSize`.
    pub batch: u32,
    /// `MaximumBatchingWindowInSeconds` of the node; the baseline never waits.
    pub window_seconds: Option<u32>,
    /// True if the baseline commits every batch and waits for the commit, as the node does.
    pub baseline_commits_each: bool,
    /// `MinimumPollers` of the node.
    pub consumers: u32,
    /// Settings of the node, as environment variables.
    pub settings: Vec<(String, String)>,
}

/// A running contender. It reads nothing before [`StartedContender::begin`].
pub struct StartedContender {
    pid: u32,
    process: ContenderProcess,
    setup: ContenderSetup,
}

enum ContenderProcess {
    Node { node: NodeProcess, _data: TempDir },
    Baseline { baseline: BaselineProcess, group: String },
}

impl Contender {
    /// Returns the name used in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Baseline => "baseline",
        }
    }

    /// Starts the contender as a process. `run` makes the baseline's group unique.
    pub async fn start(self, setup: &ContenderSetup, run: &str) -> Result<StartedContender> {
        let (pid, process) = match self {
            Self::Node => {
                let data = tempfile::tempdir()?;
                let mut settings: Vec<(&str, &str)> =
                    setup.settings.iter().map(|(name, value)| (&**name, &**value)).collect();
                if let Some(roots) = &setup.trust_file {
                    settings.push((TRUST_VARIABLE, roots.to_str().context("a path in UTF-8")?));
                }
                let node = NodeProcess::start(data.path(), &setup.endpoint, &settings).await?;
                (node.pid(), ContenderProcess::Node { node, _data: data })
            }
            Self::Baseline => {
                let group = format!("baseline-{run}");
                let (servers, topic, endpoint) = (&setup.servers, &setup.topic, &setup.endpoint);
                let (batch, commits_each) = (setup.batch, setup.baseline_commits_each);
                let trust_file = setup.trust_file.as_deref();
                let reads = BaselineSource {
                    servers,
                    topic,
                    group: &group,
                    batch,
                    commits_each,
                    endpoint,
                    trust_file,
                };
                let baseline = BaselineProcess::start(&reads).await?;
                (baseline.pid(), ContenderProcess::Baseline { baseline, group })
            }
        };
        let pid = pid.with_context(|| format!("the {} has ended", self.name()))?;
        Ok(StartedContender { pid, process, setup: setup.clone() })
    }
}

impl StartedContender {
    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Starts consumption and returns the consumer group.
    pub async fn begin(&mut self) -> Result<String> {
        match &mut self.process {
            ContenderProcess::Node { node, .. } => {
                let setup = &self.setup;
                let mut more = json!({
                    "BatchSize": setup.batch,
                    "ProvisionedPollerConfig": {"MinimumPollers": setup.consumers, "MaximumPollers": 200},
                });
                if let Some(seconds) = setup.window_seconds {
                    more["MaximumBatchingWindowInSeconds"] = seconds.into();
                }
                node.create_mapping(&setup.servers, &setup.topic, more).await
            }
            ContenderProcess::Baseline { baseline, group } => {
                baseline.begin().await?;
                Ok(group.clone())
            }
        }
    }

    /// Stops the contender after it has finished its work, committed, and left its group.
    pub async fn end(self) -> Result<()> {
        match self.process {
            ContenderProcess::Node { node, _data } => {
                ensure!(node.terminate(DRAIN_DEADLINE).await? == Some(0), "the node drains and exits 0");
                Ok(())
            }
            ContenderProcess::Baseline { baseline, .. } => baseline.end().await,
        }
    }
}
