//! Command line and configuration, as the program prints them.

use std::fmt::Write;
use std::process::{Command, Stdio};

use lighterman::config::{KEYS, environment_variable};

/// Values of the keys whose default depends on the machine.
const MACHINE: [(&str, &str); 4] = [
    ("LIGHTERMAN_LOG_FORMAT", "text"),
    ("LIGHTERMAN_MEMORY_BUDGET", "512MiB"),
    ("LIGHTERMAN_NODE_ID", "node-a"),
    ("LIGHTERMAN_REGION", "eu-west-1"),
];

/// Returns what the program prints on standard output.
fn printed(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lighterman"));
    command.args(arguments).env_clear().env("COLUMNS", "100").envs(environment.iter().copied());
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Returns the help of the program and of all subcommands.
pub(crate) fn help() -> String {
    let (mut shown, mut waiting) = (String::new(), vec![Vec::<String>::new()]);
    while let Some(command) = waiting.pop() {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = printed(&arguments, &[]);
        let _ = writeln!(shown, "$ lighterman {}\n{help}", arguments.join(" "));
        let below = subcommands(&help).map(|name| [command.as_slice(), &[name.to_owned()]].concat());
        waiting.extend(below.collect::<Vec<_>>().into_iter().rev());
    }
    shown
}

fn subcommands(help: &str) -> impl Iterator<Item = &str> {
    let list = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let names = list.lines().take_while(|line| !line.is_empty()).filter_map(|line| {
        let line = line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?;
        line.split_whitespace().next()
    });
    names.filter(|name| *name != "help")
}

/// Returns all keys with their defaults, and the output of `check` without a configuration.
pub(crate) fn configuration() -> String {
    let mut shown = String::new();
    for key in KEYS {
        let (path, default, variable) = (key.path, key.default, environment_variable(key.path));
        let secret = if key.secret { " secret" } else { "" };
        let _ = writeln!(shown, "{path} = {default:?} {variable}{secret}");
    }
    let _ = write!(shown, "\n$ lighterman check\n{}", printed(&["check"], &MACHINE));
    shown
}
