//! Names, types, units and label names of all metrics. Values are left out, those of labels too.

use std::collections::BTreeMap;
use std::fmt::Write;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

use super::http::{HttpRequest, exchange};
use super::node::{InterfaceNode, until};

/// Metrics that appear only after an error, of the disk or the cluster, or by a bug.
const AFTER_ERRORS: [&str; 6] = [
    "lighterman_audit_errors_total",
    "lighterman_audit_late_total",
    "lighterman_invariant_violations_total",
    "lighterman_mailbox_full_total",
    "lighterman_rebuilds_total",
    "lighterman_truncations_total",
];

/// Recorder of the descriptions: types and units by name.
#[derive(Default)]
struct DescribedMetrics(Mutex<BTreeMap<String, (&'static str, String)>>);

impl DescribedMetrics {
    fn add(&self, kind: &'static str, name: &KeyName, unit: Option<Unit>) {
        let unit = unit.map(|unit| unit.as_str().to_owned()).unwrap_or_default();
        self.0.lock().insert(name.as_str().to_owned(), (kind, unit));
    }
}

impl Recorder for DescribedMetrics {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.add("counter", &name, unit);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.add("gauge", &name, unit);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
        self.add("histogram", &name, unit);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Returns a line for each metric that the code describes. Labels are those of the page of `node`.
pub(crate) async fn all(node: &InterfaceNode) -> String {
    let described = DescribedMetrics::default();
    ::metrics::with_local_recorder(&described, lighterman::metrics::describe);
    let described = described.0.into_inner();
    assert_eq!(described.len(), lighterman::metrics::ALL.len());
    let expected = || described.keys().filter(|name| !AFTER_ERRORS.contains(&name.as_str()));
    let page = until("every metric is on the page", async || {
        let page = exchange(node.metrics, &HttpRequest::unsigned("GET", "/metrics")).await.body;
        let missing = expected().find(|name| !page.contains(&format!("\n# TYPE {name} ")));
        missing.is_none().then_some(page)
    });
    let shapes = shapes(&page.await);
    let mut shown = String::new();
    for (name, (kind, unit)) in &described {
        let _ = write!(shown, "{name} {kind} {unit}");
        let shape = shapes.get(name);
        assert!(shape.is_none_or(|shape| shape.kind == *kind), "{name} is a {kind}");
        let _ = match shape.filter(|_| !AFTER_ERRORS.contains(&name.as_str())) {
            Some(FamilyShape { labels, bounds, .. }) if bounds.is_empty() => {
                writeln!(shown, " {}", labels.join(" | "))
            }
            Some(FamilyShape { labels, bounds, .. }) => {
                writeln!(shown, " {} le: {}", labels.join(" | "), bounds.join(" "))
            }
            None => writeln!(shown, " (not in this run)"),
        };
    }
    let undescribed: Vec<_> = shapes.keys().filter(|name| !described.contains_key(*name)).collect();
    assert!(undescribed.is_empty(), "metrics that the code does not describe: {undescribed:?}");
    shown
}

/// Type of a family, and all sets of label names of its series.
struct FamilyShape {
    kind: String,
    labels: Vec<String>,
    /// Bounds of a histogram.
    bounds: Vec<String>,
}

fn shapes(page: &str) -> BTreeMap<String, FamilyShape> {
    let mut shapes: BTreeMap<String, FamilyShape> = BTreeMap::new();
    let mut family = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            name.clone_into(&mut family);
            let (kind, labels, bounds) = (kind.to_owned(), Vec::new(), Vec::new());
            shapes.insert(family.clone(), FamilyShape { kind, labels, bounds });
        } else if line.starts_with(&family) && !family.is_empty() {
            let shape = shapes.get_mut(&family).expect("a type");
            let (suffix, labels) = series(&line[family.len()..], &mut shape.bounds);
            let labels = format!("{suffix}{{{labels}}}");
            if !shape.labels.contains(&labels) {
                shape.labels.push(labels);
            }
        }
    }
    shapes
}

/// Returns the suffix of a series and the names of its labels. Adds the bound of a bucket to `bounds`.
fn series<'l>(line: &'l str, bounds: &mut Vec<String>) -> (&'l str, String) {
    let Some((suffix, labels)) = line.split_once('{') else {
        return (line.split(' ').next().unwrap_or_default(), String::new());
    };
    let labels = labels.rsplit_once('}').expect("closed").0;
    let mut pieces = labels.split('"');
    let mut names = Vec::new();
    while let (Some(name), Some(value)) = (pieces.next(), pieces.next()) {
        let name = name.trim_start_matches(',').trim_end_matches('=');
        names.push(name);
        if name == "le" && !bounds.iter().any(|bound| bound == value) {
            bounds.push(value.to_owned());
        }
    }
    (suffix, names.join(","))
}
