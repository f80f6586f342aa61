//! Real handlers behind Lambda's Invoke API, on this machine: each instance is a process that speaks the Runtime API to us.
//!
//! ```text
//! Invoke API ──▶ core (queue, instances, deadlines) ──▶ Runtime API (one loopback port per instance) ──▶ process
//! ```
//! Signatures are not checked, so it listens on loopback only. A function has one version, `$LATEST`; every qualifier means it.

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

/// One function to host.
#[derive(Clone, Debug)]
pub struct FunctionSpec {
    /// Its name: letters, digits, `-` and `_`, at most 64.
    pub name: String,
    /// What to run.
    pub command: FunctionCommand,
    /// How long one invocation may take.
    pub timeout: Duration,
    /// Invocations at once, each in a process of its own; more are throttled.
    pub max_concurrency: u32,
    /// Variables the function sees besides the ones Lambda sets.
    pub env: BTreeMap<String, String>,
    /// An instance starts with the host, not with the first invocation, so that a function which cannot start is heard of.
    pub initialized_early: bool,
}

/// What to host and where.
#[derive(Clone)]
pub struct FunctionHostSettings {
    /// Invoke API; loopback only. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// For ARNs.
    pub region: String,
    /// For ARNs, twelve digits.
    pub account_id: String,
    /// The functions.
    pub functions: Vec<FunctionSpec>,
    /// Told what they do.
    pub observer: Arc<dyn FunctionObserver>,
}

/// Why the host does not start.
#[derive(Debug, Error)]
pub enum FunctionHostError {
    /// Anyone who reaches the port may run the functions.
    #[error(
        "the function host checks no signatures, so it listens on loopback only, not on {0}: use 127.0.0.1"
    )]
    NotLoopback(SocketAddr),
    /// The port is not to be had.
    #[error("the function host cannot listen on {address}: {source}. Use port 0 for a free one")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Not a function name.
    #[error("`{0}` is no function name: 1–64 letters, digits, `-` and `_`")]
    Name(String),
    /// Two functions of one name.
    #[error("two functions are named `{0}`: rename one")]
    Twice(String),
    /// A function that may never run.
    #[error("function `{0}` has max_concurrency 0: it could never run, use at least 1")]
    NoConcurrency(String),
    /// No thread or no runtime.
    #[error("the function host's thread cannot start: {0}")]
    Thread(io::Error),
}

/// A running function host. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct FunctionHost {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FunctionHost {
    /// Starts the host on a thread of its own and returns once it listens. Processes start with their first invocation, or at once where
    /// that is asked for.
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

    /// Where the Invoke API listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://…`, for `AWS_ENDPOINT_URL_LAMBDA`.
    pub fn endpoint_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills every instance and returns when all are gone and the port is free.
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
