//! `loadtest SCENARIO`: runs a scenario, prints the results, and writes the report and its figures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use loadtest::compare::RunComparison;
use loadtest::figures::{MEASURES, RunFigures};
use loadtest::html_report::page;
use loadtest::run::{KafkaChoice, ScenarioRun};
use loadtest::scenario::{LoadScenario, names, read};

/// Run a scenario: a Kafka, a function, nodes, and a producer on a fixed schedule. The exit code is 1 if a record is missing,
/// out of order, or repeated more often than allowed; regressions are marked and do not change it.
#[derive(Debug, Parser)]
#[command(name = "loadtest run")]
pub(crate) struct ScenarioArguments {
    /// Name of an included scenario (`loadtest list`), or a file that ends in .toml
    scenario: String,
    /// `embedded`, a version to start from Maven Central (4.2.1), or host:port of a single broker
    #[arg(long, default_value_t)]
    kafka: KafkaChoice,
    /// Share of the scenario's time to run, at the same rates
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// Folder of the report and its figures [default: target/loadtest of the workspace]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Figures of an earlier run to compare with
    #[arg(long, value_name = "OLD.JSON")]
    compare: Option<PathBuf>,
    /// Setting of the nodes, as in their environment; may be given several times
    #[arg(long = "set", value_name = "LIGHTERMAN_KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Serve the function over HTTPS, with TLS 1.3 only, and a certificate that is made for the run
    #[arg(long)]
    function_tls: bool,
    /// Omit the progress line of each second
    #[arg(long)]
    quiet: bool,
}

pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| name.starts_with("LIGHTERMAN_"));
    let (name, value) = pair.ok_or_else(|| format!("`{text}` is not LIGHTERMAN_KEY=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

fn scale(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if scale > 0.0 && scale <= 1.0 { Ok(scale) } else { Err("it is more than 0 and at most 1".to_owned()) }
}

/// Lists the included scenarios.
pub(crate) fn list() -> Result<()> {
    for name in names()? {
        println!("{name:22} {}", read(&name)?.about);
    }
    Ok(())
}

/// Runs a scenario.
pub(crate) async fn run(arguments: ScenarioArguments) -> Result<ExitCode> {
    let scenario = read(&arguments.scenario)?.scaled(arguments.scale);
    // Read first, since this run may overwrite the file of the older one.
    let old = arguments.compare.as_deref().map(figures_of).transpose()?;
    build_node()?;
    announce(&scenario, &arguments.kafka);
    let (function_tls, progress) = (arguments.function_tls, !arguments.quiet);
    let (scale, kafka, settings) = (arguments.scale, &arguments.kafka, &arguments.set);
    let run = ScenarioRun { scenario: &scenario, scale, kafka, settings, function_tls, progress };
    let outcome = run.go().await?;
    let comparison = old.map(|old| RunComparison::of(&old, &outcome));
    tell(&outcome, comparison.as_ref());
    let folder = arguments.out.unwrap_or_else(|| workspace().join("target/loadtest"));
    write(&folder, &scenario, &outcome, comparison.as_ref())?;
    Ok(if outcome.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the workspace folder.
pub(crate) fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

fn figures_of(path: &Path) -> Result<RunFigures> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text)
        .with_context(|| format!("{} does not hold the figures of a run", path.display()))
}

/// Builds the node. `cargo run -p loadtest` builds this program only; the measured node is built together with it,
/// with the same features.
pub(crate) fn build_node() -> Result<()> {
    let Some(cargo) = std::env::var_os("CARGO").filter(|_| std::env::var_os("LIGHTERMAN_BIN").is_none())
    else {
        return Ok(());
    };
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "-p", "lighterman", "-p", "loadtest", "--bins"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    ensure!(build.current_dir(workspace()).status()?.success(), "building the node failed");
    Ok(())
}

fn announce(scenario: &LoadScenario, kafka: &KafkaChoice) {
    println!("{}: {}", scenario.name, scenario.about);
    println!(
        "kafka {kafka}; {} records of {} B in {:.0} s, {} partitions, batch {}, {} node(s)",
        scenario.schedule().count(),
        scenario.value_bytes,
        scenario.lasting().as_secs_f64(),
        scenario.partitions,
        scenario.batch,
        scenario.nodes.count
    );
    if cfg!(debug_assertions) {
        println!("not optimised: judge the history, not the figures");
    }
}

fn tell(outcome: &RunFigures, comparison: Option<&RunComparison>) {
    match comparison {
        Some(comparison) => print!("{}", comparison.table()),
        None => {
            for measure in MEASURES {
                println!("{:34}{:>12.*}", measure.name, measure.digits, (measure.of)(outcome));
            }
        }
    }
    if let Some(regressions) = comparison.map(|comparison| comparison.regressions().count()) {
        println!("{regressions} regression(s)");
    }
    if outcome.is_clean() {
        let (repeated, most) = (outcome.repeated, outcome.repeated_max);
        println!("clean: nothing is missing, order held, {repeated} delivered again ({most} allowed)");
    }
    for problem in &outcome.problems {
        println!("PROBLEM: {problem}");
    }
}

fn write(
    folder: &Path,
    scenario: &LoadScenario,
    outcome: &RunFigures,
    comparison: Option<&RunComparison>,
) -> Result<()> {
    let place = |extension| folder.join(format!("{}.{extension}", scenario.name));
    let (html, json) = (place("html"), place("json"));
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let pairs =
        [(&html, page(scenario, outcome, comparison)), (&json, serde_json::to_string_pretty(outcome)?)];
    for (path, text) in pairs {
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}
