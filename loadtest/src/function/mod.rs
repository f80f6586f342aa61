//! A Lambda endpoint that does what it is told and remembers every invocation, in the order things happened.

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

/// What the function does with one invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvocationAction {
    /// Succeeds after this long.
    Succeed(Duration),
    /// 200 with `X-Amz-Function-Error`.
    FunctionError,
    /// 200, naming the poisoned records as failed.
    Report,
    /// 200, naming about one record of four as failed, others each time.
    ReportSome,
    /// 429.
    Throttle,
    /// This status.
    Status(u16),
    /// Runs, succeeds, and the connection is cut before the reply.
    CutAfter,
    /// Takes the records, and never answers.
    Hang,
    /// The connection is cut before it runs.
    CutBefore,
}

impl InvocationAction {
    /// Whether the records were taken, as the function saw it.
    pub fn succeeds(self) -> bool {
        matches!(self, Self::Succeed(_) | Self::CutAfter | Self::Hang)
    }

    /// Whether the function itself runs.
    fn runs(self) -> bool {
        self.succeeds() || matches!(self, Self::FunctionError | Self::Report)
    }
}

/// Chooses what to do with invocation number `n`, from 0.
pub type InvocationScript = Arc<dyn Fn(u64) -> InvocationAction + Send + Sync>;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum InvocationEvent {
    /// An invocation began.
    Start {
        /// Which.
        id: u64,
        /// Offsets by partition, in the order of the event.
        offsets: BTreeMap<i32, Vec<i64>>,
    },
    /// It ended.
    End {
        /// Which.
        id: u64,
        /// How.
        act: InvocationAction,
        /// Records it named as failed, by partition and offset; it has taken the others.
        failed: BTreeSet<(i32, i64)>,
    },
}

/// One thing that happened, when, and at whose wish.
#[derive(Clone, Debug)]
pub struct TimedEvent {
    /// When.
    pub at: Instant,
    /// Who invoked: the number given to [`FakeLambda::listen_for`], 0 at the first endpoint.
    pub caller: u32,
    /// What.
    pub event: InvocationEvent,
}

/// Records that this function cannot process.
#[derive(Clone, Debug, Default)]
pub struct PoisonRecords {
    /// By partition and offset.
    pub records: BTreeSet<(i32, i64)>,
    /// It says which (`ReportBatchItemFailures`), rather than fail as a whole.
    pub names: bool,
}

/// The endpoint; clones share it, and the last one to go closes it.
#[derive(Clone)]
pub struct FakeLambda {
    address: SocketAddr,
    shared: Arc<LambdaState>,
}

/// What arrived since the last [`FakeLambda::clear`], of invocations that took their records.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArrivalCount {
    /// Invocations.
    pub invocations: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their events.
    pub payload_bytes: u64,
    /// When the first had arrived whole, and the last.
    pub between: Option<(Instant, Instant)>,
}

struct LambdaState {
    events: Mutex<Vec<TimedEvent>>,
    /// The same, by function.
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
    /// As it stands in the event: base64 in quotes. Read only while a stopwatch runs.
    #[serde(borrow)]
    value: Option<&'e RawValue>,
}

/// Seconds that `GetFunctionConfiguration` tells unless something else is said: how long an unknown outcome is waited for.
pub const FUNCTION_TIMEOUT_SECONDS: u64 = 1;

impl FakeLambda {
    /// Listens on loopback; succeeds at once until told otherwise.
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

    /// One more endpoint of the same functions; what arrives there is told as this caller's.
    pub async fn listen_for(&self, caller: u32) -> Result<String> {
        Ok(format!("http://{}", self.shared.listen(caller).await?))
    }

    /// `http://…`, for `AWS_ENDPOINT_URL_LAMBDA`.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Decides from now on.
    pub fn set_script(&self, script: impl Fn(u64) -> InvocationAction + Send + Sync + 'static) {
        *self.shared.script.lock() = Arc::new(script);
    }

    /// The timeout that its configuration tells, in whole seconds.
    pub fn set_timeout(&self, timeout: Duration) {
        self.shared.timeout_seconds.store(timeout.as_secs(), Ordering::Relaxed);
    }

    /// Cannot process these from now on.
    pub fn set_poison(&self, poison: PoisonRecords) {
        *self.shared.poison.lock() = poison;
    }

    /// Invocations so far.
    pub fn invocations(&self) -> u64 {
        self.shared.next.load(Ordering::Relaxed)
    }

    /// Everything that happened so far.
    pub fn events(&self) -> Vec<InvocationEvent> {
        self.shared.events.lock().iter().map(|told| told.event.clone()).collect()
    }

    /// Everything that happened so far, with who and when.
    pub fn told(&self) -> Vec<TimedEvent> {
        self.shared.events.lock().clone()
    }

    /// Everything that happened so far in `function`, as the mapping names it.
    pub fn events_of(&self, function: &str) -> Vec<InvocationEvent> {
        self.shared.of_functions.lock().get(function).cloned().unwrap_or_default()
    }

    /// How much happened since it was told to forget.
    pub fn tally(&self) -> ArrivalCount {
        *self.shared.tally.lock()
    }

    /// Measures every record that carries its moment, from now on.
    pub fn time_with(&self, stopwatch: LatencyStopwatch) {
        *self.shared.stopwatch.lock() = Some(stopwatch);
    }

    /// What was measured; measures no more.
    pub fn take_times(&self) -> Option<LatencyStopwatch> {
        self.shared.stopwatch.lock().take()
    }

    /// Forgets what happened.
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
        // Weak: a listener must not keep alive what keeps it.
        let shared = Arc::downgrade(self);
        self.listeners.lock().spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let Some(shared) = shared.upgrade() else { return };
                tokio::spawn(async move {
                    let service = service_fn(move |request| serve(Arc::clone(&shared), caller, request));
                    // A refusal by the service is how a connection is cut.
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(address)
    }

    fn happened(&self, function: &str, caller: u32, event: InvocationEvent) {
        // Both under the first lock: they agree on the order, and so does the time.
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

/// How a connection is cut: its service fails.
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
        // The function itself never ran: nothing to remember of its records.
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
    // As at AWS, a caller that goes away does not stop the function.
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
