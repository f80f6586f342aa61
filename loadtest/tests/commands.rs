//! Commands of an operator for failing records, against a running node on the embedded broker.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use loadtest::function::{FakeLambda, PoisonRecords};
use loadtest::node::NodeProcess;
use loadtest::produce::{Compression, TestProducer};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const RECORDS: i64 = 10;
const POISON: i64 = 4;
const REASON: &str = "INC-4711: the order has no customer";

/// Output and exit code of a command.
struct CommandOutput {
    code: Option<i32>,
    out: String,
    problem: String,
}

async fn say(node: &NodeProcess, arguments: &[&str]) -> Result<CommandOutput> {
    let output = node.command(arguments).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(CommandOutput { code: output.status.code(), out: text(&output.stdout), problem: text(&output.stderr) })
}

/// Repeats a command until it prints `what`.
async fn until_said(node: &NodeProcess, arguments: &[&str], what: &str) -> Result<CommandOutput> {
    let mut last = String::new();
    let said = async {
        loop {
            let said = say(node, arguments).await?;
            if said.out.contains(what) {
                return anyhow::Ok(said);
            }
            last = said.out + &said.problem;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let said = tokio::time::timeout(LIMIT, said).await;
    said.with_context(|| format!("{arguments:?} never says {what:?}"))?
}

/// Removes the line of the skipped record from a node's audit log.
fn cut_a_hole(data: &Path, group: &str) -> Result<()> {
    let path = data.join("audit").join(format!("{group}.log"));
    let text = std::fs::read_to_string(&path)?;
    let left: Vec<&str> = text.lines().filter(|line| !line.ends_with(" skipped")).collect();
    ensure!(left.len() + 1 == text.lines().count(), "one line: {text}");
    std::fs::write(path, left.join("\n"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn skip_unblocks_and_audit_detects_gap() -> Result<()> {
    let broker = EmbeddedBroker::start(BrokerSettings::default())?;
    let servers = broker.address().to_string();
    let mut producer = TestProducer::connect(&servers).await?;
    producer.create_topic("orders", 1).await?;
    producer.write("orders", 1, RECORDS as usize, 10, Compression::None).await?;
    let (lambda, data) = (FakeLambda::start().await?, tempfile::tempdir()?);
    lambda.set_poison(PoisonRecords { records: BTreeSet::from([(0, POISON)]), names: false });
    let node = NodeProcess::start(data.path(), &lambda.endpoint_url(), &[]).await?;
    let group = node.create_mapping(&servers, "orders", json!({"BatchSize": 1})).await?;

    let blocked = until_said(&node, &["top", &group], &format!("  {POISON}  ")).await?;
    ensure!(blocked.code == Some(0) && blocked.out.contains("FAILING"), "{}", blocked.out);
    // The last commits may still be unacknowledged when the record fails.
    let verified = "partition 0: verified, every offset from 0 to 4 has ended";
    let audit = until_said(&node, &["audit", &group], verified).await?;
    ensure!(audit.code == Some(0), "{}{}", audit.out, audit.problem);

    let skip = |offset: &'static str| ["mapping", "skip", group.as_str(), "0", offset, "--reason", REASON];
    let wrong = say(&node, &skip("7")).await?;
    ensure!(
        wrong.code == Some(1) && wrong.problem.contains("not among those that fail"),
        "{}",
        wrong.problem
    );
    let without = say(&node, &["mapping", "skip", &group, "0", "4"]).await?;
    ensure!(without.code == Some(2) && without.problem.contains("--reason"), "{}", without.problem);
    let right = say(&node, &skip("4")).await?;
    // An attempt may be in flight; the record is then skipped when that attempt has failed.
    let is_told = ["Skipped", "AfterThisAttempt"].iter().any(|state| right.out.contains(state));
    ensure!(right.code == Some(0) && is_told, "{}{}", right.out, right.problem);

    producer.await_committed(&group, "orders", &BTreeMap::from([(0, RECORDS)]), LIMIT).await?;
    let verified = "from 0 to 10 has ended: 9 delivered, 1 skipped";
    let audit = until_said(&node, &["audit", &group], verified).await?;
    ensure!(audit.code == Some(0) && audit.out.contains(&format!("4: {REASON}")), "{}", audit.out);
    ensure!(node.terminate(LIMIT).await? == Some(0), "drains and exits 0");

    cut_a_hole(data.path(), &group)?;
    let node = NodeProcess::start(data.path(), &lambda.endpoint_url(), &[]).await?;
    let found = "partition 0: offset 4 is committed without an outcome (4..5 of 10)";
    let hole = until_said(&node, &["audit", &group], found).await?;
    ensure!(hole.code == Some(1) && hole.problem.contains(found), "{:?}: {}", hole.code, hole.problem);
    let json = say(&node, &["audit", &group, "--output", "json"]).await?;
    let shown: Value = serde_json::from_str(&json.out)?;
    ensure!(json.code == Some(1) && shown["partitions"][0]["missing"] == json!([4, 5]), "{shown}");
    Ok(())
}
