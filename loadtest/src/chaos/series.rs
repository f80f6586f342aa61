//! Series of chaos runs on one Kafka. Runs that leave the broker alone execute concurrently, the others one by one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;

use super::plan::{ChaosFaultKind, ChaosPlan};
use super::{ChaosReport, ChaosRun};
use crate::kafka::RealKafka;

/// Seeds and settings of a series.
#[derive(Clone, Debug)]
pub struct ChaosSeries {
    /// Version of Kafka.
    pub version: String,
    /// Seeds, one chaos run each.
    pub seeds: Vec<u64>,
    /// Number of concurrent runs.
    pub at_once: usize,
    /// `kafka.group_protocol` of the nodes; not set if `None`.
    pub group_protocol: Option<String>,
    /// Folder for the logs of nodes in failed runs.
    pub folder: PathBuf,
    /// Command that repeats a run; the seed is appended.
    pub repeat: String,
}

/// Totals of a series.
#[derive(Clone, Debug, Default)]
pub struct SeriesTotals {
    /// Number of chaos runs.
    pub runs: u64,
    /// Seeds of failed runs.
    pub failed: Vec<u64>,
    /// Injected faults.
    pub done: BTreeMap<ChaosFaultKind, u32>,
    /// Records delivered.
    pub delivered: u64,
    /// Deliveries beyond the first.
    pub repeated: u64,
    /// Duration of the longest run.
    pub longest: Duration,
    /// Longest time from the end of the faults until everything was committed.
    pub settled_after: Duration,
    /// Total duration, including the start of Kafka.
    pub took: Duration,
}

impl ChaosSeries {
    /// Executes all runs and prints each on standard output.
    pub async fn run(&self) -> Result<SeriesTotals> {
        let begin = Instant::now();
        let mut totals = SeriesTotals::default();
        let mut kafka =
            tokio::task::block_in_place(|| RealKafka::start_with(&self.version, self.properties()))?;
        let plans = self.seeds.iter().map(|seed| ChaosPlan::draw(*seed));
        let (alone, beside): (Vec<ChaosPlan>, Vec<ChaosPlan>) =
            plans.partition(|plan| self.at_once < 2 || plan.needs_the_broker());
        let (mut left, mut running) = (beside.into_iter(), JoinSet::new());
        loop {
            while running.len() < self.at_once
                && let Some(plan) = left.next()
            {
                let (run, servers) = (self.chaos_run(plan), kafka.servers());
                running.spawn(async move {
                    let report = run.run_beside_others(&servers).await;
                    (run.plan, report)
                });
            }
            let Some(ended) = running.join_next().await else { break };
            let (plan, report) = ended?;
            self.tell(&plan, &report);
            totals.add(&plan, report);
        }
        for plan in alone {
            let report = self.chaos_run(plan.clone()).run(&mut kafka).await;
            self.tell(&plan, &report);
            if report.is_err() {
                // It may have left the broker stopped.
                tokio::task::block_in_place(|| kafka.restart())?;
            }
            totals.add(&plan, report);
        }
        totals.took = begin.elapsed();
        Ok(totals)
    }

    /// Returns extra broker properties: in 3.9 the consumer protocol is a preview, and off by default.
    fn properties(&self) -> &'static [(&'static str, &'static str)] {
        let previews = self.version.starts_with("3.") && self.group_protocol.as_deref() == Some("consumer");
        if previews { &[("group.coordinator.rebalance.protocols", "classic,consumer")] } else { &[] }
    }

    fn chaos_run(&self, plan: ChaosPlan) -> ChaosRun {
        let logs = self.folder.join(format!("chaos-{}-{}", self.version, plan.seed));
        ChaosRun { plan, group_protocol: self.group_protocol.clone(), logs }
    }

    fn tell(&self, plan: &ChaosPlan, report: &Result<ChaosReport>) {
        println!("seed {} on {}: {plan}", plan.seed, self.version);
        let clean = match report {
            Ok(report) => {
                println!("  {report}");
                report.is_clean()
            }
            Err(error) => {
                println!("  NOT JUDGED: {error:#}");
                false
            }
        };
        if !clean {
            println!("  what the nodes said: {}", self.chaos_run(plan.clone()).logs.display());
            println!("  again: {}{}", self.repeat, plan.seed);
        }
    }
}

impl SeriesTotals {
    fn add(&mut self, plan: &ChaosPlan, report: Result<ChaosReport>) {
        self.runs += 1;
        let Ok(report) = report else {
            self.failed.push(plan.seed);
            return;
        };
        if !report.is_clean() {
            self.failed.push(plan.seed);
        }
        for (kind, times) in report.done {
            *self.done.entry(kind).or_default() += times;
        }
        self.delivered += report.judgement.delivered;
        self.repeated += report.judgement.repeated;
        self.longest = self.longest.max(report.took);
        self.settled_after = self.settled_after.max(report.settled_after);
    }
}

impl fmt::Display for SeriesTotals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} chaos runs in {:.0} s, the longest {:.1} s; {} delivered, {} again; settled after {:.1} s at most; {} wrong",
            self.runs,
            self.took.as_secs_f64(),
            self.longest.as_secs_f64(),
            self.delivered,
            self.repeated,
            self.settled_after.as_secs_f64(),
            self.failed.len()
        )?;
        if !self.failed.is_empty() {
            write!(f, ": seeds {:?}", self.failed)?;
        }
        write!(f, "\nfaults:")?;
        self.done.iter().try_for_each(|(kind, times)| write!(f, " {} {times},", kind.label()))
    }
}
