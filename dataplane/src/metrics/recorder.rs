//! Metrics recorder of the node. A series with a mapping label exists while a handle to it is held, as by the
//! mapping's status. It is removed with its mapping: an alert on a gauge that is not updated any more would never
//! clear.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::formatting::{
    key_to_parts, sanitize_metric_name, write_help_line, write_metric_line, write_type_line,
};
use metrics_util::registry::{Registry, Storage};
use parking_lot::RwLock;

use super::bounds_of;

/// Label that assigns a series to a mapping.
const OWNED_BY: &str = "mapping";

/// Recorder behind the `metrics` macros. Install it once.
pub struct SeriesRecorder {
    shared: Arc<RecorderState>,
}

/// Handle that renders the series of a [`SeriesRecorder`]. Clones share it.
#[derive(Clone)]
pub struct MetricsHandle {
    shared: Arc<RecorderState>,
}

struct RecorderState {
    registry: Registry<Key, BoundedStorage>,
    sentences: RwLock<BTreeMap<String, SharedString>>,
}

/// Storage whose memory does not grow with the number of recorded values.
struct BoundedStorage;

impl Storage<Key> for BoundedStorage {
    type Counter = Arc<AtomicU64>;
    type Gauge = Arc<AtomicU64>;
    type Histogram = Arc<BucketCounts>;

    fn counter(&self, _: &Key) -> Self::Counter {
        Arc::default()
    }

    fn gauge(&self, _: &Key) -> Self::Gauge {
        Arc::default()
    }

    fn histogram(&self, key: &Key) -> Self::Histogram {
        Arc::new(BucketCounts::new(bounds_of(key.name())))
    }
}

/// Histogram: the number of values in each bucket, and their sum.
struct BucketCounts {
    bounds: &'static [f64],
    /// Counts per bucket, one more than bounds. The last bucket has no upper bound.
    counts: Box<[AtomicU64]>,
    sum_bits: AtomicU64,
}

impl BucketCounts {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum_bits: AtomicU64::new(0f64.to_bits()) }
    }
}

impl HistogramFn for BucketCounts {
    fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let add = |bits: u64| Some((f64::from_bits(bits) + value).to_bits());
        // The closure always returns `Some`.
        let _ = self.sum_bits.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

impl Default for SeriesRecorder {
    fn default() -> Self {
        let registry = Registry::new(BoundedStorage);
        Self { shared: Arc::new(RecorderState { registry, sentences: RwLock::default() }) }
    }
}

impl SeriesRecorder {
    /// Returns a handle that renders the recorded series.
    pub fn handle(&self) -> MetricsHandle {
        MetricsHandle { shared: Arc::clone(&self.shared) }
    }

    fn describe(&self, name: &KeyName, sentence: SharedString) {
        self.shared.sentences.write().insert(sanitize_metric_name(name.as_str()), sentence);
    }
}

impl Recorder for SeriesRecorder {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, sentence: SharedString) {
        self.describe(&name, sentence);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, sentence: SharedString) {
        self.describe(&name, sentence);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, sentence: SharedString) {
        self.describe(&name, sentence);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.shared.registry.get_or_create_counter(key, |counter| Counter::from_arc(Arc::clone(counter)))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.shared.registry.get_or_create_gauge(key, |gauge| Gauge::from_arc(Arc::clone(gauge)))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.shared.registry.get_or_create_histogram(key, |counts| Histogram::from_arc(Arc::clone(counts)))
    }
}

/// Returns true if a series is to be kept: it has no mapping label, or a handle outside the registry is held. Handles
/// are created under the registry lock that is held during this check.
fn lives<T>(key: &Key, held: &Arc<T>) -> bool {
    Arc::strong_count(held) > 1 || !key.labels().any(|label| label.key() == OWNED_BY)
}

impl MetricsHandle {
    /// Removes the series of removed mappings.
    pub fn sweep(&self) {
        let registry = &self.shared.registry;
        registry.retain_counters(lives);
        registry.retain_gauges(lives);
        registry.retain_histograms(lives);
    }

    /// Renders all series in Prometheus' text format, sorted. A NaN gauge has no known value and is omitted.
    pub fn render(&self) -> String {
        self.sweep();
        let mut page = MetricsPage::default();
        let registry = &self.shared.registry;
        registry.visit_counters(|key, counter| {
            let (name, labels) = key_to_parts(key, None);
            let mut line = String::new();
            let value = counter.load(Ordering::Relaxed);
            write_metric_line::<&str, u64>(&mut line, &name, None, &labels, None, value, None);
            page.add(name, "counter", labels, &line);
        });
        registry.visit_gauges(|key, gauge| {
            let value = f64::from_bits(gauge.load(Ordering::Relaxed));
            if !value.is_nan() {
                let (name, labels) = key_to_parts(key, None);
                let mut line = String::new();
                write_metric_line::<&str, _>(&mut line, &name, None, &labels, None, number(value), None);
                page.add(name, "gauge", labels, &line);
            }
        });
        registry.visit_histograms(|key, counts| {
            let (name, labels) = key_to_parts(key, None);
            let lines = histogram_lines(&name, &labels, counts);
            page.add(name, "histogram", labels, &lines);
        });
        page.text(&self.shared.sentences.read())
    }
}

fn histogram_lines(name: &str, labels: &[String], histogram: &BucketCounts) -> String {
    let mut lines = String::new();
    let mut count = 0;
    for (at, bucket) in histogram.counts.iter().enumerate() {
        count += bucket.load(Ordering::Relaxed);
        let bound = histogram.bounds.get(at).copied().unwrap_or(f64::INFINITY);
        let bound = Some(("le", number(bound)));
        write_metric_line(&mut lines, name, Some("bucket"), labels, bound, count, None);
    }
    let sum = number(f64::from_bits(histogram.sum_bits.load(Ordering::Relaxed)));
    write_metric_line::<&str, _>(&mut lines, name, Some("sum"), labels, None, sum, None);
    write_metric_line::<&str, _>(&mut lines, name, Some("count"), labels, None, count, None);
    lines
}

/// Formats a number as Prometheus does.
fn number(value: f64) -> String {
    if value.is_infinite() {
        if value > 0.0 { "+Inf".into() } else { "-Inf".into() }
    } else {
        value.to_string()
    }
}

/// Families of series by name. The format requires all lines of a family together.
#[derive(Default)]
struct MetricsPage {
    families: BTreeMap<String, SeriesFamily>,
}

struct SeriesFamily {
    kind: &'static str,
    series: BTreeMap<Vec<String>, String>,
}

impl MetricsPage {
    fn add(&mut self, name: String, kind: &'static str, labels: Vec<String>, lines: &str) {
        let family =
            self.families.entry(name).or_insert_with(|| SeriesFamily { kind, series: BTreeMap::new() });
        family.series.insert(labels, lines.to_owned());
    }

    fn text(&self, sentences: &BTreeMap<String, SharedString>) -> String {
        let mut text = String::new();
        for (name, family) in &self.families {
            if let Some(sentence) = sentences.get(name) {
                write_help_line(&mut text, name, sentence);
            }
            write_type_line(&mut text, name, family.kind);
            text.extend(family.series.values().map(String::as_str));
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, histogram};

    use super::*;

    #[test]
    fn mapping_series_end_with_last_handle() {
        let recorder = SeriesRecorder::default();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            counter!("failures_total").increment(1);
            for round in 0..100 {
                let mapping = format!("m{round}");
                let (mine, lag) = (
                    counter!("polled", "mapping" => mapping.clone()),
                    gauge!("lag", "mapping" => mapping.clone()),
                );
                let sizes = histogram!("lighterman_batch_bytes", "mapping" => mapping.clone());
                mine.increment(2);
                lag.set(7.0);
                sizes.record(5_000.0);
                let again = counter!("polled", "mapping" => mapping.clone());
                drop(mine);
                let text = handle.render();
                assert_eq!(text.matches(&format!("mapping=\"{mapping}\"")).count(), 2 + 10 + 3, "{text}");
                again.increment(1);
                assert!(handle.render().contains(&format!("polled{{mapping=\"{mapping}\"}} 3")));
            }
        });
        let text = handle.render();
        assert_eq!(text, "# TYPE failures_total counter\nfailures_total 1\n\n", "others stay, held or not");
    }

    #[test]
    fn unknown_gauge_is_omitted_infinite_rendered() {
        let recorder = SeriesRecorder::default();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            gauge!("known").set(0.5);
            gauge!("unknown").set(f64::NAN);
            gauge!("endless").set(f64::INFINITY);
        });
        assert_eq!(
            handle.render(),
            "# TYPE endless gauge\nendless +Inf\n\n# TYPE known gauge\nknown 0.5\n\n"
        );
    }

    #[test]
    fn histogram_buckets_are_cumulative() {
        let recorder = SeriesRecorder::default();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let records = histogram!(super::super::BATCH_RECORDS);
            for value in [0.0, 1.0, 1.5, 10_000.0, 20_000.0] {
                records.record(value);
            }
        });
        let text = handle.render();
        for line in
            ["bucket{le=\"1\"} 2", "bucket{le=\"2\"} 3", "bucket{le=\"10000\"} 4", "bucket{le=\"+Inf\"} 5"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains("_sum 30002.5\n") && text.contains("_count 5\n"), "{text}");
    }
}
