//! Apache Kafka as a process on loopback: one node in `KRaft` mode. [`crate::kafka_dist`] provides its jars.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::kafka_dist::jars;

const BOOT_DEADLINE: Duration = Duration::from_secs(90);
const STOP_DEADLINE: Duration = Duration::from_secs(40);
/// Number of log lines included in an error.
const LAST_WORDS: usize = 20;
const CLUSTER_ID: &str = "bGlnaHRlcm1hbi10ZXN0cw";

/// A running broker. Dropping it kills the process and removes its data.
pub struct RealKafka {
    folder: TempDir,
    libs: PathBuf,
    port: u16,
    process: Option<Child>,
}

/// Waits for exclusive use of a Kafka of `version`: on a small machine, two brokers and their nodes at once would
/// starve each other's heartbeats. Prints a line and returns `None` if Java or the jars are missing; this is an
/// error if `TEST_LIGHTERMAN_REQUIRE_KAFKA` is set.
pub async fn turn(version: &str) -> Result<Option<MutexGuard<'static, ()>>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    if let Err(missing) = jars(version) {
        let required = std::env::var_os("TEST_LIGHTERMAN_REQUIRE_KAFKA").is_some();
        ensure!(!required, "Kafka {version} is required: {missing}");
        println!("skipped: {missing}");
        return Ok(None);
    }
    Ok(Some(ONE_AT_A_TIME.lock().await))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl RealKafka {
    /// Starts `version` and waits until it listens.
    pub fn start(version: &str) -> Result<Self> {
        Self::start_with(version, &[])
    }

    /// Like [`RealKafka::start`], with `more` broker properties.
    pub fn start_with(version: &str, more: &[(&str, &str)]) -> Result<Self> {
        let libs = jars(version)?;
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let controller = free_port()?;
        let data = folder.path().join("data");
        let mut properties = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\ncontroller.listener.names=CONTROLLER\n\
             log.dirs={}\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=4\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=2\ngroup.initial.rebalance.delay.ms=0\n\
             group.min.session.timeout.ms=1000\nauto.create.topics.enable=false\n\
             log.cleaner.backoff.ms=300\n\
             group.consumer.min.session.timeout.ms=6000\ngroup.consumer.session.timeout.ms=6000\n\
             group.consumer.max.session.timeout.ms=6000\n\
             group.consumer.min.heartbeat.interval.ms=500\ngroup.consumer.heartbeat.interval.ms=2000\n",
            data.display()
        );
        for (name, value) in more {
            writeln!(properties, "{name}={value}")?;
        }
        fs::write(folder.path().join("server.properties"), properties)?;
        let mut kafka = Self { folder, libs, port, process: None };
        let formatted =
            kafka.java("kafka.tools.StorageTool", &["format", "-t", CLUSTER_ID, "-c"])?.status()?;
        ensure!(
            formatted.success(),
            "Kafka {version} cannot make its data, {formatted}: {}",
            kafka.last_words()?
        );
        kafka.boot()?;
        Ok(kafka)
    }

    /// Returns `127.0.0.1:port`.
    pub fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills the process and starts it again on the same port with the same data.
    pub fn restart(&mut self) -> Result<()> {
        self.end();
        self.boot()
    }

    /// Kills the process (SIGKILL); [`Self::boot`] starts it again.
    pub fn kill(&mut self) {
        self.end();
    }

    /// Stops the process in an orderly way (SIGTERM); [`Self::boot`] starts it again.
    pub fn stop(&mut self) -> Result<()> {
        self.signal("-TERM")?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.process.as_mut().context("it runs")?.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "Kafka does not stop: {}", self.last_words()?);
            std::thread::park_timeout(Duration::from_millis(50));
        }
        self.process = None;
        Ok(())
    }

    /// Freezes the process, whose connections stay open (SIGSTOP).
    pub fn freeze(&self) -> Result<()> {
        self.signal("-STOP")
    }

    /// Resumes the process; it first handles the requests received meanwhile (SIGCONT).
    pub fn thaw(&self) -> Result<()> {
        self.signal("-CONT")
    }

    fn signal(&self, which: &str) -> Result<()> {
        let pid = self.process.as_ref().context("it runs")?.id().to_string();
        ensure!(Command::new("kill").args([which, &pid]).status()?.success(), "kill {which}");
        Ok(())
    }

    fn java(&self, class: &str, args: &[&str]) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.folder.path().join("kafka.log"))?;
        let mut command = Command::new("java");
        command
            .args(["-Xmx512m", "-cp"])
            .arg(format!("{}/*", self.libs.display()))
            .arg(class)
            .args(args)
            .arg(self.folder.path().join("server.properties"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        Ok(command)
    }

    /// Starts a stopped broker on the same port with the same data, and waits until it listens.
    pub fn boot(&mut self) -> Result<()> {
        self.process = Some(self.java("kafka.Kafka", &[])?.spawn()?);
        let deadline = Instant::now() + BOOT_DEADLINE;
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        while TcpStream::connect(address).is_err() {
            let ended = self.process.as_mut().context("it has just started")?.try_wait()?;
            if let Some(status) = ended {
                bail!("Kafka has ended at once, {status}: {}", self.last_words()?);
            }
            if Instant::now() > deadline {
                bail!("Kafka does not listen within {BOOT_DEADLINE:?}: {}", self.last_words()?);
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Returns the end of the log, since the log is removed together with the folder.
    fn last_words(&self) -> Result<String> {
        let log = fs::read_to_string(self.folder.path().join("kafka.log"))?;
        let lines: Vec<&str> = log.lines().collect();
        Ok(lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n"))
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for RealKafka {
    fn drop(&mut self) {
        self.end();
    }
}
