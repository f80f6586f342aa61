//! API client of the commands: with the root key of the settings, or AWS's own variables.

use anyhow::Context;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::{OutputFormat, print_line};
use crate::config::Settings;
use crate::control::client::ApiClient;

pub(super) fn client(settings: &Settings) -> anyhow::Result<ApiClient> {
    let variable = |name: &str| std::env::var(name).ok();
    let id = settings.root_access_key_id.clone().or_else(|| variable("AWS_ACCESS_KEY_ID"));
    let secret = settings.root_secret_access_key.as_ref().map(|secret| secret.expose_secret().to_owned());
    let secret = secret.or_else(|| variable("AWS_SECRET_ACCESS_KEY"));
    let (id, secret) = id.zip(secret).context(
        "no API key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to a key of this node (its first start printed one)",
    )?;
    Ok(ApiClient::new(format!("http://{}", settings.listen), settings.region.clone(), &id, &secret))
}

/// Prints rows as a table, or the reply as JSON.
pub(super) fn print(output: OutputFormat, reply: &Value, rows: &[Vec<String>]) {
    match output {
        OutputFormat::Json => print_line(&format!("{reply:#}")),
        OutputFormat::Table => {
            let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
            let width = |column: usize| {
                rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0)
            };
            let widths: Vec<usize> = (0..columns).map(width).collect();
            for row in rows {
                let cells: Vec<String> =
                    row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
                print_line(&cells.join("  ").trim_end());
            }
        }
    }
}

/// Returns a member of a reply as a table cell.
pub(super) fn cell(reply: &Value, name: &str) -> String {
    match &reply[name] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}
