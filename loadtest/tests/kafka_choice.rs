//! `loadtest SCENARIO --kafka …` as an operator runs it: with an existing broker, a version to start, and invalid
//! values of either. Without Java or the jars the first two are skipped, unless `TEST_LIGHTERMAN_REQUIRE_KAFKA` is
//! set.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka_protocol::messages::MetadataRequest;
use lighterman::kafka::connection::versions;
use loadtest::figures::RunFigures;
use loadtest::kafka::{self, RealKafka};
use loadtest::node;
use loadtest::produce::{Compression, TestProducer};

const VERSION: &str = "4.2.1";
/// About 2 s at the scenario's rate.
const SCALE: &str = "0.07";
const RECORDS: u64 = 4_200;
/// Time within which an error must be reported.
const SOON: Duration = Duration::from_secs(15);
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `loadtest` with these arguments. Returns its output and duration.
async fn loadtest(words: &[&str], path: Option<&Path>) -> Result<(Output, Duration)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    // With `CARGO`, which `cargo run` sets, it would build the node.
    command.args(words).env_remove("CARGO").env("LIGHTERMAN_BIN", node::binary()?).stdin(Stdio::null());
    command.env("RUST_BACKTRACE", "0");
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let begin = Instant::now();
    let mut command = tokio::process::Command::from(command);
    let output = tokio::time::timeout(LIMIT, command.kill_on_drop(true).output()).await;
    Ok((output.with_context(|| format!("{words:?} does not end"))??, begin.elapsed()))
}

/// Runs a short scenario on `kafka`. Returns the report, its figures, and the output.
async fn steady_on(kafka: &str) -> Result<(String, RunFigures, String)> {
    let out = tempfile::tempdir()?;
    let folder = out.path().to_str().context("a path")?;
    let words = ["steady", "--kafka", kafka, "--scale", SCALE, "--out", folder, "--quiet"];
    let (output, _) = loadtest(&words, None).await?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(output.status.code() == Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let page = fs::read_to_string(out.path().join("steady.html"))?;
    Ok((page, serde_json::from_slice(&fs::read(out.path().join("steady.json"))?)?, said))
}

/// Asserts that the report contains the measurements on `kafka`.
fn assert_measured((page, run, said): &(String, RunFigures, String), kafka: &str) -> Result<()> {
    ensure!(run.is_clean() && run.scenario == "steady" && run.kafka == kafka, "{run:?}");
    ensure!(run.records == run.delivered && run.records >= RECORDS, "{run:?}");
    ensure!(run.samples.len() >= 2 && run.resident_mib_max > 1.0 && run.records_per_second > 1.0, "{run:?}");
    ensure!(0.0 < run.latency.p50 && run.latency.p50 <= run.latency.p99, "{:?}", run.latency);
    let p99 = format!("{:.2}", run.latency.p99);
    for shown in ["Clean: ", &format!("Kafka: {kafka}"), &run.records.to_string(), &p99, "<polyline"] {
        ensure!(page.contains(shown), "{shown}: {page}");
    }
    for told in ["clean: nothing is missing", "steady.html", "steady.json", &p99] {
        ensure!(said.contains(told), "{told}: {said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_leaves_existing_broker_unchanged() -> Result<()> {
    let Some(_turn) = kafka::turn(VERSION).await? else { return Ok(()) };
    let kafka = RealKafka::start(VERSION)?;
    let servers = kafka.servers();
    let mut producer = TestProducer::connect(&servers).await?;
    producer.create_topic("mine", 1).await?;
    producer.write("mine", 1, 10, 10, Compression::None).await?;

    assert_measured(&steady_on(&servers).await?, &servers)?;

    ensure!(producer.log_ends("mine", 1).await?.get(&0) == Some(&10), "records of another topic remain");
    let more = producer.write("mine", 1, 5, 10, Compression::None).await?;
    ensure!(more[&0].len() == 5, "the broker accepts records: {more:?}");
    let topics = topics(&mut producer).await?;
    ensure!(topics.contains("mine") && !topics.iter().any(|topic| topic.starts_with("load-")), "{topics:?}");
    Ok(())
}

async fn topics(producer: &mut TestProducer) -> Result<BTreeSet<String>> {
    let all = |_| MetadataRequest::default().with_topics(None);
    let (reply, _) = producer.connection().call(versions(4, 9), SOON, all).await?;
    Ok(reply.topics.iter().filter_map(|topic| Some(topic.name.as_ref()?.to_string())).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_starts_and_stops_given_version() -> Result<()> {
    let Some(_turn) = kafka::turn(VERSION).await? else { return Ok(()) };
    assert_measured(&steady_on(VERSION).await?, VERSION)
}

/// Asserts that the run ends soon, with this exit code and a helpful message.
async fn is_refused(kafka: &str, code: i32, why: &str) -> Result<()> {
    let out = tempfile::tempdir()?;
    let folder = out.path().to_str().context("a path")?;
    let (output, took) = loadtest(&["steady", "--kafka", kafka, "--out", folder], None).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{kafka}: {:?}: {said}", output.status);
    ensure!(said.contains(why), "{kafka}: {said}");
    ensure!(took < SOON, "{kafka}: {took:?}");
    ensure!(fs::read_dir(out.path())?.next().is_none(), "{kafka}: a report of nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_kafka_argument_is_rejected_first() -> Result<()> {
    for (kafka, why) in [
        ("nonsense", "`nonsense` is neither `embedded`, nor a version (4.2.1), nor host:port"),
        ("127.0.0.1", "neither"),
        ("../4.2.1", "neither"),
        ("127.0.0.1:99999", "`127.0.0.1:99999` has no valid port"),
        (":9092", "`:9092` has no host"),
    ] {
        is_refused(kafka, 2, why).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreachable_or_silent_broker_fails_soon() -> Result<()> {
    let silent = TcpListener::bind(("127.0.0.1", 0))?;
    let address = silent.local_addr()?.to_string();
    // The error names the connection or the first request, depending on which one times out.
    is_refused(&address, 1, &format!("broker {address} ")).await?;
    drop(silent);
    is_refused(&address, 1, &format!("broker {address} cannot be reached: Connection refused")).await
}

/// Java is required first, then Maven; each error is a single line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_tool_error_names_its_fix() -> Result<()> {
    let path = tempfile::tempdir()?;
    // A version that cannot be installed by chance.
    for words in [&["steady", "--kafka", "0.0.1"][..], &["--kafka", "0.0.1"], &["chaos", "--kafka", "0.0.1"]]
    {
        let (output, _) = loadtest(words, Some(path.path())).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{words:?}: {:?}: {said}", output.status);
        ensure!(said.contains("Kafka needs Java") && said.contains("install a JDK"), "{words:?}: {said}");
    }
    let java = path.path().join("java");
    fs::write(&java, "#!/bin/sh\n")?;
    fs::set_permissions(&java, fs::Permissions::from_mode(0o755))?;
    let (output, _) = loadtest(&["steady", "--kafka", "0.0.1"], Some(path.path())).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("install Maven"), "{:?}: {said}", output.status);
    Ok(())
}
