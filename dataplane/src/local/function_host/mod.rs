//! Function host: real handlers behind Lambda's Invoke API on this machine. Each instance is a process with a Runtime
//! API.
//!
//! ```text
//! Invoke API ──▶ core (queue, instances, deadlines) ──▶ Runtime API (one loopback port per instance) ──▶ process
//! ```
//! Signatures are not verified, so the host listens on loopback only. A function has one version, `$LATEST`, and
//! every qualifier resolves to it.

mod answer;
mod body;
pub mod command;
mod core;
mod host;
mod invoke_api;
mod logs;
pub mod observer;
mod process;
mod runtime_api;
pub mod sample;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;

use self::command::FunctionCommand;
use self::observer::FunctionObserver;

/// Configuration of one function.
#[derive(Clone, Debug)]
pub struct FunctionSpec {
    /// Name: letters, digits, `-` and `_`, at most 64.
    pub name: String,
    /// Program that runs the function.
    pub command: FunctionCommand,
    /// Timeout of one invocation.
    pub timeout: Duration,
    /// Maximum concurrent invocations, each in its own process; further ones are throttled.
    pub max_concurrency: u32,
    /// Environment variables in addition to those that Lambda sets.
    pub env: BTreeMap<String, String>,
    /// Set to start an instance with the host, not with the first invocation, so that a function that cannot start is
    /// noticed.
    pub initialized_early: bool,
}

/// Configuration of a function host.
#[derive(Clone)]
pub struct FunctionHostSettings {
    /// Address of the Invoke API; loopback only. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Region in ARNs.
    pub region: String,
    /// Account id in ARNs, twelve digits.
    pub account_id: String,
    /// Functions to host.
    pub functions: Vec<FunctionSpec>,
    /// Observer of starts, output and errors.
    pub observer: Arc<dyn FunctionObserver>,
}

/// Reason that the host does not start.
#[derive(Debug, Error)]
pub enum FunctionHostError {
    /// Address is not loopback. Anyone who can connect may run the functions.
    #[error(
        "the function host checks no signatures, so it listens on loopback only, not on {0}: use 127.0.0.1"
    )]
    NotLoopback(SocketAddr),
    /// Port cannot be bound.
    #[error("the function host cannot listen on {address}: {source}. Use port 0 for a free one")]
    Listen {
        /// Address that cannot be bound.
        address: SocketAddr,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Invalid function name.
    #[error("`{0}` is no function name: 1–64 letters, digits, `-` and `_`")]
    Name(String),
    /// Two functions have the same name.
    #[error("two functions are named `{0}`: rename one")]
    Twice(String),
    /// Function without concurrency could never run.
    #[error("function `{0}` has max_concurrency 0: it could never run, use at least 1")]
    NoConcurrency(String),
    /// Thread or runtime cannot be created.
    #[error("the function host's thread cannot start: {0}")]
    Thread(io::Error),
}

/// Running function host. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct FunctionHost {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FunctionHost {
    /// Starts the host on its own thread and returns once it listens. Processes start with their first invocation, or
    /// at once if `initialized_early` is set.
    pub fn start(settings: FunctionHostSettings) -> Result<Self, FunctionHostError> {
        check(&settings)?;
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("function-host".into())
            .spawn(move || host::run(settings, &started, stopped))
            .map_err(FunctionHostError::Thread)?;
        let died = || FunctionHostError::Thread(io::Error::other("it ended while starting"));
        let address = start.recv().map_err(|_| died())??;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the address of the Invoke API.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns `http://…`, for `AWS_ENDPOINT_URL_LAMBDA`.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills every instance. Returns when all are gone and the port is free.
    pub async fn stop(mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the function host's thread panicked");
            }
        }
    }
}

fn check(settings: &FunctionHostSettings) -> Result<(), FunctionHostError> {
    if !settings.listen.ip().is_loopback() {
        return Err(FunctionHostError::NotLoopback(settings.listen));
    }
    let mut names = std::collections::BTreeSet::new();
    for function in &settings.functions {
        let name = &function.name;
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            return Err(FunctionHostError::Name(name.clone()));
        }
        if function.max_concurrency == 0 {
            return Err(FunctionHostError::NoConcurrency(name.clone()));
        }
        if !names.insert(name) {
            return Err(FunctionHostError::Twice(name.clone()));
        }
    }
    Ok(())
}
