//! `lighterman filter`: test of filter patterns on sample records, without a node.

use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use lighterman_proto::api::{FilterCriteria, FilterRequest};
use lighterman_proto::filter::{FILTERS_MAX, PatternError};
use serde_json::json;

use super::{EXIT_FAILED, EXIT_FINE, EXIT_USAGE, OutputFormat, print_line, print_problem};
use crate::control::filter_test::{FilterSample, FilterTest};

/// Examples that `--help` prints.
pub const EXAMPLES: &str = "Examples:
  lighterman filter test --pattern '{\"value\":{\"state\":[\"paid\"]}}' orders.jsonl
  lighterman filter test --filter-criteria @filters.json --records-are records samples.jsonl
  lighterman filter test --pattern '{\"key\":[{\"exists\":true}]}' --records-are records --output json -

A line is one record: its value, or with --records-are records a JSON object with value, key, headers, topic, partition, timestamp.
A record passes if the format of its value (text, JSON) differs from the pattern's, or if the value is not UTF-8.
Exit code 0: tested. 1: unreadable records. 2: an invalid pattern, with the position of the error.";

/// Maximum characters of a record in a table.
const SHOWN_CHARACTERS: usize = 60;

/// Arguments of `filter`.
#[derive(Clone, Debug, Args)]
pub struct FilterArgs {
    /// Command.
    #[command(subcommand)]
    pub action: FilterAction,
    /// Output format.
    #[arg(long, value_enum, global = true, default_value_t)]
    pub output: OutputFormat,
}

/// Commands of `filter`.
#[derive(Clone, Debug, Subcommand)]
pub enum FilterAction {
    /// Show for each record whether it would be delivered, and which filter matches it
    Test(TestArgs),
}

/// Arguments of `filter test`.
#[derive(Clone, Debug, Args)]
pub struct TestArgs {
    /// Filter pattern; if given several times, one of them must match
    #[arg(long, value_name = "JSON", required_unless_present = "filter_criteria")]
    pub pattern: Vec<String>,
    /// `FilterCriteria` of a mapping, as JSON or as @FILE
    #[arg(long, value_name = "JSON|@FILE", conflicts_with = "pattern")]
    pub filter_criteria: Option<String>,
    /// Content of each line of the file
    #[arg(long, value_enum, default_value_t = PatternLine::Values)]
    pub records_are: PatternLine,
    /// File with one record per line; - for standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub records: PathBuf,
}

/// Content of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PatternLine {
    /// Value of a record.
    Values,
    /// Whole record as JSON.
    Records,
}

/// Runs `lighterman filter`.
pub fn run(args: &FilterArgs) -> ExitCode {
    let FilterAction::Test(test) = &args.action;
    let criteria = match criteria(test) {
        Ok(criteria) => criteria,
        Err(error) => {
            print_problem(&error);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match try_all(test, &criteria, args.output) {
        Ok(()) => ExitCode::from(EXIT_FINE),
        Err(error) => {
            print_problem(&format!("{error:#}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn criteria(test: &TestArgs) -> Result<FilterCriteria, String> {
    let patterns = match &test.filter_criteria {
        None => test.pattern.clone(),
        Some(given) => patterns_of(given)?,
    };
    if patterns.len() > FILTERS_MAX {
        return Err(format!("{} filters; a mapping has at most {FILTERS_MAX}", patterns.len()));
    }
    FilterCriteria::new(patterns.clone()).map_err(|error| with_place(&error, &patterns))
}

fn patterns_of(given: &str) -> Result<Vec<String>, String> {
    let text = match given.strip_prefix('@') {
        None => given.to_owned(),
        Some(file) => {
            std::fs::read_to_string(file).map_err(|error| format!("{file} cannot be read: {error}"))?
        }
    };
    let request: FilterRequest = serde_json::from_str(&text).map_err(|error| {
        format!("this is no FilterCriteria, {{\"Filters\":[{{\"Pattern\":\"…\"}}]}}: {error}")
    })?;
    let filters = request.filters.unwrap_or_default().into_iter().enumerate();
    filters
        .map(|(index, filter)| filter.pattern.ok_or_else(|| format!("filter {} has no Pattern", index + 1)))
        .collect()
}

/// Returns the error, and below it the pattern's line with a mark at the error's position.
fn with_place(error: &PatternError, patterns: &[String]) -> String {
    let pattern = patterns.get(error.filter).map_or("", String::as_str);
    let (before, behind) = pattern.split_at_checked(error.at).unwrap_or((pattern, ""));
    let from = before.rfind('\n').map_or(0, |at| at + 1);
    let line = format!("{}{}", &before[from..], behind.lines().next().unwrap_or_default());
    let column = before[from..].chars().count();
    format!("{error}\n  {line}\n  {:column$}^", "")
}

fn try_all(test: &TestArgs, criteria: &FilterCriteria, output: OutputFormat) -> anyhow::Result<()> {
    let is_stdin = test.records == Path::new("-");
    let mut lines: Box<dyn BufRead> = if is_stdin {
        Box::new(stdin().lock())
    } else {
        let unreadable = || format!("{} cannot be read", test.records.display());
        Box::new(BufReader::new(File::open(&test.records).with_context(unreadable)?))
    };
    let (mut line, mut number, mut matched) = (Vec::new(), 0u64, 0u64);
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).context("records cannot be read")? == 0 {
            break;
        }
        number += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let trial = trial(test.records_are, text, criteria).with_context(|| format!("line {number}"))?;
        matched += u64::from(trial.verdict.passes());
        show(number, trial, text, output);
    }
    if output == OutputFormat::Table {
        print_line(&format!("{matched} of {number} records match"));
    }
    Ok(())
}

fn trial(line: PatternLine, text: &[u8], criteria: &FilterCriteria) -> anyhow::Result<FilterTest> {
    match line {
        PatternLine::Values => Ok(FilterTest::of_value(text, criteria)),
        PatternLine::Records => {
            let sample: FilterSample = serde_json::from_slice(text).context("this is no record")?;
            sample.trial(criteria).map_err(anyhow::Error::msg)
        }
    }
}

fn show(number: u64, trial: FilterTest, text: &[u8], output: OutputFormat) {
    if output == OutputFormat::Json {
        let mut shown = trial.shown();
        shown["Line"] = json!(number);
        print_line(&shown);
        return;
    }
    let verdict = match (trial.verdict.passes(), trial.filter()) {
        (false, _) => "no match".to_owned(),
        (true, None) => "match".to_owned(),
        (true, Some(filter)) => format!("match, filter {filter}"),
    };
    let beginning: String = String::from_utf8_lossy(text)
        .chars()
        .take(SHOWN_CHARACTERS)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    print_line(&format!("{number:>6}  {verdict:<16}  {:<11}  {beginning}", trial.value.label()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_position_is_marked_in_line() {
        let patterns = vec!["{\n \"value\": {\"é\": [1, {\"prefx\": 1}]}}".to_owned()];
        let error = FilterCriteria::new(patterns.clone()).expect_err("a mistake");
        let told = with_place(&error, &patterns);
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[0].starts_with("filter 1, value.é[1].prefx (byte 23): no operator `prefx`"), "{told}");
        assert_eq!(lines[1], "   \"value\": {\"é\": [1, {\"prefx\": 1}]}}");
        let place = lines[1].split("{\"prefx").next().map(|before| before.chars().count());
        assert_eq!(place, Some(lines[2].chars().count() - 1), "{told}");
    }
}
