//! HTML report of a run: a single file without external resources.

use std::fmt::Write;

use crate::compare::{RunComparison, Trend};
use crate::figures::{MEASURES, PercentilesMs, RunFigures, SecondSample};
use crate::plot::{LinePlot, PlotAxis, PlotLine, escaped};
use crate::scenario::LoadScenario;

const STYLE: &str = "\
body{font:14px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
h1{margin-bottom:0}table{border-collapse:collapse}td,th{padding:2px 14px 2px 0;text-align:right}\
td:first-child,th:first-child{text-align:left}.good{color:#17722c}.bad{color:#b3141c;font-weight:bold}\
pre{background:#f4f4f4;padding:1em;overflow:auto}svg{display:block;width:100%;margin:1.2em 0}\
svg text{font:11px system-ui,sans-serif;fill:#444}svg .title{font-size:13px;font-weight:bold;fill:#222}\
svg .y{text-anchor:end}svg .x,svg .none{text-anchor:middle}svg .grid{stroke:#e3e3e3}\
svg .mark{stroke:#b3141c;stroke-dasharray:4 3}svg .before,svg .behind{fill:#b3141c}svg .before{text-anchor:end}svg polyline{fill:none;stroke-width:1.5;stroke-linejoin:round}";

/// Renders the page of a run, with a comparison if one is given.
pub fn page(scenario: &LoadScenario, run: &RunFigures, comparison: Option<&RunComparison>) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{name} on {kafka}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>{name}</h1>\n<p>{about}.<br>Kafka: {kafka}; {scale:.0} % of the scenario's time; {machine}.</p>\n",
        machine = escaped(&run.machine),
        name = escaped(&run.scenario),
        kafka = escaped(&run.kafka),
        about = escaped(&scenario.about),
        scale = run.scale * 100.0,
    );
    verdict(&mut page, run);
    figures(&mut page, run);
    if let Some(comparison) = comparison {
        compared(&mut page, comparison);
    }
    for plot in plots(run) {
        page.push_str(&plot.svg());
    }
    if !run.marks.is_empty() {
        page.push_str("<h2>What happened to nodes</h2>\n<ul>\n");
        for mark in &run.marks {
            let _ = writeln!(page, "<li>{:.1} s: {}</li>", mark.at, escaped(&mark.label));
        }
        page.push_str("</ul>\n");
    }
    let _ = writeln!(page, "<h2>The scenario</h2>\n<pre>{}</pre>\n</body>\n</html>", escaped(&scenario.text));
    page
}

fn verdict(page: &mut String, run: &RunFigures) {
    if run.is_clean() {
        let _ = writeln!(
            page,
            "<p class=\"good\">Clean: nothing is missing, order held in every partition, {} delivered again ({} allowed).</p>",
            run.repeated, run.repeated_max
        );
        return;
    }
    page.push_str("<p class=\"bad\">Not clean:</p>\n<ul class=\"bad\">\n");
    for problem in &run.problems {
        let _ = writeln!(page, "<li>{}</li>", escaped(problem));
    }
    page.push_str("</ul>\n");
}

fn figures(page: &mut String, run: &RunFigures) {
    page.push_str("<h2>Figures</h2>\n<table>\n");
    for measure in MEASURES {
        let (name, figure, digits) = (escaped(measure.name), (measure.of)(run), measure.digits);
        let _ = writeln!(page, "<tr><td>{name}</td><td>{figure:.digits$}</td></tr>");
    }
    page.push_str("</table>\n");
}

fn compared(page: &mut String, comparison: &RunComparison) {
    page.push_str("<h2>Beside the older run</h2>\n");
    for difference in &comparison.differences {
        let _ = writeln!(page, "<p class=\"bad\">Not the same run: {}</p>", escaped(difference));
    }
    page.push_str("<table>\n<tr><th></th><th>old</th><th>new</th><th></th></tr>\n");
    for row in &comparison.rows {
        let (class, word) = match row.went {
            Trend::Same => ("", ""),
            Trend::Better => ("good", "better"),
            Trend::Worse => ("bad", "regression"),
        };
        let (name, digits) = (escaped(row.measure.name), row.measure.digits);
        let _ = writeln!(
            page,
            "<tr><td>{name}</td><td>{:.digits$}</td><td>{:.digits$}</td><td class=\"{class}\">{word}</td></tr>",
            row.old, row.new
        );
    }
    page.push_str("</table>\n");
}

fn plots(run: &RunFigures) -> Vec<LinePlot<'_>> {
    let seconds = run.samples.last().map_or(0.0, |sample| sample.at);
    let plot = |title, axis, series| LinePlot { title, axis, seconds, series, marks: &run.marks };
    let line = |name: &str, of: fn(&SecondSample) -> Option<f64>| {
        PlotLine::new(name, run.samples.iter().map(|sample| (sample.at, of(sample))))
    };
    let latency = |name: &str, of: fn(&PercentilesMs) -> f64| {
        PlotLine::new(name, run.samples.iter().map(|sample| (sample.at, sample.latency.as_ref().map(of))))
    };
    let nodes = run.samples.iter().map(|sample| sample.resident_mib.len()).max().unwrap_or_default();
    let memory = (0..nodes).map(|node| {
        let points =
            run.samples.iter().map(|sample| (sample.at, sample.resident_mib.get(node).copied().flatten()));
        PlotLine::new(format!("node {}", node + 1), points)
    });
    vec![
        plot(
            "Throughput, records/s",
            PlotAxis::Linear,
            vec![
                line("due", |sample| Some(sample.due)),
                line("arrived", |sample| Some(sample.arrived)),
                line("committed", |sample| sample.committed),
            ],
        ),
        plot(
            "Latency from due to arrived, ms by powers of ten, in the second in which records were due",
            PlotAxis::Powers,
            vec![
                latency("p50", |latency| latency.p50),
                latency("p99", |latency| latency.p99),
                latency("p99.9", |latency| latency.p999),
                latency("longest", |latency| latency.max),
            ],
        ),
        plot(
            "Records that wait",
            PlotAxis::Whole,
            vec![
                line("due and not arrived", |sample| Some(sample.waiting)),
                line("lag of partitions that a node has", |sample| sample.lag),
            ],
        ),
        plot("Consumers of all nodes", PlotAxis::Whole, vec![line("consumers", |sample| sample.consumers)]),
        plot("Invocations in flight", PlotAxis::Whole, vec![line("in flight", |sample| sample.in_flight)]),
        plot("Resident memory of each node, MiB", PlotAxis::Linear, memory.collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::PlotMark;
    use crate::scenario::parse;

    fn scenario() -> LoadScenario {
        let text = "about = \"a <b> & c\"\npartitions = 1 # </pre><script>\n\
                    [[phase]]\nseconds = 1\nrate = 1\nlatency = 1\n";
        parse("x", text).expect("reads")
    }

    #[test]
    fn page_is_self_contained_and_escaped() {
        let sample = SecondSample {
            at: 1.0,
            due: 5.0,
            resident_mib: vec![Some(3.0), None],
            ..SecondSample::default()
        };
        let run = RunFigures {
            scenario: "<x>".to_owned(),
            problems: vec!["Missing { partition: 0 } <img>".to_owned()],
            samples: vec![sample.clone(), SecondSample { at: 2.0, ..sample }],
            marks: vec![PlotMark { at: 1.0, label: "kill <9>".to_owned() }],
            ..RunFigures::default()
        };
        let comparison = RunComparison::of(&RunFigures::default(), &run);
        let page = page(&scenario(), &run, Some(&comparison));
        assert_eq!(page.matches("<svg").count(), 6);
        for word in ["<script", "<img", "<x>", "<b>", "http://", "https://", "src=", "href="] {
            assert!(!page.contains(word), "{word}: {page}");
        }
        for said in
            ["Not clean", "&lt;img&gt;", "a &lt;b&gt; &amp; c", "kill &lt;9&gt;", "node 2", "older run"]
        {
            assert!(page.contains(said), "{said}: {page}");
        }
    }

    #[test]
    fn page_renders_without_samples() {
        let page = page(&scenario(), &RunFigures::default(), None);
        assert!(
            page.contains("Clean") && page.contains("nothing was measured") && !page.contains("older run")
        );
    }
}
