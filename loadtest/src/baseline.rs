//! The hand-written loop of `examples/baseline.rs` as a process. It is an example so that only it depends on its
//! Kafka client, a C library.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::contender::TRUST_VARIABLE;

const READY_DEADLINE: Duration = Duration::from_secs(20);
const END_DEADLINE: Duration = Duration::from_secs(30);
const BUILD: &str = "cargo build --release -p loadtest --example baseline";

/// A running loop; dropping it kills the process.
pub struct BaselineProcess {
    process: Child,
    input: ChildStdin,
}

/// Source and destination of the loop.
pub struct BaselineSource<'r> {
    /// Bootstrap server.
    pub servers: &'r str,
    /// Topic.
    pub topic: &'r str,
    /// Consumer group.
    pub group: &'r str,
    /// Maximum number of records in a batch.
    pub batch: u32,
    /// True if it commits every batch and waits for the commit.
    pub commits_each: bool,
    /// `AWS_ENDPOINT_URL_LAMBDA`.
    pub endpoint: &'r str,
    /// `SSL_CERT_FILE`: PEM file of the roots to trust instead of the machine's.
    pub trust_file: Option<&'r Path>,
}

/// Returns the path of `examples/baseline` next to this program, or next to its folder, as for tests.
fn binary() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let places = here.ancestors().skip(1).take(2).map(|folder| folder.join("examples/baseline"));
    places
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("no `examples/baseline` beside this program: build it ({BUILD})"))
}

impl BaselineProcess {
    /// Starts the process and waits until its clients are set up. It reads nothing before [`Self::begin`].
    pub async fn start(reads: &BaselineSource<'_>) -> Result<Self> {
        let mut process = Command::new(binary()?)
            .args(["--servers", reads.servers, "--topic", reads.topic, "--group", reads.group])
            .args(["--batch", &reads.batch.to_string()])
            .args(reads.commits_each.then_some("--commit-each-batch"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("AWS_ENDPOINT_URL_LAMBDA", reads.endpoint)
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .envs(reads.trust_file.map(|roots| (TRUST_VARIABLE, roots)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let (input, output) = input.zip(output).context("the baseline has no pipes")?;
        let mut lines = BufReader::new(output).lines();
        let first = tokio::time::timeout(READY_DEADLINE, lines.next_line()).await;
        let first = first.context("the baseline does not get ready")??;
        ensure!(first.as_deref() == Some("ready"), "the baseline says {first:?} instead of `ready`");
        tokio::spawn(pass_on(lines));
        Ok(Self { process, input })
    }

    /// Returns the process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Starts consumption: the process joins its group and reads.
    pub async fn begin(&mut self) -> Result<()> {
        self.input.write_all(b"go\n").await?;
        Ok(self.input.flush().await?)
    }

    /// Ends the process after it has committed and left its group.
    pub async fn end(self) -> Result<()> {
        let Self { mut process, input } = self;
        drop(input);
        match tokio::time::timeout(END_DEADLINE, process.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(std::process::ExitStatus::success) => Ok(()),
            Ok(status) => bail!("the baseline has failed: {status:?}"),
            Err(_) => bail!("the baseline does not end"),
        }
    }
}

/// Copies the process's output, which consists of problems only, to standard output.
async fn pass_on(mut lines: Lines<BufReader<ChildStdout>>) {
    while let Ok(Some(line)) = lines.next_line().await {
        println!("baseline: {line}");
    }
}
