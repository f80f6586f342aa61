//! A fixed run: records that are delivered, fail once, are given up, and are filtered. Each reply of the function is
//! withheld until the state that it meets is recorded.

use std::fmt::Write;

use serde_json::json;

use super::http::{HttpRequest, exchange};
use super::node::{InterfaceNode, MAPPINGS, until};

/// Batches of keys and values, each with the number of its invocations.
const BATCHES: [(&[(&str, &str)], usize); 4] = [
    (&[("a", r#"{"n":0}"#), ("b", r#"{"n":1}"#)], 1),
    (&[("once", r#"{"n":2}"#)], 2),
    (&[("a", r#"{"n":3}"#), ("always", r#"{"n":4}"#), ("b", r#"{"n":5}"#)], 6),
    (&[("a", r#"{"n":6,"skipped":true}"#)], 0),
];

/// Traces of the run.
pub(crate) struct RunTexts {
    pub(crate) mapping: String,
    pub(crate) topic: String,
    /// Events, and what was committed when each was sent.
    pub(crate) invocations: String,
    pub(crate) audit: String,
    pub(crate) dead_letters: String,
}

/// Runs a mapping over all batches.
pub(crate) async fn run(node: &InterfaceNode) -> RunTexts {
    let body = json!({
        "FunctionName": "run", "Topics": ["orders"], "BatchSize": 3, "StartingPosition": "TRIM_HORIZON",
        "SelfManagedEventSource": { "Endpoints": { "KAFKA_BOOTSTRAP_SERVERS": [node.servers()] } },
        "SourceAccessConfigurations": [
            { "Type": "VPC_SUBNET", "URI": "subnet:s" }, { "Type": "VPC_SECURITY_GROUP", "URI": "security_group:g" }
        ],
        "MaximumRetryAttempts": 1, "BisectBatchOnFunctionError": true,
        "FilterCriteria": { "Filters": [{ "Pattern": r#"{"value":{"skipped":[{"exists":false}]}}"# }] },
        "DestinationConfig": { "OnFailure": { "Destination": "kafka://failed" } },
    });
    let created = exchange(node.api, &HttpRequest::signed("POST", MAPPINGS, &body.to_string())).await;
    let created: serde_json::Value = serde_json::from_str(&created.body).expect("JSON");
    let mapping = created["UUID"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned();
    node.settled(&format!("{MAPPINGS}/{mapping}")).await;
    node.committed(&mapping, 0).await;
    let (mut invocations, mut turn, mut offset) = (String::new(), 0, 0);
    for (batch, tries) in BATCHES {
        node.write(batch).await;
        for _ in 0..tries {
            let (context, event) = node.function.invocation(turn).await;
            let committed = node.committed_offset(&mapping).await;
            let failing = node.failing(&mapping).await;
            let _ =
                writeln!(invocations, "{committed}\nfailing {failing}\ncontext {context}\nevent {event}\n");
            node.function.release();
            turn += 1;
        }
        offset += batch.len() as i64;
        node.committed(&mapping, offset).await;
    }
    let committed = node.committed_offset(&mapping).await;
    let _ = writeln!(invocations, "{committed}");
    let topic = committed.split(" t=").nth(1).and_then(|rest| rest.split(' ').next()).expect("a topic id");
    let topic = topic.to_owned();
    let audit = until("the audit is whole", async || {
        let audit = node.audit(&mapping);
        audit.lines().last().is_some_and(|line| line.ends_with(" filtered")).then_some(audit)
    });
    let audit = audit.await;
    RunTexts { mapping, topic, invocations, audit, dead_letters: node.dead_letters().await }
}
