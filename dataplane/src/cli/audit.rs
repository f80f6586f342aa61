//! `lighterman audit`: outcomes of every record of a mapping, and a check for committed offsets without an outcome.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::run::with_settings;
use super::{OutputFormat, SettingsArgs, api, print_line};

/// Examples that `--help` prints.
pub const EXAMPLES: &str = "Examples:
  lighterman audit 14e0db71-5d35-4eb5-b481-8945cf9d10c2    # exit code 1: an offset is committed without an outcome
  lighterman audit 14e0db71-5d35-4eb5-b481-8945cf9d10c2 --output json";

/// Arguments of `audit`.
#[derive(Clone, Debug, Args)]
pub struct AuditArgs {
    /// UUID of the mapping
    pub mapping: uuid::Uuid,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Configuration.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Shows the audit; fails if offsets are committed without an outcome.
pub fn run(args: &AuditArgs) -> ExitCode {
    with_settings(&args.settings, |settings| async move {
        let client = api::client(&settings)?;
        let path = format!("/lighterman/v1/mappings/{}/audit", args.mapping);
        let reply = client.call("GET", &path, None).await?;
        let partitions = reply["partitions"].as_array().map(Vec::as_slice).unwrap_or_default();
        api::print(args.output, &reply, &rows(partitions));
        if args.output == OutputFormat::Table {
            for partition in partitions {
                for line in remarks(partition) {
                    print_line(&line);
                }
                print_line(&verdict(partition));
            }
        }
        let holes = partitions.iter().filter(|partition| partition["verdict"] == "missing").map(verdict);
        let holes = holes.collect::<Vec<_>>().join("; ");
        anyhow::ensure!(holes.is_empty(), "{holes}");
        Ok(())
    })
}

/// Returns a row for each range.
fn rows(partitions: &[Value]) -> Vec<Vec<String>> {
    const HEAD: [&str; 5] = ["PARTITION", "OFFSETS", "OUTCOMES", "UNTIL", "REASONS"];
    let mut rows = vec![HEAD.map(ToOwned::to_owned).to_vec()];
    for partition in partitions {
        for range in partition["ranges"].as_array().into_iter().flatten() {
            let offsets = format!("{}..{}", range["first"], range["end"]);
            let reasons = counts(&range["reasons"], ": ");
            let cells = [
                api::cell(partition, "partition"),
                offsets,
                counts(&range["outcomes"], " "),
                api::cell(range, "at"),
                reasons,
            ];
            rows.push(cells.to_vec());
        }
    }
    rows
}

/// Returns remarks to a partition's verdict: earlier topics of the same name, and offsets that another client
/// committed.
fn remarks(partition: &Value) -> Vec<String> {
    let index = &partition["partition"];
    let of = |name: &str| partition[name].as_array().cloned().unwrap_or_default();
    let recreated = of("recreated").into_iter().map(|earlier| {
        let id = earlier["topicId"].as_str().map(|id| format!(" (topic id {id})")).unwrap_or_default();
        let (at, first, end) = (api::cell(&earlier, "at"), &earlier["first"], &earlier["end"]);
        let outcomes = counts(&earlier["outcomes"], " ");
        format!(
            "partition {index}: topic recreated, found at {at}; offsets {first} to {end} were of the one before{id}: {outcomes}"
        )
    });
    let beyond = of("beyondEnd").into_iter().map(|beyond| {
        let (at, held, began) = (api::cell(&beyond, "at"), &beyond["committed"], &beyond["began"]);
        format!(
            "partition {index}: at {at} the group held offset {held}, beyond the log's end and not committed by Lighterman; \
             it began at {began}, as StartingPosition says"
        )
    });
    recreated.chain(beyond).collect()
}

/// Returns the verdict in one line: verified, or the missing range, and any commit that was missing at the last stop.
fn verdict(partition: &Value) -> String {
    let held = held_against_the_group(partition);
    match &partition["uncommitted"] {
        Value::Object(left) => format!(
            "{held}; stopped at {} without the commit of {}..{}, which the cluster refused",
            left["at"].as_str().unwrap_or("-"),
            left["first"],
            left["end"]
        ),
        _ => held,
    }
}

fn held_against_the_group(partition: &Value) -> String {
    let (index, began, committed) = (&partition["partition"], &partition["began"], &partition["committed"]);
    let totals = counts(&partition["totals"], " ");
    match (partition["verdict"].as_str(), &partition["missing"]) {
        (Some("accounted"), _) => {
            format!(
                "partition {index}: verified, every offset from {began} to {committed} has ended: {totals}"
            )
        }
        (Some("missing"), range) => format!(
            "partition {index}: offset {} is committed without an outcome ({}..{} of {committed})",
            range[0], range[0], range[1]
        ),
        _ => format!(
            "partition {index}: not verified, nothing is committed here or this node does not own it now: {totals}"
        ),
    }
}

/// Formats counts as `5 delivered, 1 skipped`, and texts as `12: why`. A bare string is returned unchanged.
fn counts(shown: &Value, between: &str) -> String {
    let Value::Object(members) = shown else { return shown.as_str().unwrap_or("-").to_owned() };
    let one = |(name, value): (&String, &Value)| match value {
        // Control characters of foreign text must not reach the terminal.
        Value::String(text) => format!("{name}{between}{}", text.replace(char::is_control, " ")),
        number => format!("{number}{between}{name}"),
    };
    let all = members.iter().map(one).collect::<Vec<_>>().join(", ");
    if all.is_empty() { "-".to_owned() } else { all }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verdict_names_missing_range_or_verified() {
        let whole = json!({
            "partition": 3, "began": 0, "committed": 20, "verdict": "accounted", "missing": null,
            "totals": {"delivered": 19, "skipped": 1},
            "ranges": [{"first": 0, "end": 19, "at": "t", "outcomes": {"delivered": 19}},
                       {"first": 19, "end": 20, "at": "t", "outcomes": {"skipped": 1}, "reasons": {"19": "why"}}],
        });
        let line = verdict(&whole);
        assert_eq!(
            line,
            "partition 3: verified, every offset from 0 to 20 has ended: 19 delivered, 1 skipped"
        );
        assert_eq!(rows(&[whole])[2], ["3", "19..20", "1 skipped", "t", "19: why"]);
        let before = json!({
            "partition": 3,
            "recreated": [{"topicId": "bGlnaHRlcm1hbi10ZXN0cw", "at": "t", "first": 0, "end": 500, "outcomes": {"delivered": 500}}],
            "beyondEnd": [{"at": "t", "committed": 1000, "began": 0}],
        });
        let lines = remarks(&before);
        assert_eq!(
            lines[0],
            "partition 3: topic recreated, found at t; offsets 0 to 500 were of the one before \
             (topic id bGlnaHRlcm1hbi10ZXN0cw): 500 delivered"
        );
        assert!(lines[1].contains("held offset 1000") && lines[1].contains("began at 0"), "{}", lines[1]);
        let left = json!({"partition": 3, "uncommitted": {"first": 5, "end": 7, "at": "t"}, "totals": {}});
        let line = verdict(&left);
        assert!(
            line.ends_with("; stopped at t without the commit of 5..7, which the cluster refused"),
            "{line}"
        );
        let hole = json!({"partition": 3, "committed": 30, "verdict": "missing", "missing": [20, 25]});
        let line = verdict(&hole);
        assert_eq!(line, "partition 3: offset 20 is committed without an outcome (20..25 of 30)");
    }
}
