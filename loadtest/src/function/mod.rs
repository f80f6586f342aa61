//! Fake Lambda endpoint that follows a script and records every invocation in order.

mod reply;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub use self::reply::request_id;
use self::reply::{function_in, plain, ran, refuse, report_of};
use crate::fault_proxy::FaultRandom;
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

#[derive(Deserialize)]
struct KafkaEvent<'e> {
    #[serde(borrow)]
    records: BTreeMap<String, Vec<KafkaRecord<'e>>>,
}

#[derive(Deserialize)]
struct KafkaRecord<'e> {
    partition: i32,
    offset: i64,
    /// Raw JSON of the value: base64 in quotes. Decoded only while a stopwatch runs.
    #[serde(borrow)]
    value: Option<&'e RawValue>,
}

/// Default timeout in `GetFunctionConfiguration`, in seconds: the time for which an unknown outcome is awaited.
pub const FUNCTION_TIMEOUT_SECONDS: u64 = 1;

impl FakeLambda {
    /// Starts an endpoint on loopback that succeeds immediately until a script is set.
    pub async fn start() -> Result<Self> {
        let succeed: InvocationScript = Arc::new(|_| InvocationAction::Succeed(Duration::ZERO));
        let shared = Arc::new(LambdaState {
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
        Ok(format!("http://{}", self.shared.listen(caller).await?))
    }

    /// Returns the `http://…` URL for `AWS_ENDPOINT_URL_LAMBDA`.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
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
    async fn listen(self: &Arc<Self>, caller: u32) -> Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        // Weak, since a strong reference would form a cycle with its owner.
        let shared = Arc::downgrade(self);
        self.listeners.lock().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let Some(shared) = shared.upgrade() else { return };
                tokio::spawn(async move {
                    let service = service_fn(move |request| serve(Arc::clone(&shared), caller, request));
                    // A service error is the intended way to close a connection.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(address)
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

/// Service error that closes a connection.
#[derive(Debug)]
struct ConnectionCut;

impl std::fmt::Display for ConnectionCut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection cut on purpose")
    }
}

impl std::error::Error for ConnectionCut {}

async fn serve(
    shared: Arc<LambdaState>,
    caller: u32,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, ConnectionCut> {
    if request.uri().path().ends_with("/configuration") {
        let seconds = shared.timeout_seconds.load(Ordering::Relaxed);
        let body = format!(r#"{{"FunctionName":"f","Timeout":{seconds}}}"#);
        return Ok(Response::new(Full::from(body)));
    }
    let function = function_in(request.uri().path()).to_owned();
    let body = request.into_body().collect().await.map_err(|_| ConnectionCut)?.to_bytes();
    let arrived = Instant::now();
    let Ok(event) = serde_json::from_slice::<KafkaEvent<'_>>(&body) else {
        return Ok(plain(400, r#"{"message":"not a Kafka event"}"#));
    };
    let id = shared.next.fetch_add(1, Ordering::Relaxed);
    let script = Arc::clone(&shared.script.lock());
    let (failed, names) = shared.poisoned_in(&event);
    let failing = if names { InvocationAction::Report } else { InvocationAction::FunctionError };
    let act = match script(id) {
        InvocationAction::Succeed(_) if !failed.is_empty() => failing,
        act => act,
    };
    let (act, failed) = if act == InvocationAction::ReportSome {
        (InvocationAction::Report, some_of(id, &event))
    } else {
        (act, failed)
    };
    if !act.runs() {
        // The function never ran, so there is no event to record.
        return refuse(act);
    }
    if act.succeeds() {
        shared.note(&event, body.len(), arrived);
    }
    let topic =
        event.records.keys().next().and_then(|key| key.rsplit_once('-')).map(|(topic, _)| topic.to_owned());
    let report =
        (act == InvocationAction::Report).then(|| report_of(topic.as_deref().unwrap_or_default(), &failed));
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for record in event.records.into_values().flatten() {
        offsets.entry(record.partition).or_default().push(record.offset);
    }
    // As at AWS, a caller that disconnects does not stop the function.
    let run = tokio::spawn(async move {
        shared.happened(&function, caller, InvocationEvent::Start { id, offsets });
        if let InvocationAction::Succeed(wait) = act
            && !wait.is_zero()
        {
            tokio::time::sleep(wait).await;
        }
        let failed = if act == InvocationAction::Report { failed } else { BTreeSet::new() };
        shared.happened(&function, caller, InvocationEvent::End { id, act, failed });
    });
    run.await.map_err(|_| ConnectionCut)?;
    match act {
        InvocationAction::CutAfter => Err(ConnectionCut),
        InvocationAction::Hang => std::future::pending().await,
        InvocationAction::FunctionError => {
            let mut response = ran(id, r#"{"errorType":"Boom","errorMessage":"on purpose"}"#);
            response
                .headers_mut()
                .insert("x-amz-function-error", http::HeaderValue::from_static("Unhandled"));
            Ok(response)
        }
        _ => Ok(ran(id, report.unwrap_or_else(|| "null".to_owned()))),
    }
}

fn some_of(id: u64, event: &KafkaEvent<'_>) -> BTreeSet<(i32, i64)> {
    let places = event.records.values().flatten().map(|record| (record.partition, record.offset));
    places.filter(|(_, offset)| FaultRandom(id ^ *offset as u64).below(4) == 0).collect()
}
