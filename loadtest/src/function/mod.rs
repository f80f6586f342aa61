//! Fake Lambda endpoint that follows a script and records every invocation in order.

mod connection;
mod reply;
mod tls;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::connection::{KafkaEvent, serve_connection};
pub use self::reply::request_id;
use self::tls::EndpointTls;
pub use self::tls::HandshakeCount;
use crate::latency::{self, LatencyStopwatch};

/// Action of the function for one invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvocationAction {
    /// Succeeds after this duration.
    Succeed(Duration),
    /// Responds with 200 and `X-Amz-Function-Error`.
    FunctionError,
    /// Responds with 200 and reports the poisoned records as failed.
    Report,
    /// Responds with 200 and reports about one record in four as failed, different ones each time.
    ReportSome,
    /// Responds with 429.
    Throttle,
    /// Responds with this status.
    Status(u16),
    /// Runs and succeeds, then the connection is closed before the response.
    CutAfter,
    /// Takes the records and never responds.
    Hang,
    /// The connection is closed before the function runs.
    CutBefore,
}

impl InvocationAction {
    /// Returns true if the function took the records.
    pub fn succeeds(self) -> bool {
        matches!(self, Self::Succeed(_) | Self::CutAfter | Self::Hang)
    }

    /// Returns true if the function itself runs.
    fn runs(self) -> bool {
        self.succeeds() || matches!(self, Self::FunctionError | Self::Report)
    }
}

/// Selects the action for invocation number `n`, from 0.
pub type InvocationScript = Arc<dyn Fn(u64) -> InvocationAction + Send + Sync>;

/// Event of an invocation.
#[derive(Clone, Debug)]
pub enum InvocationEvent {
    /// An invocation started.
    Start {
        /// Number of the invocation.
        id: u64,
        /// Offsets by partition, in the order of the event.
        offsets: BTreeMap<i32, Vec<i64>>,
    },
    /// An invocation ended.
    End {
        /// Number of the invocation.
        id: u64,
        /// Action that was taken.
        act: InvocationAction,
        /// Records reported as failed, by partition and offset; the others were taken.
        failed: BTreeSet<(i32, i64)>,
    },
}

/// Event of an invocation with its time and caller.
#[derive(Clone, Debug)]
pub struct TimedEvent {
    /// Time of the event.
    pub at: Instant,
    /// Caller: the number given to [`FakeLambda::listen_for`], 0 for the first endpoint.
    pub caller: u32,
    /// The event.
    pub event: InvocationEvent,
}

/// Records that the function cannot process.
#[derive(Clone, Debug, Default)]
pub struct PoisonRecords {
    /// Records by partition and offset.
    pub records: BTreeSet<(i32, i64)>,
    /// True if the function reports them (`ReportBatchItemFailures`) instead of failing as a whole.
    pub names: bool,
}

/// Fake Lambda endpoint, shared by clones. Dropping the last clone closes it.
#[derive(Clone)]
pub struct FakeLambda {
    address: SocketAddr,
    shared: Arc<LambdaState>,
}

/// Arrivals since the last [`FakeLambda::clear`], of invocations that took their records.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArrivalCount {
    /// Invocations.
    pub invocations: u64,
    /// Records in those invocations.
    pub records: u64,
    /// Bytes of their events.
    pub payload_bytes: u64,
    /// Times at which the first and the last event had arrived completely.
    pub between: Option<(Instant, Instant)>,
}

struct LambdaState {
    /// Of an endpoint that serves HTTPS.
    tls: Option<EndpointTls>,
    events: Mutex<Vec<TimedEvent>>,
    /// The same events by function.
    of_functions: Mutex<BTreeMap<String, Vec<InvocationEvent>>>,
    tally: Mutex<ArrivalCount>,
    stopwatch: Mutex<Option<LatencyStopwatch>>,
    script: Mutex<InvocationScript>,
    poison: Mutex<PoisonRecords>,
    next: AtomicU64,
    timeout_seconds: AtomicU64,
    listeners: Mutex<JoinSet<()>>,
}

/// Default timeout in `GetFunctionConfiguration`, in seconds: the time for which an unknown outcome is awaited.
pub const FUNCTION_TIMEOUT_SECONDS: u64 = 1;

impl FakeLambda {
    /// Starts an endpoint on loopback that succeeds immediately until a script is set.
    pub async fn start() -> Result<Self> {
        Self::start_over(None).await
    }

    /// Starts an endpoint like [`Self::start`] that serves HTTPS, with TLS 1.3 only. Its clients must trust
    /// [`Self::trust_file`].
    pub async fn start_tls() -> Result<Self> {
        Self::start_over(Some(EndpointTls::create()?)).await
    }

    /// Starts an endpoint over TLS if `tls`, and over plain HTTP otherwise.
    pub async fn start_with(tls: bool) -> Result<Self> {
        if tls { Self::start_tls().await } else { Self::start().await }
    }

    async fn start_over(tls: Option<EndpointTls>) -> Result<Self> {
        let succeed: InvocationScript = Arc::new(|_| InvocationAction::Succeed(Duration::ZERO));
        let shared = Arc::new(LambdaState {
            tls,
            events: Mutex::new(Vec::new()),
            of_functions: Mutex::default(),
            tally: Mutex::default(),
            stopwatch: Mutex::new(None),
            script: Mutex::new(succeed),
            poison: Mutex::default(),
            next: AtomicU64::new(0),
            timeout_seconds: AtomicU64::new(FUNCTION_TIMEOUT_SECONDS),
            listeners: Mutex::default(),
        });
        let address = shared.listen(0).await?;
        Ok(Self { address, shared })
    }

    /// Opens another endpoint of the same functions, whose events are recorded with this caller.
    pub async fn listen_for(&self, caller: u32) -> Result<String> {
        Ok(self.shared.url(self.shared.listen(caller).await?))
    }

    /// Returns the URL for `AWS_ENDPOINT_URL_LAMBDA`.
    pub fn endpoint_url(&self) -> String {
        self.shared.url(self.address)
    }

    /// Returns the PEM file for `SSL_CERT_FILE`; `None` without TLS. It is deleted with the endpoint.
    pub fn trust_file(&self) -> Option<&Path> {
        self.shared.tls.as_ref().map(EndpointTls::trust_file)
    }

    /// Returns the number of TLS handshakes since the start; `None` without TLS.
    pub fn handshakes(&self) -> Option<HandshakeCount> {
        self.shared.tls.as_ref().map(EndpointTls::handshakes)
    }

    /// Sets the script for further invocations.
    pub fn set_script(&self, script: impl Fn(u64) -> InvocationAction + Send + Sync + 'static) {
        *self.shared.script.lock() = Arc::new(script);
    }

    /// Sets the timeout in the function's configuration, in whole seconds.
    pub fn set_timeout(&self, timeout: Duration) {
        self.shared.timeout_seconds.store(timeout.as_secs(), Ordering::Relaxed);
    }

    /// Sets the records that further invocations cannot process.
    pub fn set_poison(&self, poison: PoisonRecords) {
        *self.shared.poison.lock() = poison;
    }

    /// Returns the number of invocations.
    pub fn invocations(&self) -> u64 {
        self.shared.next.load(Ordering::Relaxed)
    }

    /// Returns all events.
    pub fn events(&self) -> Vec<InvocationEvent> {
        self.shared.events.lock().iter().map(|told| told.event.clone()).collect()
    }

    /// Returns all events with their times and callers.
    pub fn told(&self) -> Vec<TimedEvent> {
        self.shared.events.lock().clone()
    }

    /// Returns all events of `function`, named as in the mapping.
    pub fn events_of(&self, function: &str) -> Vec<InvocationEvent> {
        self.shared.of_functions.lock().get(function).cloned().unwrap_or_default()
    }

    /// Returns the arrivals since the last [`Self::clear`].
    pub fn tally(&self) -> ArrivalCount {
        *self.shared.tally.lock()
    }

    /// Starts measuring every record that carries its due time.
    pub fn time_with(&self, stopwatch: LatencyStopwatch) {
        *self.shared.stopwatch.lock() = Some(stopwatch);
    }

    /// Stops the measurement and returns its results.
    pub fn take_times(&self) -> Option<LatencyStopwatch> {
        self.shared.stopwatch.lock().take()
    }

    /// Discards all events and counts.
    pub fn clear(&self) {
        self.shared.events.lock().clear();
        self.shared.of_functions.lock().clear();
        *self.shared.tally.lock() = ArrivalCount::default();
    }
}

impl LambdaState {
    fn url(&self, address: SocketAddr) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    async fn listen(self: &Arc<Self>, caller: u32) -> Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        // Weak, since a strong reference would form a cycle with its owner.
        let shared = Arc::downgrade(self);
        self.listeners.lock().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let Some(shared) = shared.upgrade() else { return };
                tokio::spawn(async move { shared.accept(caller, stream).await });
            }
        });
        Ok(address)
    }

    async fn accept(self: Arc<Self>, caller: u32, stream: TcpStream) {
        match &self.tls {
            None => serve_connection(self, caller, stream).await,
            Some(tls) => {
                if let Ok(stream) = tls.accept(stream).await {
                    serve_connection(Arc::clone(&self), caller, stream).await;
                }
            }
        }
    }

    fn happened(&self, function: &str, caller: u32, event: InvocationEvent) {
        // Both under the first lock, so that they agree on the order and the times are ordered too.
        let mut events = self.events.lock();
        self.of_functions.lock().entry(function.to_owned()).or_default().push(event.clone());
        events.push(TimedEvent { at: Instant::now(), caller, event });
    }

    fn poisoned_in(&self, event: &KafkaEvent<'_>) -> (BTreeSet<(i32, i64)>, bool) {
        let poison = self.poison.lock();
        let places = event.records.values().flatten().map(|record| (record.partition, record.offset));
        (places.filter(|place| poison.records.contains(place)).collect(), poison.names)
    }

    fn note(&self, event: &KafkaEvent<'_>, payload_bytes: usize, arrived: Instant) {
        {
            let mut tally = self.tally.lock();
            tally.invocations += 1;
            tally.records += event.records.values().map(|records| records.len() as u64).sum::<u64>();
            tally.payload_bytes += payload_bytes as u64;
            let (first, last) = tally.between.unwrap_or((arrived, arrived));
            tally.between = Some((first.min(arrived), last.max(arrived)));
        }
        if let Some(stopwatch) = &mut *self.stopwatch.lock() {
            let values = event.records.values().flatten().filter_map(|record| record.value);
            for due in values.filter_map(|value| latency::moment_in(value.get())) {
                stopwatch.arrived(due, arrived);
            }
        }
    }
}
