//! Table of the configuration keys, and the nearest key to a misspelt one.

/// Configuration key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    /// Path in the file, with dots between tables.
    pub path: &'static str,
    /// Value when the key is not set. Empty if there is none, or if it is determined at start.
    pub default: &'static str,
    /// Description in one sentence.
    pub about: &'static str,
    /// True if the value must never be shown.
    pub secret: bool,
}

const fn key(path: &'static str, default: &'static str, about: &'static str) -> ConfigKey {
    ConfigKey { path, default, about, secret: false }
}

/// All keys, in display order.
pub const KEYS: &[ConfigKey] = &[
    key("listen", "127.0.0.1:9010", "address of the control API"),
    key("metrics_listen", "127.0.0.1:9011", "address of /metrics, /healthz and /readyz"),
    key("data_dir", "./lighterman-data", "folder of the embedded store"),
    key("root_access_key_id", "", "first API key; generated and printed once when absent"),
    ConfigKey {
        secret: true,
        ..key("root_secret_access_key", "", "its secret; set with root_access_key_id")
    },
    key("region", "", "AWS region in ARNs; AWS_REGION or us-east-1 when absent"),
    key("account_id", "000000000000", "AWS account in ARNs, twelve digits"),
    key(
        "memory_budget",
        "25%",
        "fetch buffers and payloads together: a size, or a share of the machine's memory",
    ),
    key("drain_deadline", "", "how long a drain may take; 960 s when absent"),
    key("control.bootstrap", "", "brokers of the control log's Kafka; set for a fleet"),
    key("control.topic", "_lighterman_control", "topic of the control log"),
    key("node.id", "", "name of this node; host name when absent"),
    key("egress.allow", "", "CIDRs that may be dialled although they are loopback"),
    key("egress.deny", "", "CIDRs that are never dialled"),
    key(
        "kafka.group_protocol",
        "classic",
        "classic, or consumer (KIP-848: brokers from 4.0 on); the same on all nodes",
    ),
    key(
        "kafka.session_timeout",
        "10s",
        "after how long without heartbeat the broker gives our partitions away; \
         with consumer it is the broker's setting, and this must not be longer where the broker does not tell it",
    ),
    key("kafka.isolation", "read_committed", "read_committed or read_uncommitted"),
    key(
        "commit.unacknowledged_batches",
        "8",
        "batches of a partition whose commits may be unacknowledged when its next batch starts; a node that dies \
         repeats these and the one in flight; 0 awaits each commit",
    ),
    key(
        "commit.unacknowledged_window",
        "100ms",
        "age of the oldest unacknowledged commit at which a partition starts no further batch",
    ),
    key(
        "invoke.backoff_base",
        "200ms",
        "the first pause between two attempts of one batch; each next one may be twice as long",
    ),
    key("invoke.backoff_max", "60s", "longest pause between two attempts of one batch"),
    key(
        "invoke.client",
        "direct",
        "what sends invocations: direct (hyper, own signer) or sdk (aws-sdk-lambda)",
    ),
    key("log.format", "", "text or json; text on a terminal, else json, when absent"),
    key("log.level", "info", "error, warn, info, debug, trace, or tracing directives"),
];

/// Returns the key with this path.
pub(super) fn by_path(path: &str) -> Option<&'static ConfigKey> {
    KEYS.iter().find(|key| key.path == path)
}

/// Returns the known path most similar to `path`.
pub(super) fn nearest_path(path: &str) -> &'static str {
    let likeness = |key: &&ConfigKey| (strsim::jaro_winkler(key.path, path) * 1e6) as u64;
    KEYS.iter().max_by_key(likeness).map_or("", |key| key.path)
}
