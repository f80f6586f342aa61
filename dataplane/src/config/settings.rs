//! Validated settings of a node.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use tracing::level_filters::LevelFilter;

use super::keys::KEYS;
use super::layers::{ConfigError, ConfigLayers, ValueSource};
use super::{machine, values};
use crate::egress::Egress;
use crate::kafka::group::GroupProtocol;

/// Minimum memory budget: below it, a maximum payload and the frame it comes from would not fit.
const MEMORY_BUDGET_MIN: u64 = 16 * 1024 * 1024;
/// Maximum of `commit.unacknowledged_batches`.
const UNACKNOWLEDGED_BATCHES_MAX: u32 = 1_000;
/// Maximum number of foreign variables to name. A namespace may inject hundreds.
const FOREIGN_VARIABLES_NAMED_MAX: usize = 10;
/// Maximum characters of a variable's name that are shown.
const FOREIGN_NAME_CHARACTERS_MAX: usize = 64;

/// Validated settings of a node.
#[derive(Debug)]
pub struct Settings {
    /// Address of the control API.
    pub listen: SocketAddr,
    /// Address of `/metrics`, `/healthz` and `/readyz`.
    pub metrics_listen: SocketAddr,
    /// Folder of the embedded store.
    pub data_dir: PathBuf,
    /// First API key; set together with its secret, or not at all.
    pub root_access_key_id: Option<String>,
    /// Secret of the first API key.
    pub root_secret_access_key: Option<SecretString>,
    /// Control log of the fleet; `None` for a standalone node.
    pub control: Option<ControlSettings>,
    /// Region in ARNs.
    pub region: String,
    /// Account id in ARNs, twelve digits.
    pub account_id: String,
    /// Identity of this node.
    pub node: NodeSettings,
    /// Budget of fetch buffers and payloads together, in bytes.
    pub memory_budget: usize,
    /// Maximum duration of a drain; `None` means 960 s, the longest timeout of a function and a minute.
    pub drain_deadline: Option<Duration>,
    /// Addresses that may be dialled; the node's own listeners are denied.
    pub egress: Egress,
    /// Kafka settings.
    pub kafka: KafkaSettings,
    /// Commit settings.
    pub commit: CommitSettings,
    /// Invocation settings.
    pub invoke: InvokeSettings,
    /// Log settings.
    pub log: LogSettings,
    /// Environment variables with the prefix `LIGHTERMAN_` that belong to other programs; they set nothing.
    pub foreign_variables: Vec<String>,
    origins: BTreeMap<&'static str, ValueSource>,
    shown: String,
}

/// Settings of a fleet's control log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// Bootstrap servers, `HOST:PORT`.
    pub bootstrap: Vec<String>,
    /// Topic of the control log.
    pub topic: String,
}

/// Identity of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSettings {
    /// Name in logs and group membership.
    pub id: String,
}

/// Settings of Kafka sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSettings {
    /// Group protocol of the consumer groups.
    pub group_protocol: GroupProtocol,
    /// Session timeout of the consumer groups. With the consumer protocol it applies where the broker does not return
    /// its own.
    pub session_timeout: Duration,
    /// Visibility of records of open and aborted transactions.
    pub isolation: IsolationSetting,
}

/// Settings of commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitSettings {
    /// Maximum number of a partition's unacknowledged commits with which its next batch may start; 0 awaits each
    /// commit.
    pub unacknowledged_batches: u32,
    /// Age of the oldest unacknowledged commit at which no further batch starts.
    pub unacknowledged_window: Duration,
}

/// Kafka's isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolationSetting {
    /// Committed records only.
    ReadCommitted,
    /// All records.
    ReadUncommitted,
}

/// Settings of invocations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvokeSettings {
    /// Upper bound of the first backoff between two attempts of one batch (full jitter: between zero and this).
    pub backoff_base: Duration,
    /// Maximum backoff between two attempts of one batch.
    pub backoff_max: Duration,
    /// Client that sends the invocations.
    pub client: InvokeClient,
}

/// Client of the Invoke API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvokeClient {
    /// Built-in client on hyper, with its own signer.
    Direct,
    /// Lambda client of the AWS SDK.
    Sdk,
}

/// Log settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Format of log lines.
    pub format: LogFormat,
    /// Level, or tracing directives.
    pub level: String,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// JSON, one object a line.
    Json,
}

impl Settings {
    /// Loads `file`, this process's environment and `flags` (key path, value), in ascending precedence.
    pub fn load(file: Option<&Path>, flags: &[(&'static str, String)]) -> Result<Self, ConfigError> {
        Self::load_with(file, std::env::vars_os(), flags)
    }

    /// Loads as [`Settings::load`] does, with the given environment.
    pub fn load_with(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[(&'static str, String)],
    ) -> Result<Self, ConfigError> {
        let mut layers = ConfigLayers::default();
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
            layers.add_file(path, &text)?;
        }
        let environment: Vec<_> = environment.into_iter().collect();
        let aws_region = environment.iter().find(|(name, _)| name == "AWS_REGION");
        let aws_region = aws_region.and_then(|(_, value)| value.to_str()).filter(|value| !value.is_empty());
        let region = aws_region.unwrap_or("us-east-1").to_owned();
        layers.add_environment(environment)?;
        layers.add_flags(flags);
        Self::from_layers(&layers, region)
    }

    fn from_layers(layers: &ConfigLayers, region: String) -> Result<Self, ConfigError> {
        use values::{optional, typed};
        let listen = typed(layers, "listen", values::address)?;
        let metrics_listen = typed(layers, "metrics_listen", values::address)?;
        let memory = |text: &str| values::bytes_or_share(text, machine::memory_bytes(), MEMORY_BUDGET_MIN);
        let root_secret = optional(layers, "root_secret_access_key", |text| Ok(SecretString::from(text)))?;
        let mut settings = Self {
            listen,
            metrics_listen,
            data_dir: typed(layers, "data_dir", values::word)?.into(),
            root_access_key_id: optional(layers, "root_access_key_id", values::word)?,
            root_secret_access_key: root_secret,
            control: control(layers)?,
            region: optional(layers, "region", values::word)?.unwrap_or(region),
            account_id: typed(layers, "account_id", values::account)?,
            node: NodeSettings {
                id: optional(layers, "node.id", values::word)?.unwrap_or_else(machine::host_name),
            },
            memory_budget: typed(layers, "memory_budget", memory)?,
            drain_deadline: optional(layers, "drain_deadline", values::duration)?,
            egress: egress(layers, listen, metrics_listen)?,
            kafka: kafka(layers)?,
            commit: commit(layers)?,
            invoke: invoke(layers)?,
            log: log(layers)?,
            foreign_variables: layers.foreign_variables().to_vec(),
            origins: layers.origins(),
            shown: String::new(),
        };
        settings.check_together(layers)?;
        settings.shown = settings.show(layers);
        Ok(settings)
    }

    fn check_together(&self, layers: &ConfigLayers) -> Result<(), ConfigError> {
        let wrong =
            |key, why: &str| Err(ConfigError::Value { key, origin: layers.get(key).0, why: why.into() });
        match (&self.root_access_key_id, &self.root_secret_access_key) {
            (Some(_), None) => {
                return wrong("root_secret_access_key", "root_access_key_id is set, so set this too");
            }
            (None, Some(_)) => {
                return wrong("root_access_key_id", "root_secret_access_key is set, so set this too");
            }
            _ => {}
        }
        if self.listen == self.metrics_listen && self.listen.port() != 0 {
            return wrong("metrics_listen", "it is the address of `listen`: choose another port");
        }
        Ok(())
    }

    /// Returns the source of the key at `path`.
    pub fn origin_of(&self, path: &'static str) -> ValueSource {
        self.origins.get(path).copied().unwrap_or(ValueSource::Default)
    }

    /// Sets the addresses actually listened on. A port 0 has become a real port, which must not be dialled either.
    #[must_use]
    pub fn listening_on(mut self, api: SocketAddr, metrics: SocketAddr) -> Self {
        (self.listen, self.metrics_listen) = (api, metrics);
        self.egress.own_listeners = vec![api, metrics];
        self
    }

    /// Returns the effective configuration as TOML, each line with its source; secrets are hidden.
    pub fn effective(&self) -> &str {
        &self.shown
    }

    fn show(&self, layers: &ConfigLayers) -> String {
        let mut shown = String::new();
        let mut table = "";
        for key in KEYS {
            let (inside, name) = key.path.split_once('.').unwrap_or(("", key.path));
            if inside != table {
                table = inside;
                let _ = write!(shown, "\n[{table}]\n");
            }
            let (source, _) = layers.get(key.path);
            let _ = match self.value_of(key.path, layers) {
                Some(_) if key.secret => writeln!(shown, "{name} = \"(hidden)\" # {source}"),
                Some(value) => writeln!(shown, "{name} = {} # {source}", toml::Value::String(value)),
                None => writeln!(shown, "# {name}: {}", key.about),
            };
        }
        if let Some(names) = self.foreign_variables_text() {
            let _ = write!(shown, "\n# ignored, not ours: {names}\n");
        }
        shown
    }

    /// Returns the names of foreign variables, the first ten of them, each truncated and escaped to stay within its
    /// line. `None` if there are none.
    pub fn foreign_variables_text(&self) -> Option<String> {
        let named = self.foreign_variables.iter().take(FOREIGN_VARIABLES_NAMED_MAX);
        let shown = |name: &String| -> String {
            name.chars().take(FOREIGN_NAME_CHARACTERS_MAX).flat_map(char::escape_debug).collect()
        };
        let text = named.map(shown).collect::<Vec<_>>().join(", ");
        match self.foreign_variables.len().saturating_sub(FOREIGN_VARIABLES_NAMED_MAX) {
            _ if text.is_empty() => None,
            0 => Some(text),
            more => Some(format!("{text} and {more} more")),
        }
    }

    /// Returns the effective value as text, including one determined at start.
    fn value_of(&self, path: &'static str, layers: &ConfigLayers) -> Option<String> {
        let found = match path {
            "region" => self.region.clone(),
            "node.id" => self.node.id.clone(),
            "memory_budget" => bytesize::ByteSize(self.memory_budget as u64).to_string(),
            "log.format" if self.log.format == LogFormat::Text => "text".into(),
            "log.format" => "json".into(),
            _ => layers.get(path).1.to_owned(),
        };
        (!found.is_empty()).then_some(found)
    }
}

fn control(layers: &ConfigLayers) -> Result<Option<ControlSettings>, ConfigError> {
    let topic = values::typed(layers, "control.topic", values::word)?;
    let bootstrap = values::optional(layers, "control.bootstrap", values::brokers)?;
    Ok(bootstrap.map(|bootstrap| ControlSettings { bootstrap, topic }))
}

fn egress(layers: &ConfigLayers, listen: SocketAddr, metrics: SocketAddr) -> Result<Egress, ConfigError> {
    Ok(Egress {
        allow: values::typed(layers, "egress.allow", values::networks)?,
        deny: values::typed(layers, "egress.deny", values::networks)?,
        loopback: listen.ip().to_canonical().is_loopback(),
        own_listeners: vec![listen, metrics],
    })
}

fn kafka(layers: &ConfigLayers) -> Result<KafkaSettings, ConfigError> {
    // Brokers reject other session timeouts: `group.min.session.timeout.ms` and `group.max.session.timeout.ms`.
    let (least, most) = (Duration::from_secs(6), Duration::from_mins(30));
    let levels = [
        ("read_committed", IsolationSetting::ReadCommitted),
        ("read_uncommitted", IsolationSetting::ReadUncommitted),
    ];
    let protocols = [("classic", GroupProtocol::Classic), ("consumer", GroupProtocol::Consumer)];
    Ok(KafkaSettings {
        group_protocol: values::typed(layers, "kafka.group_protocol", |text| {
            values::one_of(text, &protocols)
        })?,
        session_timeout: values::typed(layers, "kafka.session_timeout", |text| {
            values::duration_within(text, least, most)
        })?,
        isolation: values::typed(layers, "kafka.isolation", |text| values::one_of(text, &levels))?,
    })
}

fn commit(layers: &ConfigLayers) -> Result<CommitSettings, ConfigError> {
    let (least, most) = (Duration::from_millis(1), Duration::from_secs(10));
    Ok(CommitSettings {
        unacknowledged_batches: values::typed(layers, "commit.unacknowledged_batches", |text| {
            values::number_within(text, 0, UNACKNOWLEDGED_BATCHES_MAX)
        })?,
        unacknowledged_window: values::typed(layers, "commit.unacknowledged_window", |text| {
            values::duration_within(text, least, most)
        })?,
    })
}

fn invoke(layers: &ConfigLayers) -> Result<InvokeSettings, ConfigError> {
    let (least, most) = (Duration::from_millis(1), Duration::from_hours(1));
    let clients = [("direct", InvokeClient::Direct), ("sdk", InvokeClient::Sdk)];
    Ok(InvokeSettings {
        client: values::typed(layers, "invoke.client", |text| values::one_of(text, &clients))?,
        backoff_base: values::typed(layers, "invoke.backoff_base", |text| {
            values::duration_within(text, least, most)
        })?,
        backoff_max: values::typed(layers, "invoke.backoff_max", |text| {
            values::duration_within(text, least, most)
        })?,
    })
}

fn log(layers: &ConfigLayers) -> Result<LogSettings, ConfigError> {
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    let format = values::optional(layers, "log.format", |text| values::one_of(text, &formats))?;
    let usual = || if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };
    let level = |text: &str| {
        // `EnvFilter` reads an empty filter as errors only. It reads a word that is no level as a target, which
        // silences all others.
        let is_level = |part: &str| !part.trim().is_empty() && part.trim().parse::<LevelFilter>().is_ok();
        let is_meant = text.split(',').all(|part| part.contains(['=', '[']) || is_level(part));
        let parsed = tracing_subscriber::EnvFilter::try_new(text).ok().filter(|_| is_meant);
        parsed
            .map(|_| text.to_owned())
            .ok_or_else(|| format!("`{text}` is no level: write info, debug, or directives"))
    };
    Ok(LogSettings {
        format: format.unwrap_or_else(usual),
        level: values::typed(layers, "log.level", level)?,
    })
}
