//! Benchmarks over HTTPS: both contenders keep their TLS 1.3 connections, and nothing else reaches the function.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lighterman::local::broker::{BrokerSettings, EmbeddedBroker};
use loadtest::benchmark_run::{BenchEnv, BenchFigures};
use loadtest::contender::{Contender, ContenderSetup};
use loadtest::function::FakeLambda;
use loadtest::produce::{Compression, ProducedOffsets, TestProducer};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const LIMIT: Duration = Duration::from_secs(30);
const TOPIC: &str = "orders";
const PARTITIONS: i32 = 4;
const RECORDS: usize = 2_000;
const BATCH: u32 = 10;

/// A filled topic and an HTTPS function.
struct TlsBench {
    broker: EmbeddedBroker,
    producer: TestProducer,
    produced: ProducedOffsets,
    lambda: FakeLambda,
}

impl TlsBench {
    async fn start() -> Result<Self> {
        let broker = EmbeddedBroker::start(BrokerSettings::default())?;
        let mut producer = TestProducer::connect(&broker.address().to_string()).await?;
        producer.create_topic(TOPIC, PARTITIONS).await?;
        let produced = producer.write(TOPIC, PARTITIONS, RECORDS, 100, Compression::None).await?;
        Ok(Self { broker, producer, produced, lambda: FakeLambda::start_tls().await? })
    }

    async fn drain(&mut self, who: Contender) -> Result<BenchFigures> {
        let setup = ContenderSetup {
            servers: self.broker.address().to_string(),
            topic: TOPIC.to_owned(),
            endpoint: self.lambda.endpoint_url(),
            trust_file: self.lambda.trust_file().map(Path::to_owned),
            batch: BATCH,
            window_seconds: None,
            baseline_commits_each: false,
            consumers: 1,
            settings: Vec::new(),
        };
        let mut ground = BenchEnv { lambda: &self.lambda, producer: &mut self.producer, limit: LIMIT };
        ground.drain(who, &setup, who.name(), &self.produced).await
    }
}

/// Connects to the function with one version of TLS, and returns the cipher's name.
async fn cipher_of(lambda: &FakeLambda, version: &'static SupportedProtocolVersion) -> Result<String> {
    let roots = rustls_roots(lambda.trust_file().context("no TLS")?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address(lambda)).await?;
    let name = ServerName::try_from("127.0.0.1")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let suite = stream.get_ref().1.negotiated_cipher_suite().context("no cipher")?;
    Ok(format!("{:?}", suite.suite()))
}

fn rustls_roots(file: &Path) -> Result<RootCertStore> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file)?)?;
    Ok(roots)
}

fn address(lambda: &FakeLambda) -> String {
    lambda.endpoint_url().trim_start_matches("https://").to_owned()
}

/// Returns what the function answers to a request in plain HTTP.
async fn plain_answer(lambda: &FakeLambda) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address(lambda)).await?;
    stream.write_all(b"GET /configuration HTTP/1.1\r\nhost: f\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contenders_keep_their_tls_connections() -> Result<()> {
    let mut bench = TlsBench::start().await?;
    for who in [Contender::Node, Contender::Baseline] {
        let figures = bench.drain(who).await?;
        let shaken = figures.handshakes.context("no TLS")?;
        ensure!(figures.records == RECORDS as u64, "{who:?}: {} records", figures.records);
        let invocations = figures.invocations;
        ensure!(
            shaken > 0 && shaken * 5 <= invocations,
            "{who:?}: {shaken} handshakes, {invocations} invocations"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn function_accepts_only_tls_1_3() -> Result<()> {
    let lambda = FakeLambda::start_tls().await?;
    let cipher = cipher_of(&lambda, &rustls::version::TLS13).await?;
    ensure!(cipher == "TLS13_AES_128_GCM_SHA256", "the server's choice: {cipher}");
    ensure!(cipher_of(&lambda, &rustls::version::TLS12).await.is_err(), "TLS 1.2");
    let answer = plain_answer(&lambda).await.unwrap_or_default();
    ensure!(!answer.starts_with(b"HTTP"), "plain HTTP: {}", String::from_utf8_lossy(&answer));
    let count = lambda.handshakes().context("no TLS")?;
    ensure!((count.completed, count.refused) == (1, 2), "{count:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_with_a_weaker_connection_fails() -> Result<()> {
    let mut bench = TlsBench::start().await?;
    let lambda = bench.lambda.clone();
    // The drain is polled first, so it notes the earlier handshakes before this one.
    let (drained, weaker) =
        tokio::join!(bench.drain(Contender::Node), cipher_of(&lambda, &rustls::version::TLS12));
    ensure!(weaker.is_err(), "TLS 1.2");
    let refused = drained.err().context("the run passed")?.to_string();
    ensure!(refused.contains("1 connections to the function failed to agree on TLS 1.3"), "{refused}");
    Ok(())
}
