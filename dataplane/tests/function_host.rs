//! The function host with AWS's own client and real runtimes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::{BehaviorVersion, Credentials, Region, retry::RetryConfig};
use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{LogType, ThrottleReason};
use lighterman::local::function_host::command::{FunctionCommand, InterpreterPaths};
use lighterman::local::function_host::observer::{FunctionObserver, HostedFunctionError, LoggingObserver};
use lighterman::local::function_host::{FunctionHost, FunctionHostError, FunctionHostSettings, FunctionSpec};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

const LONG: Duration = Duration::from_mins(1);

fn functions_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/functions")
}

fn spec(command: FunctionCommand, timeout: Duration, max_concurrency: u32) -> FunctionSpec {
    FunctionSpec {
        name: "fn".into(),
        command,
        timeout,
        max_concurrency,
        env: BTreeMap::new(),
        initialized_early: false,
    }
}

fn host(spec: FunctionSpec) -> FunctionHost {
    FunctionHost::start(settings(vec![spec])).expect("the host starts")
}

fn settings(functions: Vec<FunctionSpec>) -> FunctionHostSettings {
    FunctionHostSettings {
        listen: "127.0.0.1:0".parse().expect("address"),
        region: "us-east-1".into(),
        account_id: "000000000000".into(),
        functions,
        observer: Arc::new(LoggingObserver),
    }
}

fn client(host: &FunctionHost) -> Client {
    let config = aws_sdk_lambda::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .endpoint_url(host.endpoint_url())
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

async fn invoke(client: &Client, event: &Value) -> InvokeOutput {
    let payload = Blob::new(event.to_string());
    client.invoke().function_name("fn").payload(payload).send().await.expect("an answer")
}

fn body(output: &InvokeOutput) -> Value {
    serde_json::from_slice(output.payload().expect("payload").as_ref()).expect("json")
}

/// Skips a test with a message if tools are missing, unless the environment requires them.
fn skipped(test: &str, why: &str) {
    assert!(std::env::var_os("TEST_LIGHTERMAN_REQUIRE_CLIENTS").is_none(), "{test}: {why}");
    println!("skipped {test}: {why}");
}

fn runs(program: &str, args: &[&str]) -> bool {
    let output = std::process::Command::new(program).args(args).output();
    output.is_ok_and(|output| output.status.success())
}

fn bootstrap(test: &str) -> Option<FunctionCommand> {
    if !runs("python3", &["-c", ""]) {
        skipped(test, "no python3");
        return None;
    }
    Some(
        FunctionCommand::resolve("bootstrap", &functions_folder(), &InterpreterPaths::default())
            .expect("bootstrap"),
    )
}

fn sample() -> FunctionCommand {
    FunctionCommand::sample_of(env!("CARGO_BIN_EXE_lighterman").into())
}

/// Sends one raw request and returns the whole response as text.
async fn raw(host: &FunctionHost, head: &str, body: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(host.address()).await.expect("connect");
    let length = body.len();
    let head = format!("{head} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await.expect("send");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("answer");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn ord_1_sample_rejects_offsets_out_of_order() {
    let host = host(spec(sample(), LONG, 1));
    let client = client(&host);
    let event = json!({ "records": { "t-0": [{ "offset": 1 }, { "offset": 2 }] } });
    let fine = invoke(&client, &event).await;
    assert_eq!((fine.status_code(), fine.function_error()), (200, None));
    assert_eq!(fine.executed_version(), Some("$LATEST"));
    assert_eq!(body(&fine), Value::Null);
    let wrong = invoke(&client, &json!({ "records": { "t-0": [{ "offset": 2 }, { "offset": 1 }] } })).await;
    assert_eq!(wrong.function_error(), Some("Unhandled"));
    assert_eq!(body(&wrong)["errorType"], "Sample.OutOfOrder");
    let large = json!({ "records": {}, "pad": "x".repeat(6 * 1024 * 1024 - 40) });
    assert_eq!(invoke(&client, &large).await.function_error(), None);
    host.stop().await;
}

#[tokio::test]
async fn bootstrap_is_replaced_only_after_exit() {
    let Some(command) = bootstrap("bootstrap_is_replaced_only_after_exit") else { return };
    let host = host(spec(command, LONG, 1));
    let client = client(&host);
    let context = aws_smithy_types::base64::encode(r#"{"custom":{"a":1}}"#);
    let payload = Blob::new(r#"{"do":"nothing"}"#);
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:fn:live";
    let request = client.invoke().function_name(arn).client_context(&context).log_type(LogType::Tail);
    let first = request.payload(payload).send().await.expect("an answer");
    assert_eq!(body(&first)["context"], r#"{"custom":{"a":1}}"#, "decoded, as at AWS");
    let log = aws_smithy_types::base64::decode(first.log_result().expect("log")).expect("base64");
    assert!(String::from_utf8_lossy(&log).contains("doing nothing"));
    let broken =
        client.invoke().function_name("fn").client_context("{").send().await.expect_err("not base64");
    assert!(matches!(broken.into_service_error(), InvokeError::InvalidRequestContentException(_)));
    let pid = body(&first)["pid"].clone();
    let failed = invoke(&client, &json!({ "do": "raise" })).await;
    assert_eq!(failed.function_error(), Some("Unhandled"));
    assert_eq!(body(&failed), json!({ "errorType": "ValueError", "errorMessage": "as asked" }));
    assert_eq!(body(&invoke(&client, &json!({})).await)["pid"], pid, "an error keeps the instance");
    let exited = invoke(&client, &json!({ "do": "exit" })).await;
    assert_eq!(exited.function_error(), Some("Unhandled"));
    assert_eq!(body(&exited)["errorType"], "Runtime.ExitError");
    let text = body(&exited)["errorMessage"].to_string();
    assert!(text.contains("Error: Runtime exited with error: exit status 3"), "{text}");
    assert_ne!(body(&invoke(&client, &json!({})).await)["pid"], pid, "another instance");
    host.stop().await;
}

#[tokio::test]
async fn timeout_kills_function_with_lambdas_error() {
    let Some(command) = bootstrap("timeout_kills_function_with_lambdas_error") else { return };
    let host = host(spec(command, Duration::from_millis(1500), 1));
    let client = client(&host);
    let pid = body(&invoke(&client, &json!({})).await)["pid"].clone();
    let late = invoke(&client, &json!({ "do": "hang" })).await;
    assert_eq!(late.function_error(), Some("Unhandled"));
    assert_eq!(body(&late)["errorType"], "Sandbox.Timedout");
    let text = body(&late)["errorMessage"].to_string();
    assert!(text.contains("Task timed out after 1.50 seconds"), "{text}");
    assert_ne!(body(&invoke(&client, &json!({})).await)["pid"], pid);
    host.stop().await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "its process has exited");
}

#[tokio::test]
async fn oversized_request_and_response_are_rejected() {
    let Some(command) = bootstrap("oversized_request_and_response_are_rejected") else { return };
    let host = host(spec(command, LONG, 1));
    let client = client(&host);
    let over = Blob::new(format!("\"{}\"", "x".repeat(6 * 1024 * 1024)));
    let refused = client.invoke().function_name("fn").payload(over).send().await.expect_err("too large");
    assert!(matches!(refused.into_service_error(), InvokeError::RequestTooLargeException(_)));
    let large = invoke(&client, &json!({ "do": "large", "bytes": 6_291_557 })).await;
    assert_eq!(large.function_error(), Some("Unhandled"));
    assert_eq!(body(&large)["errorType"], "Function.ResponseSizeTooLarge");
    let fits = invoke(&client, &json!({ "do": "large", "bytes": 6_291_000 })).await;
    assert_eq!((fits.function_error(), body(&fits).as_str().map(str::len)), (None, Some(6_291_000)));
    host.stop().await;
}

#[tokio::test]
async fn invocation_beyond_max_concurrency_is_throttled() {
    let Some(command) = bootstrap("invocation_beyond_max_concurrency_is_throttled") else { return };
    let folder = tempfile::tempdir().expect("folder");
    let (ready, until) = (folder.path().join("ready-"), folder.path().join("until"));
    let host = host(spec(command, LONG, 2));
    let client = client(&host);
    let event = json!({ "do": "wait", "ready": ready, "until": until });
    let both = futures::future::join(invoke(&client, &event), invoke(&client, &event));
    let throttle = async {
        while std::fs::read_dir(folder.path()).expect("folder").count() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let third = client.invoke().function_name("fn").payload(Blob::new("{}")).send().await;
        std::fs::write(&until, "").expect("file");
        third.expect_err("throttled").into_service_error()
    };
    let ((a, b), third) = Box::pin(futures::future::join(both, throttle)).await;
    assert_ne!(body(&a)["pid"], body(&b)["pid"], "two processes");
    let InvokeError::TooManyRequestsException(third) = third else { panic!("{third:?}") };
    assert_eq!(third.retry_after_seconds(), Some("1"));
    assert_eq!(
        third.reason().map(ThrottleReason::as_str),
        Some("ReservedFunctionConcurrentInvocationLimitExceeded")
    );
    host.stop().await;
}

#[tokio::test]
async fn stop_kills_busy_processes_and_connections() {
    let Some(command) = bootstrap("stop_kills_busy_processes_and_connections") else {
        return;
    };
    let folder = tempfile::tempdir().expect("folder");
    let host = host(spec(command, LONG, 2));
    let client = client(&host);
    let event =
        json!({ "do": "wait", "ready": folder.path().join("ready-"), "until": folder.path().join("never") });
    let payload = Blob::new(event.to_string());
    let caller = tokio::spawn(client.invoke().function_name("fn").payload(payload).send());
    let ready = || std::fs::read_dir(folder.path()).expect("folder").next();
    let entry = loop {
        if let Some(entry) = ready() {
            break entry.expect("entry").file_name();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    host.stop().await;
    let pid = entry.to_string_lossy().replace("ready-", "");
    assert!(!Path::new("/proc").join(pid).exists(), "its process has exited");
    assert!(caller.await.expect("task").is_err(), "its caller receives an error");
}

#[tokio::test]
async fn failed_initialization_is_returned_to_caller() {
    let Some(command) = bootstrap("failed_initialization_is_returned_to_caller") else { return };
    let mut spec = spec(command, LONG, 1);
    spec.env.insert("REFUSE_TO_START".into(), "1".into());
    let host = host(spec);
    let failed = invoke(&client(&host), &json!({})).await;
    assert_eq!(body(&failed)["errorType"], "Runtime.ExitError");
    assert!(body(&failed)["errorMessage"].to_string().contains("exit status 4"));
    host.stop().await;
}

/// Observer that records all notifications.
#[derive(Default)]
struct RecordingObserver(Mutex<Vec<String>>);

impl FunctionObserver for RecordingObserver {
    fn initialized(&self, function: &str) {
        self.0.lock().push(format!("{function} ready"));
    }

    fn initialization_failed(&self, function: &str, error: &HostedFunctionError) {
        self.0.lock().push(format!("{function} cannot start: {error}"));
    }

    fn printed(&self, _: &str, request: Option<Uuid>, line: &str) {
        self.0.lock().push(format!("{} {line}", request.map(|id| id.to_string()).unwrap_or_default()));
    }

    fn failed(&self, _: &str, request: Uuid, error: &HostedFunctionError) {
        self.0.lock().push(format!("{request} failed: {error}"));
    }
}

impl RecordingObserver {
    async fn until(&self, fact: impl Fn(&str) -> bool) {
        let waited = tokio::time::timeout(LONG, async {
            while !self.0.lock().iter().any(|line| fact(line)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        assert!(waited.await.is_ok(), "{:?}", self.0.lock());
    }
}

#[tokio::test]
async fn observer_receives_starts_output_and_errors() {
    let name = "observer_receives_starts_output_and_errors";
    let Some(command) = bootstrap(name) else { return };
    let observer = Arc::new(RecordingObserver::default());
    let early = |command| FunctionSpec { initialized_early: true, ..spec(command, LONG, 1) };
    let start = |spec| {
        let observer: Arc<dyn FunctionObserver> = Arc::<RecordingObserver>::clone(&observer);
        FunctionHost::start(FunctionHostSettings { observer, ..settings(vec![spec]) }).expect("starts")
    };
    let host = start(early(command.clone()));
    observer.until(|line| line == "fn ready").await;
    let failed =
        client(&host).invoke().function_name("fn").payload(Blob::new(r#"{"do":"raise"}"#)).send().await;
    let failed = failed.expect("an answer");
    let request = aws_types::request_id::RequestId::request_id(&failed).expect("an id").to_owned();
    observer.until(|line| line == format!("{request} doing raise")).await;
    observer.until(|line| line == format!("{request} failed: ValueError: as asked")).await;
    host.stop().await;
    let mut refusing = early(command);
    refusing.env.insert("REFUSE_TO_START".into(), "1".into());
    let host = start(refusing);
    observer.until(|line| line.starts_with("fn cannot start: Runtime.ExitError: exit status 4")).await;
    host.stop().await;
}

#[tokio::test]
async fn only_configured_function_is_found() {
    let host = host(spec(sample(), Duration::from_secs(7), 1));
    let client = client(&host);
    let missing =
        client.invoke().function_name("other").send().await.expect_err("not found").into_service_error();
    let text = missing.to_string() + missing.meta().message().unwrap_or_default();
    assert!(matches!(missing, InvokeError::ResourceNotFoundException(_)));
    assert!(
        text.contains("Function not found: arn:aws:lambda:us-east-1:000000000000:function:other:$LATEST"),
        "{text}"
    );
    let found = client.get_function_configuration().function_name("fn").send().await.expect("configuration");
    assert_eq!((found.timeout(), found.version()), (Some(7), Some("$LATEST")));
    assert_eq!(found.function_arn(), Some("arn:aws:lambda:us-east-1:000000000000:function:fn"));
    let whole = client.get_function().function_name("fn").send().await.expect("function");
    assert_eq!(whole.configuration().and_then(|c| c.function_name()), Some("fn"));
    host.stop().await;
}

#[tokio::test]
async fn raw_http_responses_match_lambdas() {
    let host = host(spec(sample(), LONG, 1));
    let path =
        "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Afn/invocations";
    let fine = raw(&host, &format!("POST {path}"), b"{}").await.to_ascii_lowercase();
    assert!(fine.starts_with("http/1.1 200") && fine.ends_with("\r\n\r\nnull"), "{fine}");
    assert!(
        fine.contains("x-amz-executed-version: $latest") && !fine.contains("x-amz-function-error"),
        "{fine}"
    );
    let bad = raw(&host, &format!("POST {path}"), b"{").await;
    assert!(bad.starts_with("HTTP/1.1 400") && bad.contains("InvalidRequestContentException"), "{bad}");
    assert!(raw(&host, "GET /elsewhere", b"").await.starts_with("HTTP/1.1 404"));
    let address = host.address();
    host.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn python_runs_through_the_official_runtime() {
    let python = std::env::var("TEST_LIGHTERMAN_PYTHON").unwrap_or_else(|_| "python3".into());
    if !runs(&python, &["-c", "import awslambdaric"]) {
        return skipped(
            "python_runs_through_the_official_runtime",
            "no awslambdaric: pip install awslambdaric",
        );
    }
    let interpreters = InterpreterPaths { python: python.into(), ..InterpreterPaths::default() };
    let command =
        FunctionCommand::resolve("app.handler", &functions_folder(), &interpreters).expect("handler");
    let host = host(spec(command, Duration::from_secs(20), 1));
    let client = client(&host);
    let fine = invoke(&client, &json!({ "a": "é" })).await;
    assert_eq!(body(&fine)["got"], json!({ "a": "é" }));
    let failed = invoke(&client, &json!({ "do": "raise" })).await;
    assert_eq!(failed.function_error(), Some("Unhandled"));
    assert_eq!(body(&failed)["errorType"], "ValueError");
    let exited = invoke(&client, &json!({ "do": "exit" })).await;
    assert!(body(&exited)["errorMessage"].to_string().contains("exit status 3"));
    let large = invoke(&client, &json!({ "do": "large", "bytes": 6_291_600 })).await;
    assert_eq!(body(&large)["errorType"], "Function.ResponseSizeTooLarge");
    let context = aws_smithy_types::base64::encode(r#"{"custom":{"lighterman":{"attempt":1}}}"#);
    let asked = Blob::new(r#"{"do":"context"}"#);
    let answer = client.invoke().function_name("fn").client_context(context).payload(asked).send().await;
    assert_eq!(body(&answer.expect("an answer"))["custom"], json!({ "lighterman": { "attempt": 1 } }));
    host.stop().await;
}

#[tokio::test]
async fn node_runs_as_a_bootstrap() {
    if !runs("node", &["--version"]) {
        return skipped("node_runs_as_a_bootstrap", "no node");
    }
    let command =
        FunctionCommand::resolve("bootstrap.mjs", &functions_folder(), &InterpreterPaths::default())
            .expect("bootstrap");
    let host = host(spec(command, LONG, 1));
    assert_eq!(body(&invoke(&client(&host), &json!({ "a": [1] })).await), json!({ "node": { "a": [1] } }));
    host.stop().await;
}

/// `TEST_LIGHTERMAN_NODE_RIC` names a folder whose `node_modules` contains `aws-lambda-ric`. Building it takes
/// minutes, so it is optional and never required.
#[tokio::test]
async fn node_runs_through_the_official_runtime() {
    let Some(folder) = std::env::var_os("TEST_LIGHTERMAN_NODE_RIC").map(PathBuf::from) else {
        println!("skipped node_runs_through_the_official_runtime: TEST_LIGHTERMAN_NODE_RIC names no folder");
        return;
    };
    let code = tempfile::tempdir_in(&folder).expect("folder");
    std::fs::copy(functions_folder().join("index.mjs"), code.path().join("index.mjs")).expect("copy");
    let command = FunctionCommand::resolve("index.handler", code.path(), &InterpreterPaths::default())
        .expect("handler");
    let host = host(spec(command, LONG, 1));
    let client = client(&host);
    assert_eq!(body(&invoke(&client, &json!({ "a": 1 })).await), json!({ "node": { "a": 1 } }));
    assert_eq!(body(&invoke(&client, &json!({ "do": "raise" })).await)["errorType"], "TypeError");
    host.stop().await;
}

#[test]
fn invalid_settings_are_rejected_by_name() {
    let wrong = |settings: FunctionHostSettings| FunctionHost::start(settings).expect_err("refused");
    let everywhere =
        FunctionHostSettings { listen: "0.0.0.0:0".parse().expect("address"), ..settings(vec![]) };
    assert!(matches!(wrong(everywhere), FunctionHostError::NotLoopback(_)));
    let twice = settings(vec![spec(sample(), LONG, 1), spec(sample(), LONG, 1)]);
    assert!(matches!(wrong(twice), FunctionHostError::Twice(name) if name == "fn"));
    assert!(matches!(wrong(settings(vec![spec(sample(), LONG, 0)])), FunctionHostError::NoConcurrency(_)));
}
