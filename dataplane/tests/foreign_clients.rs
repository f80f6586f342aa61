//! Foreign clients as judges: of the embedded broker (kcat, confluent-kafka, kafkajs, Apache's Java client), and of the
//! control API (boto3, the AWS CLI). One that is not installed is skipped, unless `TEST_LIGHTERMAN_REQUIRE_CLIENTS` is set.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lighterman::local::broker::{Broker, BrokerSettings};
use lighterman::local::function_host::command::FunctionCommand;
use lighterman::local::function_host::{FunctionHost, FunctionHostSettings, FunctionSpec};

const LIMIT_SECONDS: &str = "150";

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn target() -> PathBuf {
    here().join("../target")
}

/// The client, or `None` after one line that says it is skipped.
fn client(name: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    if found.is_none() {
        let required = std::env::var_os("TEST_LIGHTERMAN_REQUIRE_CLIENTS").is_some();
        assert!(!required, "{name} is required: run .ci/install-clients");
        println!("skipped: {name} is not installed (.ci/install-clients brings it)");
    }
    found
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

/// Runs a client to its end, at most `LIMIT_SECONDS`.
fn run(program: &Path, arguments: &[&Path], variables: &[(&str, String)]) -> String {
    let mut command = Command::new("timeout");
    command.arg(LIMIT_SECONDS).arg(program).args(arguments).stdin(Stdio::null());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let done = command.output().expect("timeout of coreutils runs");
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{}: {}\n{out}\n{error}", program.display(), done.status);
    out.into_owned()
}

fn broker() -> (Broker, String) {
    let broker = Broker::start(BrokerSettings { auto_create_partitions: 1, ..BrokerSettings::default() });
    let broker = broker.expect("the embedded broker starts");
    let servers = broker.address().to_string();
    (broker, servers)
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
    let (_broker, servers) = broker();
    let program = Path::new(env!("CARGO_BIN_EXE_lighterman"));
    let host = FunctionHost::start(FunctionHostSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        region: "eu-west-1".to_owned(),
        account_id: "000000000000".to_owned(),
        functions: vec![FunctionSpec {
            name: "sample".to_owned(),
            command: FunctionCommand::sample_of(program.to_path_buf()),
            timeout: Duration::from_secs(10),
            max_concurrency: 8,
            env: BTreeMap::new(),
        }],
    })
    .expect("the function host starts");
    let data = tempfile::tempdir().expect("folder");
    let free =
        || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
    let (listen, metrics) = (free(), free());
    let key = [("AWS_ACCESS_KEY_ID", "LMANTEST"), ("AWS_SECRET_ACCESS_KEY", "a secret/with+signs")];
    let mut node = tokio::process::Command::new(program)
        .arg("run")
        .env_clear()
        .env("LIGHTERMAN_LISTEN", listen.to_string())
        .env("LIGHTERMAN_METRICS_LISTEN", metrics.to_string())
        .env("LIGHTERMAN_DATA_DIR", data.path())
        .env("LIGHTERMAN_REGION", "eu-west-1")
        .env("LIGHTERMAN_ROOT_ACCESS_KEY_ID", key[0].1)
        .env("LIGHTERMAN_ROOT_SECRET_ACCESS_KEY", key[1].1)
        .env("AWS_ENDPOINT_URL_LAMBDA", host.endpoint_url())
        .envs(key)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the node starts");
    while std::net::TcpStream::connect(listen).is_err() {
        assert!(node.try_wait().expect("status").is_none(), "the node ended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let variables = [
        ("ENDPOINT", format!("http://{listen}")),
        ("SERVERS", servers),
        ("AWS_DEFAULT_REGION", "eu-west-1".to_owned()),
        (key[0].0, key[0].1.to_owned()),
        (key[1].0, key[1].1.to_owned()),
    ];
    let out = tokio::task::spawn_blocking(move || {
        run(&python, &[&here().join("tests/clients/control/aws.py")], &variables)
    });
    assert!(out.await.expect("runs").contains("aws clients: fine"));
    node.kill().await.expect("killed");
    host.stop().await;
}
