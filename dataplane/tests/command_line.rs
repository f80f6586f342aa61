//! The binary from outside: exit codes, standard output and standard error.

use std::process::{Command, Output};

/// Runs the binary without the environment variables that tests use.
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
fn check_prints_effective_settings_and_hides_secrets() {
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
fn failed_check_exits_2_naming_fix() {
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
fn wrong_usage_exits_2_help_0() {
    assert_eq!(lighterman(&["chekc"], &[]).status.code(), Some(2));
    assert_eq!(lighterman(&[], &[]).status.code(), Some(2));
    let help = lighterman(&["check", "--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("Examples:"));
    assert_eq!(lighterman(&["sample-function"], &[]).status.code(), Some(1), "only a function host runs it");
}

#[test]
fn filter_test_needs_no_node() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("orders.jsonl");
    let orders = "{\"state\":\"paid\"}\n{\"state\":\"new\"}\r\nno JSON\n";
    std::fs::write(&file, orders).expect("file");
    let file = file.to_string_lossy().into_owned();
    let pattern = r#"{"value":{"state":["paid"]}}"#;
    let output = lighterman(&["filter", "test", "--pattern", pattern, &file], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = stdout(&output);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["1", "match,", "filter", "1", "JSON", r#"{"state":"paid"}"#]);
    assert_eq!(lines[1], ["2", "no", "match", "JSON", r#"{"state":"new"}"#]);
    assert_eq!(
        lines[2][..5],
        ["3", "match,", "filter", "1", "text"],
        "a value that cannot be evaluated is delivered"
    );
    assert_eq!(lines[3].join(" "), "2 of 3 records match");
    let criteria = folder.path().join("filters.json");
    std::fs::write(&criteria, r#"{"Filters":[{"Pattern":"{\"key\":[\"k\"]}"}]}"#).expect("file");
    std::fs::write(&file, "{\"key\":\"k\"}\n{\"key\":null}\n").expect("file");
    let criteria = format!("@{}", criteria.display());
    let arguments = [
        "filter",
        "test",
        "--filter-criteria",
        &criteria,
        "--records-are",
        "records",
        "--output",
        "json",
        &file,
    ];
    let output = lighterman(&arguments, &[]);
    let lines: Vec<serde_json::Value> =
        stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&lines[0]["Matched"], &lines[1]["Matched"]), (&true.into(), &false.into()), "{lines:?}");
}

#[test]
fn invalid_pattern_exits_2_with_position() {
    let output = lighterman(&["filter", "test", "--pattern", r#"{"value":{"a":[{"prefx":"x"}]}}"#], &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = stderr(&output);
    assert!(told.starts_with("error: filter 1, value.a[0].prefx (byte 15): no operator `prefx`"), "{told}");
    assert_eq!(told.lines().last(), Some(format!("  {:15}^", "").as_str()), "{told}");
    let missing = lighterman(&["filter", "test", "--pattern", r#"{"value":["a"]}"#, "/nowhere/at/all"], &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(lighterman(&["filter", "test"], &[]).status.code(), Some(2), "without a pattern");
}
