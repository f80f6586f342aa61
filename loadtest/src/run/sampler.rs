//! Sampler that observes the nodes and the function once a second.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use lighterman::metrics as names;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::fleet::{WatchedNode, WatchedNodes};
use crate::figures::SecondSample;
use crate::function::FakeLambda;
use crate::node::{scrape, values};
use crate::process::{cpu_us, resident_kib, resident_peak_kib};
use crate::schedule::RateSchedule;

const EVERY: Duration = Duration::from_secs(1);
/// Less than a second, so that a hanging node costs only its own value and not the sample.
const SCRAPE_DEADLINE: Duration = Duration::from_millis(800);
/// Seconds between two progress lines without a terminal.
const SECONDS_A_LINE: u64 = 5;

/// Observed components.
pub(super) struct RunSampler {
    pub(super) lambda: FakeLambda,
    pub(super) shown: WatchedNodes,
    pub(super) schedule: RateSchedule,
    pub(super) start: Instant,
    pub(super) progress: bool,
}

/// Results of the sampler.
#[derive(Debug, Default)]
pub(super) struct SamplerResult {
    pub(super) samples: Vec<SecondSample>,
    /// CPU time of all nodes during the observation.
    pub(super) cpu_us: u64,
    /// Peak resident memory of any node, also between two samples.
    pub(super) resident_peak_mib: f64,
}

/// Counter over processes that come and go: the sum of what each has counted since it was first observed.
#[derive(Debug, Default)]
struct ProcessCounter {
    /// Last value of each process.
    last: BTreeMap<u32, f64>,
    total: f64,
}

impl ProcessCounter {
    /// Adds `value` of process `pid`. A process present at the start counts from its first value, later ones from
    /// 0.
    fn saw(&mut self, pid: u32, value: f64, from_zero: bool) {
        let before = self.last.insert(pid, value);
        self.total += value - before.unwrap_or(if from_zero { 0.0 } else { value });
    }
}

/// Values of all nodes at one moment.
#[derive(Debug, Default)]
struct NodeSnapshot {
    lag: Option<f64>,
    consumers: Option<f64>,
    in_flight: Option<f64>,
    resident_mib: Vec<Option<f64>>,
    resident_peak_mib: f64,
    answered: bool,
}

impl NodeSnapshot {
    fn add(&mut self, text: &str) {
        self.answered = true;
        let all = [
            (names::OFFSET_LAG, &mut self.lag),
            (names::CONSUMERS, &mut self.consumers),
            (names::SLOTS_IN_USE, &mut self.in_flight),
        ];
        for (name, into) in all {
            let mut values = values(text, name).map(|(_, value)| value).peekable();
            if values.peek().is_some() {
                *into = Some(into.unwrap_or_default() + values.sum::<f64>());
            }
        }
    }
}

impl RunSampler {
    /// Samples once a second from the start until the stop signal, and once more then.
    pub(super) async fn run(self, mut stop: oneshot::Receiver<()>) -> SamplerResult {
        let (mut seen, mut committed, mut cpu) =
            (SamplerResult::default(), ProcessCounter::default(), ProcessCounter::default());
        let mut every = tokio::time::interval_at(self.start.into(), EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Skip);
        every.tick().await;
        self.look(&mut committed, &mut cpu, false).await;
        let (mut records_before, mut committed_before) = (self.lambda.tally().records, committed.total);
        let (mut at_before, greetings) = (0.0, records_before);
        loop {
            let last = tokio::select! {
                _ = every.tick() => false,
                _ = &mut stop => true,
            };
            let look = self.look(&mut committed, &mut cpu, true).await;
            seen.resident_peak_mib = seen.resident_peak_mib.max(look.resident_peak_mib);
            let at = self.start.elapsed();
            let (records, lasting) = (self.lambda.tally().records, at.as_secs_f64() - at_before);
            // The last sample comes at any time; too close to the previous one, its rates would be noise.
            if lasting > 0.25 {
                let sample = SecondSample {
                    at: at.as_secs_f64(),
                    due: self.schedule.rate_at(at.saturating_sub(Duration::from_secs_f64(lasting / 2.0))),
                    arrived: records.saturating_sub(records_before) as f64 / lasting,
                    committed: look.answered.then(|| (committed.total - committed_before) / lasting),
                    waiting: self.schedule.due_by(at).saturating_sub(records - greetings) as f64,
                    lag: look.lag,
                    consumers: look.consumers,
                    in_flight: look.in_flight,
                    resident_mib: look.resident_mib,
                    latency: None,
                };
                (records_before, committed_before, at_before) = (records, committed.total, sample.at);
                self.tell(&sample, last);
                seen.samples.push(sample);
            }
            if last {
                seen.cpu_us = cpu.total as u64;
                return seen;
            }
        }
    }

    async fn look(
        &self,
        committed: &mut ProcessCounter,
        cpu: &mut ProcessCounter,
        from_zero: bool,
    ) -> NodeSnapshot {
        let nodes: Vec<Option<WatchedNode>> = self.shown.lock().clone();
        let mut look = NodeSnapshot::default();
        for node in nodes {
            let Some(WatchedNode { metrics, pid }) = node else {
                look.resident_mib.push(None);
                continue;
            };
            look.resident_mib.push(resident_kib(pid).ok().map(mib));
            look.resident_peak_mib = look.resident_peak_mib.max(resident_peak_kib(pid).map_or(0.0, mib));
            if let Ok(spent_us) = cpu_us(pid) {
                cpu.saw(pid, spent_us as f64, from_zero);
            }
            // A node that has just been killed does not answer.
            if let Ok(text) = scrape(metrics, SCRAPE_DEADLINE).await {
                let sum = values(&text, names::RECORDS_COMMITTED).map(|(_, value)| value).sum();
                committed.saw(pid, sum, from_zero);
                look.add(&text);
            }
        }
        look
    }

    fn tell(&self, sample: &SecondSample, last: bool) {
        let mut out = std::io::stdout();
        let terminal = out.is_terminal();
        if !self.progress || !(terminal || last || (sample.at.round() as u64).is_multiple_of(SECONDS_A_LINE))
        {
            return;
        }
        let (begin, end) = if terminal { ("\r\x1b[K", if last { "\n" } else { "" }) } else { ("", "\n") };
        // Losing the terminal is no reason to stop measuring.
        let _ = write!(out, "{begin}{}{end}", told(sample));
        let _ = out.flush();
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Formats a sample as one line.
fn told(sample: &SecondSample) -> String {
    let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let memory = sample.resident_mib.iter().map(|mib| shown(*mib)).collect::<Vec<_>>().join(" + ");
    format!(
        "{:5.0} s  due {:.0}/s  arrived {:.0}/s  waiting {:.0}  lag {}  consumers {}  in flight {}  resident {memory} MiB",
        sample.at,
        sample.due,
        sample.arrived,
        sample.waiting,
        shown(sample.lag),
        shown(sample.consumers),
        shown(sample.in_flight),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_sums_over_restarted_processes() {
        let mut rising = ProcessCounter::default();
        rising.saw(1, 100.0, false);
        rising.saw(1, 130.0, true);
        // Killed; its successor starts from 0, and was observed late.
        rising.saw(2, 7.0, true);
        rising.saw(2, 9.0, true);
        assert!((rising.total - 39.0).abs() < f64::EPSILON, "{rising:?}");
    }

    #[test]
    fn snapshot_sums_nodes_and_missing_metrics_are_none() {
        let mut look = NodeSnapshot::default();
        look.add("lighterman_offset_lag{m=\"a\"} 3\nlighterman_consumers{m=\"a\"} 2\n");
        look.add("lighterman_offset_lag{m=\"b\"} 4\n");
        assert_eq!((look.lag, look.consumers, look.in_flight), (Some(7.0), Some(2.0), None));
        let sample = SecondSample {
            at: 3.0,
            lag: look.lag,
            resident_mib: vec![Some(60.4), None],
            ..SecondSample::default()
        };
        let line = told(&sample);
        assert!(
            line.contains("lag 7") && line.contains("in flight -") && line.contains("60 + - MiB"),
            "{line}"
        );
    }
}
