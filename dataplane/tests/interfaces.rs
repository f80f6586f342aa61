//! Public interfaces, compared byte for byte with the text files in `tests/interfaces`: command line, configuration,
//! HTTP servers, metrics, events, dead letters, commit metadata and audit.

#[path = "interfaces/answers.rs"]
mod answers;
#[path = "interfaces/command_line.rs"]
mod command_line;
#[path = "interfaces/http.rs"]
mod http;
#[path = "interfaces/metrics.rs"]
mod metrics;
#[path = "interfaces/node.rs"]
mod node;
#[path = "interfaces/normal.rs"]
mod normal;
#[path = "interfaces/run.rs"]
mod run;
#[path = "interfaces/snapshot.rs"]
mod snapshot;

use lighterman::audit::AuditEntry;

use self::answers::Transcript;
use self::node::InterfaceNode;
use self::normal::normal;
use self::snapshot::compare;

#[test]
fn command_line_and_configuration_are_unchanged() {
    compare(&[("help.txt", command_line::help()), ("configuration.txt", command_line::configuration())]);
}

#[test]
fn node_interfaces_match_their_snapshots() {
    actix_rt::System::new().block_on(async {
        let node = InterfaceNode::start().await;
        let mut api = answers::disabled_mapping(&node).await;
        let run = run::run(&node).await;
        let metrics = metrics::all(&node).await;
        answers::running_mapping(&mut api, &run.mapping).await;
        let Transcript { shown: answers, mut known, .. } = api;
        known.extend([
            (node.servers(), "<broker>"),
            (node.api.to_string(), "<node>"),
            (run.topic, "<topic id>"),
            (format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION")), "\"version\":\"<version>\""),
        ]);
        let health = answers::health(&node).await;
        let texts = [
            ("answers.txt", normal(&answers, &known)),
            ("health.txt", normal(&health, &known)),
            ("metrics.txt", metrics),
            ("invocations.txt", normal(&run.invocations, &known)),
            ("dead_letters.txt", normal(&run.dead_letters, &known)),
            ("audit.txt", normal(&without_checksums(&run.audit), &known)),
        ];
        node.stop().await;
        compare(&texts);
    });
}

/// Returns the lines of an audit file with a placeholder for the checksum, which covers the time.
fn without_checksums(audit: &str) -> String {
    let line = |line: &str| match line.split_once(' ') {
        Some((_, rest)) if AuditEntry::parse(line).is_some() => format!("<checksum> {rest}\n"),
        _ => format!("{line}\n"),
    };
    audit.lines().map(line).collect()
}
