//! Fuzz subject: a configuration file and, after zero bytes, variables as `NAME=value`, of arbitrary bytes.
//! Nothing panics. An accepted configuration is shown and read again without change, errors name an existing key,
//! and a secret is never shown.

use std::cell::LazyCell;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use lighterman::config::{ConfigError, KEYS, Settings};
use tempfile::TempDir;

const SECRET: &str = "c4n4ry-0f-4-s3cr3t";

thread_local! {
    static FOLDER: LazyCell<TempDir> = LazyCell::new(super::shelf::folder);
}

/// Loads `bytes`. Returns 1 if they were accepted, so that callers can check that some inputs are valid.
pub(crate) fn run(bytes: &[u8]) -> usize {
    let mut parts = bytes.split(|byte| *byte == 0);
    let file = parts.next().unwrap_or_default();
    let variables: Vec<_> = parts.filter_map(variable).collect();
    for before in
        [format!("root_secret_access_key = '{SECRET}'\n"), format!("root_secret_access_key = \"{SECRET}")]
    {
        hides(&[before.as_bytes(), file].concat(), &variables);
    }
    match load(file, &variables) {
        Ok(settings) => {
            check_again(&settings);
            1
        }
        Err(error) => {
            check(&error);
            0
        }
    }
}

fn variable(bytes: &[u8]) -> Option<(OsString, OsString)> {
    let at = bytes.iter().position(|byte| *byte == b'=')?;
    Some((OsString::from_vec(bytes[..at].to_vec()), OsString::from_vec(bytes[at + 1..].to_vec())))
}

fn load(file: &[u8], variables: &[(OsString, OsString)]) -> Result<Settings, ConfigError> {
    let path = FOLDER.with(|folder| folder.path().join("lighterman.toml"));
    fs::write(&path, file).expect("a file");
    Settings::load_with(Some(&path), variables.iter().cloned(), &[])
}

fn hides(file: &[u8], variables: &[(OsString, OsString)]) {
    let shown = match load(file, variables) {
        Ok(settings) => format!("{}{settings:?}", settings.effective()),
        Err(error) => format!("{error}{error:?}"),
    };
    let holds = |text: &OsString| text.to_string_lossy().contains(SECRET);
    let given = variables.iter().any(|(name, value)| holds(name) || holds(value));
    let twice = file.windows(SECRET.len()).filter(|window| *window == SECRET.as_bytes()).count() > 1;
    assert!(given || twice || !shown.contains(SECRET), "{shown}");
}

/// Checks that the shown settings are read as the same settings. A size is shown rounded.
fn check_again(settings: &Settings) {
    let again = load(settings.effective().as_bytes(), &[]).expect("what is shown can be read");
    let plain = |settings: &Settings| {
        let Settings { listen, metrics_listen, data_dir, root_access_key_id, control, region, .. } = settings;
        format!(
            "{listen} {metrics_listen} {} {root_access_key_id:?} {control:?} {region:?}",
            data_dir.display()
        )
    };
    let rest = |settings: &Settings| {
        let Settings { account_id, node, drain_deadline, egress, kafka, invoke, log, .. } = settings;
        format!("{account_id} {node:?} {drain_deadline:?} {egress:?} {kafka:?} {invoke:?} {log:?}")
    };
    assert_eq!((plain(&again), rest(&again)), (plain(settings), rest(settings)));
    assert_eq!(again.root_secret_access_key.is_some(), settings.root_secret_access_key.is_some());
    let (budget, shown) = (settings.memory_budget as f64, again.memory_budget as f64);
    assert!((budget - shown).abs() <= budget / 100.0, "{budget} is shown as {shown}");
}

fn check(error: &ConfigError) {
    let known = |key: &str| KEYS.iter().any(|known| known.path == key);
    match error {
        ConfigError::Value { key, why, .. } => assert!(known(key) && !why.is_empty()),
        ConfigError::UnknownKey { key, nearest, .. } => assert!(!known(key) && known(nearest)),
        ConfigError::Syntax { line, message, .. } => assert!(*line >= 1 && !message.is_empty()),
        ConfigError::UnknownVariable { variable, nearest } => assert_ne!(variable, nearest),
        ConfigError::Unreadable { .. } | ConfigError::NotText(_) => {}
    }
}
