//! Process of an instance: started in its own process group, killed with the whole group.

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::FunctionSpec;
use super::logs::{self, InstanceOutput};
use super::observer::FunctionObserver;

/// Memory size announced to functions; it is not enforced.
pub(super) const MEMORY_MB: &str = "512";

/// Starts an instance whose Runtime API is at `runtime_api`.
pub(super) fn start(
    spec: &FunctionSpec,
    region: &str,
    runtime_api: SocketAddr,
    output: &InstanceOutput,
    observer: &Arc<dyn FunctionObserver>,
) -> io::Result<Child> {
    let mut command = Command::new(&spec.command.program);
    command.args(&spec.command.args).current_dir(&spec.command.directory);
    // Settings of Lighterman hold its secrets.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LIGHTERMAN_"))
    {
        command.env_remove(name);
    }
    command.env_remove("AWS_LAMBDA_MAX_CONCURRENCY");
    for (name, value) in lambda_environment(spec, region, runtime_api) {
        command.env(name, value);
    }
    command.envs(&spec.env);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
    if let Some(pipe) = child.stdout.take() {
        let (name, observer) = (spec.name.clone(), Arc::clone(observer));
        tokio::task::spawn_local(logs::follow(name, pipe, output.clone(), observer));
    }
    if let Some(pipe) = child.stderr.take() {
        let (name, observer) = (spec.name.clone(), Arc::clone(observer));
        tokio::task::spawn_local(logs::follow(name, pipe, output.clone(), observer));
    }
    Ok(child)
}

/// Waits until the process exits, or kills it once `kill` is dropped or sent. Returns a description of the exit.
pub(super) async fn watch(mut child: Child, kill: oneshot::Receiver<()>) -> String {
    let ended = tokio::select! {
        status = child.wait() => status,
        _ = kill => {
            end_group(&child);
            child.wait().await
        }
    };
    match ended {
        Ok(status) => status.to_string().replace("exit status: ", "exit status "),
        Err(error) => format!("cannot be watched: {error}"),
    }
}

/// Kills the process group. The process is not yet reaped, so its id cannot have been reused.
fn end_group(child: &Child) {
    let Some(pid) = child.id().and_then(|id| Pid::from_raw(id as i32)) else { return };
    if let Err(error) = kill_process_group(pid, Signal::KILL) {
        tracing::warn!(%error, pid = pid.as_raw_nonzero().get(), "function process cannot be killed");
    }
}

fn lambda_environment(
    spec: &FunctionSpec,
    region: &str,
    runtime_api: SocketAddr,
) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_string()),
        ("AWS_LAMBDA_FUNCTION_NAME", spec.name.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".into()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", MEMORY_MB.into()),
        ("AWS_LAMBDA_FUNCTION_TIMEOUT", spec.timeout.as_secs().max(1).to_string()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", spec.name)),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "local".into()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".into()),
        ("AWS_REGION", region.into()),
        ("AWS_DEFAULT_REGION", region.into()),
        ("LAMBDA_TASK_ROOT", spec.command.directory.display().to_string()),
        ("_HANDLER", spec.command.handler.clone()),
        // Shows output when it is written, not when Python's buffer is full.
        ("PYTHONUNBUFFERED", "1".into()),
    ];
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
        environment.push(("AWS_ACCESS_KEY_ID", "local".into()));
        environment.push(("AWS_SECRET_ACCESS_KEY", "local".into()));
    }
    environment
}
