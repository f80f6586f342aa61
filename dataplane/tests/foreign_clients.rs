//! Foreign clients as a check of the embedded broker (kcat, confluent-kafka, kafkajs, Apache's Java client) and of
//! the control API (boto3, the AWS CLI). A client that is not installed is skipped, unless
//! `TEST_LIGHTERMAN_REQUIRE_CLIENTS` is set.

mod driven;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::driven::{DrivenNode, broker, client, run};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn target() -> PathBuf {
    here().join("../target")
}

fn node_modules() -> PathBuf {
    let modules = std::env::var_os("TEST_LIGHTERMAN_NODE_PATH").map(PathBuf::from);
    modules.unwrap_or_else(|| target().join("clients/node/node_modules"))
}

fn python() -> Option<PathBuf> {
    let python = std::env::var_os("TEST_LIGHTERMAN_PYTHON").map(PathBuf::from);
    let python = python.unwrap_or_else(|| target().join("clients/python/bin/python"));
    let imports = Command::new(&python)
        .args(["-c", "import boto3, awscli, confluent_kafka"])
        .stderr(Stdio::null())
        .status();
    client(
        "Python with boto3, awscli, confluent-kafka",
        imports.is_ok_and(|status| status.success()).then_some(python),
    )
}

#[test]
fn confluent_kafka_accepts_the_embedded_broker() {
    let Some(python) = python() else { return };
    let (_broker, servers) = broker();
    let out = run(&python, &[&here().join("tests/clients/broker/confluent.py")], &[("SERVERS", servers)]);
    assert!(out.contains("confluent-kafka: fine"), "{out}");
}

#[test]
fn kafkajs_accepts_the_embedded_broker() {
    let modules = node_modules();
    let Some(modules) = client("kafkajs", modules.join("kafkajs").is_dir().then_some(modules)) else {
        return;
    };
    let (_broker, servers) = broker();
    let variables = [("SERVERS", servers), ("NODE_PATH", modules.display().to_string())];
    let out = run(Path::new("node"), &[&here().join("tests/clients/broker/kafkajs.js")], &variables);
    assert!(out.contains("kafkajs: fine"), "{out}");
}

#[test]
fn java_client_accepts_the_embedded_broker() {
    let libs = target().join("kafka/4.2.1/libs");
    let Some(libs) = client("the Java client", libs.is_dir().then_some(libs)) else { return };
    let (_broker, servers) = broker();
    let classpath = format!("{}/*", libs.display());
    let program = here().join("tests/clients/broker/JavaClient.java");
    let out =
        run(Path::new("java"), &[Path::new("-cp"), Path::new(&classpath), &program], &[("SERVERS", servers)]);
    assert!(out.contains("java: fine"), "{out}");
}

#[test]
fn kcat_accepts_the_embedded_broker() {
    let found =
        ["/usr/bin/kcat", "/usr/local/bin/kcat"].map(PathBuf::from).into_iter().find(|path| path.is_file());
    let Some(kcat) = client("kcat", found) else { return };
    let (_broker, servers) = broker();
    let script = format!(
        "seq 1 300 | {kcat} -b {servers} -P -t kcat -z lz4 -H a=b && \
         {kcat} -b {servers} -C -t kcat -o beginning -e -q | sort -n | tail -1",
        kcat = kcat.display()
    );
    let out = run(Path::new("bash"), &[Path::new("-c"), Path::new(&script)], &[]);
    assert_eq!(out.trim(), "300");
}

/// Numbers of topics; librdkafka computes the memory for a list of topics from the size of the response.
const MANY_TOPICS: [usize; 3] = [1, 17, 500];

/// Runs a client on new brokers with increasing numbers of topics.
fn meets_many_topics(program: &Path, arguments: &[&Path], fine: &str) {
    for topics in MANY_TOPICS {
        let (_broker, servers) = broker();
        let modules = node_modules().display().to_string();
        let variables = [("SERVERS", servers), ("TOPICS", topics.to_string()), ("NODE_PATH", modules)];
        let out = run(program, arguments, &variables);
        assert!(out.contains(fine), "{topics} topics: {out}");
    }
}

#[test]
fn confluent_kafka_lists_and_uses_many_topics() {
    let Some(python) = python() else { return };
    meets_many_topics(&python, &[&here().join("tests/clients/broker/many_topics.py")], "many topics: fine");
}

#[test]
fn kafkajs_lists_and_uses_many_topics() {
    let modules = node_modules();
    let Some(_) = client("kafkajs", modules.join("kafkajs").is_dir().then_some(modules)) else { return };
    let program = here().join("tests/clients/broker/many_topics.js");
    meets_many_topics(Path::new("node"), &[&program], "many topics: fine");
}

#[test]
fn java_client_lists_and_uses_many_topics() {
    let libs = target().join("kafka/4.2.1/libs");
    let Some(libs) = client("the Java client", libs.is_dir().then_some(libs)) else { return };
    let (classpath, program) =
        (format!("{}/*", libs.display()), here().join("tests/clients/broker/ManyTopics.java"));
    let arguments = [Path::new("-cp"), Path::new(&classpath), &program];
    meets_many_topics(Path::new("java"), &arguments, "many topics: fine");
}

#[test]
fn franz_go_lists_and_uses_many_topics() {
    let franz = target().join("clients/go/franz");
    if !franz.is_file() {
        println!("skipped: franz-go is not built (.ci/install-clients builds it where Go is)");
        return;
    }
    meets_many_topics(&franz, &[], "franz-go: fine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_aws_clients_drive_a_node() {
    let Some(python) = python() else { return };
    let node = DrivenNode::start().await;
    let variables = node.variables.clone();
    let out = tokio::task::spawn_blocking(move || {
        run(&python, &[&here().join("tests/clients/control/aws.py")], &variables)
    });
    assert!(out.await.expect("runs").contains("aws clients: fine"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aws_clients_update_and_clear_members() {
    let Some(python) = python() else { return };
    let node = DrivenNode::start().await;
    let variables = node.variables.clone();
    let out = tokio::task::spawn_blocking(move || {
        run(&python, &[&here().join("tests/clients/control/members.py")], &variables)
    });
    assert!(out.await.expect("runs").contains("members: fine"));
    node.stop().await;
}
