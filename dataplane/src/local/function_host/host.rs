//! Thread of the function host: sockets, processes and timers around the state machines.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use lighterman_proto::units::Moment;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinSet, LocalSet};
use uuid::Uuid;

use super::answer::{HostOutcome, HostReply};
use super::core::{HostCore, HostEffect, HostEvent, InstanceId};
use super::logs::InstanceOutput;
use super::observer::{FunctionObserver, HostedFunctionError};
use super::{FunctionHostError, FunctionHostSettings, FunctionSpec, invoke_api, process, runtime_api};
use crate::runtime::clock;

/// Invocation delivered to an instance's poll.
pub(super) struct InstanceWork {
    pub(super) request: Uuid,
    pub(super) payload: Bytes,
    pub(super) client_context: Option<String>,
    pub(super) until: Moment,
}

struct PendingInvocation {
    payload: Bytes,
    client_context: Option<String>,
    reply: oneshot::Sender<(HostOutcome, Option<InstanceOutput>)>,
    output: Option<InstanceOutput>,
}

struct FunctionInstance {
    output: InstanceOutput,
    poll: Option<oneshot::Sender<InstanceWork>>,
    /// Dropping it kills the process.
    _kill: oneshot::Sender<()>,
}

/// Function with its instances and pending invocations.
pub(super) struct HostedFunction {
    pub(super) spec: FunctionSpec,
    pub(super) arn: String,
    pub(super) account_id: String,
    region: String,
    observer: Arc<dyn FunctionObserver>,
    core: RefCell<HostCore>,
    pending: RefCell<HashMap<Uuid, PendingInvocation>>,
    instances: RefCell<BTreeMap<InstanceId, FunctionInstance>>,
    processes: RefCell<JoinSet<()>>,
    armed: Cell<Option<Moment>>,
    rearm: Notify,
    stopping: Cell<bool>,
}

/// Hosted functions by name.
pub(super) struct HostedFunctions {
    pub(super) by_name: BTreeMap<String, Rc<HostedFunction>>,
    pub(super) region: String,
    pub(super) account_id: String,
}

type HostStart = mpsc::Sender<Result<SocketAddr, FunctionHostError>>;

/// Runs the host on the current thread until `stopped` resolves.
pub(super) fn run(settings: FunctionHostSettings, started: &HostStart, stopped: oneshot::Receiver<()>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(FunctionHostError::Thread(error)));
            return;
        }
    };
    LocalSet::new().block_on(&runtime, serve_functions(settings, started, stopped));
}

async fn serve_functions(
    settings: FunctionHostSettings,
    started: &HostStart,
    stopped: oneshot::Receiver<()>,
) {
    let address = settings.listen;
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    let (listener, local) = match bound.await {
        Ok(bound) => bound,
        Err(source) => {
            let _ = started.send(Err(FunctionHostError::Listen { address, source }));
            return;
        }
    };
    let functions = Rc::new(HostedFunctions::new(settings));
    for function in functions.by_name.values() {
        tokio::task::spawn_local(keep_time(Rc::clone(function)));
        if function.spec.initialized_early {
            HostedFunction::step(function, HostEvent::Provisioned);
        }
    }
    let _ = started.send(Ok(local));
    let handle = {
        let functions = Rc::clone(&functions);
        move |request| invoke_api::handle(Rc::clone(&functions), request)
    };
    tokio::select! {
        () = serve(listener, handle) => {}
        _ = stopped => {}
    }
    for function in functions.by_name.values() {
        function.end_all().await;
    }
}

/// Serves the connections of `listener` with `handle`, until dropped.
pub(super) async fn serve<H, F>(listener: TcpListener, handle: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + 'static,
    F: Future<Output = HostReply> + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "function host cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        // Without it, Nagle and delayed acknowledgements add 40 ms to each invocation.
        let _ = stream.set_nodelay(true);
        let handle = handle.clone();
        connections.spawn_local(async move {
            let service = hyper::service::service_fn(move |request| {
                let reply = handle(request);
                async move { Ok::<_, Infallible>(reply.await) }
            });
            let served =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = served.await {
                tracing::debug!(%error, "function host connection ended");
            }
        });
    }
}

/// Ticks the state machine at each of its deadlines.
async fn keep_time(function: Rc<HostedFunction>) {
    loop {
        let wake = function.core.borrow().next_wake();
        function.armed.set(wake);
        let Some(wake) = wake else {
            function.rearm.notified().await;
            continue;
        };
        tokio::select! {
            () = tokio::time::sleep(wake.since(clock::now())) => HostedFunction::step(&function, HostEvent::Tick),
            () = function.rearm.notified() => {}
        }
    }
}

impl HostedFunctions {
    fn new(settings: FunctionHostSettings) -> Self {
        let FunctionHostSettings { region, account_id, functions, observer, .. } = settings;
        let by_name = functions.into_iter().map(|spec| {
            let function = HostedFunction::new(spec, &region, &account_id, Arc::clone(&observer));
            (function.spec.name.clone(), Rc::new(function))
        });
        Self { by_name: by_name.collect(), region, account_id }
    }
}

impl HostedFunction {
    fn new(spec: FunctionSpec, region: &str, account_id: &str, observer: Arc<dyn FunctionObserver>) -> Self {
        Self {
            arn: format!("arn:aws:lambda:{region}:{account_id}:function:{}", spec.name),
            account_id: account_id.into(),
            region: region.into(),
            observer,
            core: RefCell::new(HostCore::new(spec.timeout, spec.max_concurrency)),
            pending: RefCell::default(),
            instances: RefCell::default(),
            processes: RefCell::default(),
            armed: Cell::default(),
            rearm: Notify::new(),
            stopping: Cell::default(),
            spec,
        }
    }

    /// Queues an invocation. The receiver gets its outcome, and the instance's output if it ran.
    pub(super) fn invoke(
        self: &Rc<Self>,
        request: Uuid,
        payload: Bytes,
        client_context: Option<String>,
    ) -> oneshot::Receiver<(HostOutcome, Option<InstanceOutput>)> {
        let (reply, outcome) = oneshot::channel();
        self.pending
            .borrow_mut()
            .insert(request, PendingInvocation { payload, client_context, reply, output: None });
        Self::step(self, HostEvent::Invoked(request));
        outcome
    }

    /// Registers an instance's poll. The receiver gets its next invocation, or an error when the instance is being
    /// ended.
    pub(super) fn poll(self: &Rc<Self>, instance: InstanceId) -> oneshot::Receiver<InstanceWork> {
        let (poll, work) = oneshot::channel();
        if let Some(instance) = self.instances.borrow_mut().get_mut(&instance) {
            instance.poll = Some(poll);
            if instance.output.report_start() {
                self.observer.initialized(&self.spec.name);
            }
        }
        Self::step(self, HostEvent::Polled(instance));
        work
    }

    /// Records an instance's response. Returns false if `request` is not its current invocation.
    pub(super) fn answered(
        self: &Rc<Self>,
        instance: InstanceId,
        request: Uuid,
        outcome: HostOutcome,
    ) -> bool {
        if !self.core.borrow().is_working_on(instance, request) {
            return false;
        }
        self.resolve(request, outcome);
        Self::step(self, HostEvent::Answered(instance, request));
        true
    }

    /// Reports the error with which an instance cannot start.
    pub(super) fn initialization_failed(&self, instance: InstanceId, error: &HostedFunctionError) {
        let instances = self.instances.borrow();
        if instances.get(&instance).is_some_and(|instance| instance.output.report_start()) {
            self.observer.initialization_failed(&self.spec.name, error);
        }
    }

    fn step(function: &Rc<Self>, event: HostEvent) {
        let effects = function.core.borrow_mut().step(clock::now(), event);
        for effect in effects {
            Self::act(function, effect);
        }
        let wake = function.core.borrow().next_wake();
        let armed = function.armed.get();
        if wake.is_some_and(|wake| armed.is_none_or(|armed| wake < armed)) {
            function.armed.set(wake);
            function.rearm.notify_one();
        }
    }

    fn act(function: &Rc<Self>, effect: HostEffect) {
        match effect {
            HostEffect::Start(_) if function.stopping.get() => {}
            HostEffect::Start(instance) => {
                let run = Self::run_instance(Rc::clone(function), instance);
                let mut processes = function.processes.borrow_mut();
                while processes.try_join_next().is_some() {}
                processes.spawn_local(run);
            }
            HostEffect::Deliver(instance, request, until) => function.deliver(instance, request, until),
            HostEffect::Fail(request, failure) => {
                function.resolve(request, HostOutcome::of(&failure, request));
            }
            HostEffect::Throttle(request) => function.resolve(request, HostOutcome::Throttled),
            HostEffect::Kill(instance) => function.kill(instance),
        }
    }

    /// Kills an instance. One killed before its first poll is reported as timed out, because its exit status would only
    /// name the signal.
    fn kill(&self, instance: InstanceId) {
        let Some(killed) = self.instances.borrow_mut().remove(&instance) else { return };
        if killed.output.report_start() {
            let seconds = self.core.borrow().init_max().as_secs();
            let text = format!("it did not ask for work within {seconds} s of its start");
            self.observer
                .initialization_failed(&self.spec.name, &HostedFunctionError::new("Sandbox.Timedout", text));
        }
    }

    fn deliver(&self, instance: InstanceId, request: Uuid, until: Moment) {
        let mut instances = self.instances.borrow_mut();
        let mut pending = self.pending.borrow_mut();
        let (Some(instance), Some(pending)) = (instances.get_mut(&instance), pending.get_mut(&request))
        else {
            return;
        };
        instance.output.begin(request);
        pending.output = Some(instance.output.clone());
        let work = InstanceWork {
            request,
            payload: std::mem::take(&mut pending.payload),
            client_context: pending.client_context.take(),
            until,
        };
        // If the connection of the poll broke, the work is lost with it; the caller gets the timeout.
        if let Some(poll) = instance.poll.take() {
            let _ = poll.send(work);
        }
    }

    fn resolve(&self, request: Uuid, outcome: HostOutcome) {
        let Some(pending) = self.pending.borrow_mut().remove(&request) else { return };
        if let HostOutcome::Error(body) = &outcome {
            self.observer.failed(
                &self.spec.name,
                request,
                &HostedFunctionError::parse(body).without(request),
            );
        }
        let _ = pending.reply.send((outcome, pending.output));
    }

    async fn run_instance(function: Rc<Self>, instance: InstanceId) {
        let output = InstanceOutput::default();
        let how = match Self::start_instance(&function, instance, &output).await {
            Ok((child, listener, killed)) => {
                let api = {
                    let function = Rc::clone(&function);
                    serve(listener, move |request| {
                        runtime_api::handle(Rc::clone(&function), instance, request)
                    })
                };
                tokio::select! {
                    how = process::watch(child, killed) => how,
                    () = api => String::from("lost its Runtime API"),
                }
            }
            Err(error) => format!("cannot run {}: {error}", function.spec.command.program.display()),
        };
        if output.report_start() && !function.stopping.get() {
            let error = HostedFunctionError::new("Runtime.ExitError", how.clone());
            function.observer.initialization_failed(&function.spec.name, &error);
        }
        function.instances.borrow_mut().remove(&instance);
        Self::step(&function, HostEvent::Exited(instance, how));
    }

    /// Starts a process with its own Runtime API port, because the protocol does not identify the polling instance.
    async fn start_instance(
        function: &Rc<Self>,
        instance: InstanceId,
        output: &InstanceOutput,
    ) -> io::Result<(tokio::process::Child, TcpListener, oneshot::Receiver<()>)> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let api = listener.local_addr()?;
        let child = process::start(&function.spec, &function.region, api, output, &function.observer)?;
        let (kill, killed) = oneshot::channel();
        if !function.stopping.get() {
            let started = FunctionInstance { output: output.clone(), poll: None, _kill: kill };
            function.instances.borrow_mut().insert(instance, started);
        }
        Ok((child, listener, killed))
    }

    /// Kills every process and waits for it. A process that starts meanwhile is killed at once.
    async fn end_all(&self) {
        self.stopping.set(true);
        self.instances.borrow_mut().clear();
        let mut processes = std::mem::take(&mut *self.processes.borrow_mut());
        while processes.join_next().await.is_some() {}
    }
}
