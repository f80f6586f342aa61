//! `lighterman dev` as a developer starts it: with a function in a package, with one that cannot be imported, and
//! as a second instance.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const LIMIT: Duration = Duration::from_secs(120);

/// Lock of the default ports, which all tests of this file share: an instance that ends would release them while
/// another relies on them.
static USUAL_PORTS: Mutex<()> = Mutex::new(());

/// A running `dev` and its output.
struct DevProcess {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl DevProcess {
    /// Starts it in `project`, with the tests' Python first on the path.
    fn start(project: &Path, python: Option<&Path>, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lighterman"));
        command.arg("dev").args(arguments).current_dir(project).stdin(Stdio::null());
        if let Some(folder) = python.and_then(Path::parent) {
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{path}", folder.display()));
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let (sender, lines) = channel();
        let pipes: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().expect("piped")), Box::new(child.stderr.take().expect("piped"))];
        for pipe in pipes {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line, including earlier ones.
    fn until(&mut self, what: &str) -> String {
        let end = Instant::now() + LIMIT;
        let mut from = 0;
        loop {
            if let Some(line) = self.seen[from..].iter().find(|line| line.contains(what)) {
                return line.clone();
            }
            from = self.seen.len();
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("no `{what}` ({error}) in {:#?}", self.seen),
            }
        }
    }

    /// Sends SIGTERM and returns the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a pid");
        kill_process(pid, Signal::TERM).expect("signalled");
        self.end()
    }

    /// Waits for the end and returns the exit code.
    fn end(&mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("status") {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the process does not exit: {:#?}", self.seen);
    }
}

impl Drop for DevProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns a Python with `awslambdaric`. Prints one line and returns `None` if there is none.
fn python() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var("TEST_LIGHTERMAN_PYTHON").unwrap_or_else(|_| "python3".into()));
    let probe = Command::new(&python).args(["-c", "import awslambdaric"]).stderr(Stdio::null()).status();
    let found = probe.is_ok_and(|status| status.success());
    assert!(
        found || std::env::var_os("TEST_LIGHTERMAN_REQUIRE_CLIENTS").is_none(),
        "run .ci/install-clients"
    );
    if !found {
        println!("skipped: no awslambdaric (.ci/install-clients brings it)");
    }
    found.then_some(python)
}

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        std::fs::write(path, text).expect("file");
    }
    folder
}

#[test]
fn function_output_and_first_error_shown() {
    let Some(python) = python() else { return };
    let _ports = USUAL_PORTS.lock();
    let code = "from orders.names import NAME\n\ndef handler(event, context):\n    print('hello from', NAME)\n    \
                raise ValueError('as asked')\n";
    let folder = project(&[("orders/app.py", code), ("orders/names.py", "NAME = 'a sibling'\n")]);
    let mut dev =
        DevProcess::start(folder.path(), Some(&python), &["--function", "orders.app.handler", "--rate", "1"]);
    let printed = dev.until("hello from a sibling");
    let (request, _) = printed.split_once(" | ").expect("a request id");
    assert_eq!(request.len(), 36, "{printed}");
    assert!(dev.until("function error ValueError: as asked").starts_with(request));
    dev.until("raise ValueError('as asked')");
}

#[test]
fn unimportable_function_is_reported_at_once() {
    let Some(python) = python() else { return };
    let _ports = USUAL_PORTS.lock();
    let folder = project(&[("app.py", "import no_such_module\n\ndef handler(event, context):\n    pass\n")]);
    let mut dev = DevProcess::start(folder.path(), Some(&python), &["--function", "app.handler"]);
    let told = dev.until("function `app.handler` cannot start");
    assert!(told.contains("Runtime.ImportModuleError") && told.contains("no_such_module"), "{told}");
    assert_eq!(dev.end(), Some(1));
}

#[test]
fn second_instance_keeps_only_chosen_ports() {
    let _ports = USUAL_PORTS.lock();
    let folder = project(&[]);
    let mut first = DevProcess::start(folder.path(), None, &["--rate", "0"]);
    first.until("control API");
    first.until("try:");
    let mut second = DevProcess::start(folder.path(), None, &["--rate", "0"]);
    // The first instance may have found another program on its ports; of the second's three, at least these two are
    // certainly in use.
    let endpoint = second.until("control API  http://");
    second.until("port 9010 is taken; the control API uses");
    second.until("port 9011 is taken; metrics uses");
    assert_ne!(endpoint, first.until("control API  http://"));
    let export = second.until("AWS_DEFAULT_REGION=");
    assert!(export.contains("export AWS_REGION="), "both variables, one for each CLI: {export}");
    let mut third = DevProcess::start(folder.path(), None, &["--listen", "127.0.0.1:9010"]);
    third.until("the control API cannot listen on 127.0.0.1:9010: set `listen` to a free address");
    assert_eq!(third.end(), Some(1));
    assert_eq!(second.stop(), Some(0));
    assert_eq!(first.stop(), Some(0));
}

#[test]
fn sigterm_during_start_leaves_no_function_running() {
    use std::os::unix::fs::PermissionsExt;
    let _ports = USUAL_PORTS.lock();
    // A function that starts, prints its process id, and never requests an invocation.
    let folder = project(&[("bootstrap", "#!/bin/sh\necho process $$\nexec sleep 600\n")]);
    let program = folder.path().join("bootstrap");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let mut dev = DevProcess::start(folder.path(), None, &["--function", "bootstrap"]);
    let told = dev.until("function start | process ");
    let function = told.rsplit(' ').next().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
    let function = function.expect("a process");
    assert!(test_kill_process(function).is_ok(), "it runs");
    assert_eq!(dev.stop(), Some(1));
    assert!(test_kill_process(function).is_err(), "its own process group receives no signal");
}
