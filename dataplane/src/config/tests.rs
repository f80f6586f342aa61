use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use secrecy::ExposeSecret;

use super::*;

fn load(
    file: &str,
    environment: &[(&str, &str)],
    flags: &[(&'static str, String)],
) -> Result<Settings, ConfigError> {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("lighterman.toml");
    std::fs::write(&path, file).expect("file");
    let pairs = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Settings::load_with(Some(&path), pairs, flags)
}

fn wrong(file: &str, environment: &[(&str, &str)]) -> String {
    load(file, environment, &[]).expect_err("wrong").to_string()
}

#[test]
fn defaults_match_key_table() {
    let settings = load("", &[], &[]).expect("settings");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:9010");
    assert_eq!(settings.metrics_listen.to_string(), "127.0.0.1:9011");
    assert_eq!(settings.data_dir, Path::new("./lighterman-data"));
    assert_eq!((settings.region.as_str(), settings.account_id.as_str()), ("us-east-1", "000000000000"));
    assert_eq!(settings.control, None);
    assert_eq!(settings.drain_deadline, None);
    assert_eq!(settings.kafka.session_timeout, Duration::from_secs(10));
    assert_eq!(settings.kafka.isolation, IsolationSetting::ReadCommitted);
    let pauses = |settings: &Settings| (settings.invoke.backoff_base, settings.invoke.backoff_max);
    assert_eq!(pauses(&settings), (Duration::from_millis(200), Duration::from_mins(1)));
    let set = load("[invoke]\nbackoff_base = '1s'", &[("LIGHTERMAN_INVOKE_BACKOFF_MAX", "5s")], &[]);
    assert_eq!(pauses(&set.expect("settings")), (Duration::from_secs(1), Duration::from_secs(5)));
    assert!(settings.egress.loopback);
    assert_eq!(settings.egress.own_listeners, [settings.listen, settings.metrics_listen]);
}

#[test]
fn flags_win_over_environment_over_file() {
    let file = "region = 'file'\naccount_id = '111111111111'\n[log]\nlevel = 'debug'\n[node]\nid = 'f'\n";
    let environment =
        [("LIGHTERMAN_REGION", "environment"), ("LIGHTERMAN_LOG_LEVEL", "warn"), ("AWS_REGION", "aws")];
    let settings = load(file, &environment, &[("log.level", "trace".into())]).expect("settings");
    assert_eq!(settings.account_id, "111111111111");
    assert_eq!(settings.region, "environment");
    assert_eq!(settings.log.level, "trace");
    assert_eq!(settings.node.id, "f");
    assert!(settings.effective().contains("region = \"environment\" # environment"));
    assert_eq!(load("", &[("AWS_REGION", "aws")], &[]).expect("settings").region, "aws");
}

#[test]
fn unknown_key_error_names_nearest_key() {
    assert!(wrong("lissten = 'x'", &[]).contains("unknown key `lissten`"));
    assert!(wrong("lissten = 'x'", &[]).ends_with("Did you mean `listen`?"));
    assert!(wrong("[nodes]\nid = 'x'", &[]).contains("Did you mean `node."));
    assert!(wrong("[egress]\nalow = []", &[]).ends_with("Did you mean `egress.allow`?"));
    let variable = wrong("", &[("LIGHTERMAN_MEMORY_BUGDET", "1GiB")]);
    assert!(variable.ends_with("Did you mean `LIGHTERMAN_MEMORY_BUDGET`?"), "{variable}");
    assert!(load("", &[("LIGHTERMAN_CONFIG", "x"), ("OTHER", "y")], &[]).is_ok());
}

#[test]
fn foreign_variables_are_ignored_and_named() {
    let injected = [
        ("LIGHTERMAN_PORT", "tcp://10.0.0.7:9010"),
        ("LIGHTERMAN_SERVICE_HOST", "10.0.0.7"),
        ("LIGHTERMAN_LOG_LEVEL", "warn"),
        ("LIGHTERMAN_PORT_9010_TCP_ADDR", "10.0.0.7"),
    ];
    let settings = load("", &injected, &[]).expect("settings");
    assert_eq!(settings.log.level, "warn");
    let names = ["LIGHTERMAN_PORT", "LIGHTERMAN_PORT_9010_TCP_ADDR", "LIGHTERMAN_SERVICE_HOST"];
    assert_eq!(settings.foreign_variables, names);
    let shown = settings.effective();
    assert!(shown.contains("# ignored, not ours: LIGHTERMAN_PORT, "), "{shown}");
    assert!(!shown.contains("10.0.0.7"), "a foreign value may be a secret: {shown}");
    let odd = load("", &[("LIGHTERMAN_X\nlisten = '0.0.0.0:1'\u{1}", "y")], &[]).expect("settings");
    let again = load(odd.effective(), &[], &[]).expect("a name does not break its line");
    assert_eq!(again.listen, odd.listen);
}

#[test]
fn invalid_value_names_key_source_and_fix() {
    for (file, said) in [
        ("listen = 'here'", "`listen` (from file) is wrong: `here` is no address: write IP:PORT"),
        ("listen = true", "it takes a string"),
        ("account_id = 12", "twelve digits"),
        ("[log]\nlevel = ' '", "` ` is no level: write info, debug, or directives"),
        ("[log]\nlevel = 'verbose'", "`verbose` is no level: write info, debug, or directives"),
        ("[log]\nlevel = 'warn,'", "`warn,` is no level: write info, debug, or directives"),
        ("memory_budget = '1KiB'", "at least"),
        ("memory_budget = '95%'", "between 1% and 90%"),
        ("memory_budget = 'lots'", "512MiB"),
        ("drain_deadline = '5'", "write 10s"),
        ("metrics_listen = '127.0.0.1:9010'", "choose another port"),
        ("root_access_key_id = 'a'", "root_secret_access_key"),
        ("[control]\nbootstrap = 'kafka'", "HOST:PORT"),
        ("[egress]\nallow = ['ten']", "10.0.0.0/8"),
        ("[kafka]\nisolation = 'none'", "read_committed, read_uncommitted"),
        ("[kafka]\nsession_timeout = '1s'", "between 6s and 30m"),
        ("[log]\nformat = 'xml'", "text, json"),
        ("region = 'x'\nb", "not TOML, line 2"),
    ] {
        let error = wrong(file, &[]);
        assert!(error.contains(said), "{file}: {error}");
    }
    assert!(wrong("", &[("LIGHTERMAN_LISTEN", "x")]).contains("(from environment)"));
}

#[test]
fn secrets_are_used_but_never_shown() {
    let file = "root_access_key_id = 'AKID'\nroot_secret_access_key = 'very-secret'\n";
    let settings = load(file, &[], &[]).expect("settings");
    assert_eq!(
        settings.root_secret_access_key.as_ref().map(ExposeSecret::expose_secret),
        Some("very-secret")
    );
    assert!(!settings.effective().contains("very-secret"));
    assert!(settings.effective().contains("root_secret_access_key = \"(hidden)\" # file"));
    assert!(!format!("{settings:?}").contains("very-secret"));
    let broken = wrong("root_secret_access_key = 'very-secret", &[]);
    assert!(!broken.contains("very-secret"), "{broken}");
}

#[test]
fn effective_configuration_can_be_loaded() {
    let file = "[egress]\nallow = ['10.0.0.0/8', '127.0.0.1']\n[control]\nbootstrap = 'a:1,b:2'\n";
    let first = load(file, &[], &[]).expect("settings");
    let again = load(first.effective(), &[], &[]).expect("readable");
    assert_eq!(again.egress.allow, first.egress.allow);
    assert_eq!(again.control, first.control);
    assert_eq!(again.control.expect("control").bootstrap, ["a:1", "b:2"]);
}

#[test]
fn loopback_is_denied_when_api_is_public() {
    let settings = load("listen = '0.0.0.0:9010'", &[], &[]).expect("settings");
    assert!(settings.egress.check("127.0.0.1:9092".parse().expect("address")).is_err());
}
