//! The binary from outside: exit codes, and what is printed where.

use std::process::{Command, Output};

/// Runs the binary without the variables that tests use for themselves.
fn lighterman(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lighterman"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LIGHTERMAN_"))
    {
        command.env_remove(name);
    }
    command.args(args).envs(environment.iter().copied()).output().expect("it runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn check_prints_what_is_in_force_and_hides_secrets() {
    let secret =
        [("LIGHTERMAN_ROOT_ACCESS_KEY_ID", "AKID"), ("LIGHTERMAN_ROOT_SECRET_ACCESS_KEY", "very-secret")];
    let output = lighterman(&["check", "--log-level", "debug"], &secret);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    assert!(shown.contains("listen = \"127.0.0.1:9010\" # default"), "{shown}");
    assert!(shown.contains("level = \"debug\" # flag"), "{shown}");
    assert!(shown.contains("(hidden)") && !shown.contains("very-secret"), "{shown}");
}

#[test]
fn check_exits_2_with_one_line_that_names_the_mend() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("lighterman.toml");
    std::fs::write(&file, "metrics_listn = '127.0.0.1:1'\n").expect("file");
    let output = lighterman(&["check", "--config", &file.to_string_lossy()], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    assert!(stderr(&output).contains("Did you mean `metrics_listen`?"), "{}", stderr(&output));
    assert!(stdout(&output).is_empty());
    let variable = lighterman(&["check"], &[("LIGHTERMAN_LISSTEN", "x")]);
    assert_eq!(variable.status.code(), Some(2));
    assert!(stderr(&variable).contains("`LIGHTERMAN_LISTEN`"), "{}", stderr(&variable));
}

#[test]
fn wrong_usage_is_2_and_help_is_0_with_examples() {
    assert_eq!(lighterman(&["chekc"], &[]).status.code(), Some(2));
    assert_eq!(lighterman(&[], &[]).status.code(), Some(2));
    let help = lighterman(&["check", "--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("Examples:"));
    assert_eq!(lighterman(&["sample-function"], &[]).status.code(), Some(1), "only a host starts it");
}
