//! `lighterman run`: one node.

use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{EXIT_FAILED, EXIT_FINE, EXIT_USAGE, SettingsArgs, print_line, print_problem};
use crate::app::node::{NodeListeners, RunningNode};
use crate::config::Settings;

/// Examples that `--help` prints.
pub const EXAMPLES: &str = "Examples:
  lighterman run
  lighterman run --config /etc/lighterman.toml
  AWS_ENDPOINT_URL_LAMBDA=http://localhost:3001 lighterman run    # any endpoint that implements Invoke";

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Runs the node until a signal tells it to drain.
pub fn run(args: &RunArgs) -> ExitCode {
    with_settings(&args.settings, |settings| async move { node(settings).await })
}

async fn node(settings: Settings) -> anyhow::Result<()> {
    anyhow::ensure!(
        settings.control.is_none(),
        "`control.bootstrap` is set, but this version of Lighterman runs a node alone: remove it"
    );
    // Installed first, so that a signal during the start drains, too.
    let mut signals = StopSignals::listen()?;
    let listeners = NodeListeners::bind(&settings)?;
    let settings = settings.listening_on(listeners.api.local_addr()?, listeners.metrics.local_addr()?);
    let port = tokio::select! {
        port = crate::invoker::port_from_environment(&settings) => port?,
        () = signals.next() => return Ok(()),
    };
    let node = RunningNode::start_on(&settings, listeners, port)?;
    if let Some((id, secret)) = &node.first_key {
        print_line(&format!(
            "first API key, shown once:\n  export AWS_ACCESS_KEY_ID={id} AWS_SECRET_ACCESS_KEY={secret}\n  \
             export AWS_REGION={region} AWS_DEFAULT_REGION={region}",
            region = settings.region
        ));
    }
    print_line(&format!(
        "control API {}   metrics http://{}/metrics",
        node.endpoint_url(),
        settings.metrics_listen
    ));
    signals.next().await;
    tracing::info!("draining; a second signal stops at once");
    drain(node, &mut signals).await
}

/// Drains `node`. A second signal, or the deadline, ends it as a kill would.
pub(super) async fn drain(node: RunningNode, signals: &mut StopSignals) -> anyhow::Result<()> {
    tokio::select! {
        drained = node.drain() => {
            anyhow::ensure!(drained, "the drain deadline came before everything in flight was answered");
            Ok(())
        }
        () = signals.next() => anyhow::bail!("stopped by a second signal; what was in flight is delivered again"),
    }
}

/// SIGTERM and SIGINT.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Loads the settings, then runs `body` in an actix system. Returns the exit code.
pub(super) fn with_settings<F>(args: &SettingsArgs, body: impl FnOnce(Settings) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let settings = match args.load() {
        Ok(settings) => settings,
        Err(error) => {
            print_problem(&error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if let Err(error) = crate::telemetry::install(&settings.log) {
        print_problem(&error);
        return ExitCode::from(EXIT_USAGE);
    }
    if let Some(variables) = settings.foreign_variables_text() {
        tracing::warn!(
            variables,
            "environment variables with the prefix LIGHTERMAN_ that name no key are ignored"
        );
    }
    match actix_rt::System::new().block_on(body(settings)) {
        Ok(()) => ExitCode::from(EXIT_FINE),
        Err(error) => {
            print_problem(&format!("{error:#}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}
