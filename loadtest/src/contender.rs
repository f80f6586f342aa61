//! Who is measured: a node or the baseline, started, measured and ended alike.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::time::Duration;
use tempfile::TempDir;

use crate::baseline::{BaselineProcess, BaselineSource};
use crate::node::NodeProcess;

const DRAIN_DEADLINE: Duration = Duration::from_secs(60);

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// `lighterman run`.
    Node,
    /// `examples/baseline.rs`.
    Baseline,
}

/// How it shall run.
#[derive(Clone, Debug)]
pub struct ContenderSetup {
    /// Bootstrap server.
    pub servers: String,
    /// Topic, read from its beginning.
    pub topic: String,
    /// `AWS_ENDPOINT_URL_LAMBDA`.
    pub endpoint: String,
    /// `BatchSize`.
    pub batch: u32,
    /// `MaximumBatchingWindowInSeconds`, for the node; the baseline never waits.
    pub window_seconds: Option<u32>,
    /// The baseline commits every batch, and waits for it, as the node does.
    pub baseline_commits_each: bool,
    /// `MinimumPollers`, for the node.
    pub consumers: u32,
    /// Settings of the node's, as its environment has them.
    pub settings: Vec<(String, String)>,
}

/// It runs, and has not read anything before [`StartedContender::begin`].
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
    /// As tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Baseline => "baseline",
        }
    }

    /// Starts it, as a process of its own. `run` makes the baseline's group unique.
    pub async fn start(self, setup: &ContenderSetup, run: &str) -> Result<StartedContender> {
        let (pid, process) = match self {
            Self::Node => {
                let data = tempfile::tempdir()?;
                let settings: Vec<(&str, &str)> =
                    setup.settings.iter().map(|(name, value)| (&**name, &**value)).collect();
                let node = NodeProcess::start(data.path(), &setup.endpoint, &settings).await?;
                (node.pid(), ContenderProcess::Node { node, _data: data })
            }
            Self::Baseline => {
                let group = format!("baseline-{run}");
                let (servers, topic, endpoint) = (&setup.servers, &setup.topic, &setup.endpoint);
                let (batch, commits_each) = (setup.batch, setup.baseline_commits_each);
                let reads = BaselineSource { servers, topic, group: &group, batch, commits_each, endpoint };
                let baseline = BaselineProcess::start(&reads).await?;
                (baseline.pid(), ContenderProcess::Baseline { baseline, group })
            }
        };
        let pid = pid.with_context(|| format!("the {} has ended", self.name()))?;
        Ok(StartedContender { pid, process, setup: setup.clone() })
    }
}

impl StartedContender {
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it read; its consumer group.
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

    /// Lets it finish what it does, commit, and leave its group.
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
