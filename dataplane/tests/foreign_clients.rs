//! Foreign clients as judges: of the embedded broker (kcat, confluent-kafka, kafkajs, Apache's Java client), and of the
//! control API (boto3, the AWS CLI). One that is not installed is skipped, unless `TEST_LIGHTERMAN_REQUIRE_CLIENTS` is set.

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
    let modules = std::env::var_os("TEST_LIGHTERMAN_NODE_PATH").map(PathBuf::from);
    let modules = modules.unwrap_or_else(|| target().join("clients/node/node_modules"));
    let Some(modules) = client("kafkajs", modules.join("kafkajs").is_dir().then_some(modules)) else {
        return;
    };
    let (_broker, servers) = broker();
    let variables = [("SERVERS", servers), ("NODE_PATH", modules.display().to_string())];
    let out = run(Path::new("node"), &[&here().join("tests/clients/broker/kafkajs.js")], &variables);
    assert!(out.contains("kafkajs: fine"), "{out}");
}

#[test]
fn the_java_client_accepts_the_embedded_broker() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boto3_and_the_aws_cli_drive_a_node_unchanged() {
    let Some(python) = python() else { return };
    let node = DrivenNode::start().await;
    let variables = node.variables.clone();
    let out = tokio::task::spawn_blocking(move || {
        run(&python, &[&here().join("tests/clients/control/aws.py")], &variables)
    });
    assert!(out.await.expect("runs").contains("aws clients: fine"));
    node.stop().await;
}
