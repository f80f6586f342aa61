//! Line plots over time as SVG: axes, a line for each series, gaps where nothing was measured, and a rule for each
//! mark.

use std::fmt::Write;

use crate::figures::PlotMark;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 26.0;
/// Approximate number of grid lines.
const TICKS: f64 = 5.0;
const LABEL_HEIGHT: f64 = 12.0;
const LABEL_ROWS: usize = 4;
const COLOURS: [&str; 8] =
    ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f"];

/// Scale of the vertical axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlotAxis {
    /// Linear, from 0 in even steps.
    Linear,
    /// Linear with integer steps.
    Whole,
    /// Logarithmic by powers of ten, so that common and rare values are visible together.
    Powers,
}

/// A line plot.
pub struct LinePlot<'p> {
    /// Title with the unit.
    pub title: &'p str,
    /// Scale of the values.
    pub axis: PlotAxis,
    /// End of the time axis, in seconds.
    pub seconds: f64,
    /// Lines of the plot.
    pub series: Vec<PlotLine>,
    /// Events marked in every plot.
    pub marks: &'p [PlotMark],
}

/// A line of a plot.
pub struct PlotLine {
    /// Name in the legend.
    pub name: String,
    /// Seconds and value, ordered by time. `None` interrupts the line.
    pub points: Vec<(f64, Option<f64>)>,
}

impl PlotLine {
    /// Creates a line.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, Option<f64>)>) -> Self {
        Self { name: name.into(), points: points.into_iter().collect() }
    }
}

/// Escapes text for XML and HTML, including attributes.
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters are invalid in XML.
            other if other.is_control() && other != '\n' && other != '\t' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Mapping of seconds and values to coordinates.
struct PlotScale {
    seconds: f64,
    least: f64,
    most: f64,
    axis: PlotAxis,
}

impl PlotScale {
    /// Creates a scale that covers these values, which must be finite.
    fn of(values: impl Iterator<Item = f64> + Clone, seconds: f64, axis: PlotAxis) -> Self {
        let most = values.clone().fold(0.0, f64::max);
        let (least, most) = match axis {
            PlotAxis::Linear | PlotAxis::Whole => {
                let step = step_of(most, axis);
                (0.0, (most / step).ceil().max(1.0) * step)
            }
            PlotAxis::Powers => {
                let least = values.filter(|value| *value > 0.0).fold(most, f64::min);
                let least = if least > 0.0 { 10_f64.powf(least.log10().floor()) } else { 1.0 };
                let most = if most > 0.0 { 10_f64.powf(most.log10().ceil()) } else { least };
                (least, most.max(least * 10.0))
            }
        };
        Self { seconds, least, most, axis }
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (at / self.seconds).clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.axis {
            PlotAxis::Linear | PlotAxis::Whole => value / self.most,
            PlotAxis::Powers => {
                (value.max(self.least) / self.least).log10() / (self.most / self.least).log10()
            }
        };
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share.clamp(0.0, 1.0)
    }

    /// Returns the values that have a grid line.
    fn ticks(&self) -> Vec<f64> {
        let step = step_of(self.most, self.axis);
        let next = |value: &f64| match self.axis {
            PlotAxis::Linear | PlotAxis::Whole => value + step,
            PlotAxis::Powers => value * 10.0,
        };
        let upwards = std::iter::successors(Some(self.least), |value| Some(next(value)));
        upwards.take_while(|value| *value <= self.most * 1.001).collect()
    }
}

impl LinePlot<'_> {
    /// Renders the `<svg>` element.
    pub fn svg(&self) -> String {
        let all = self.series.iter().flat_map(|series| &series.points);
        let values = all.filter_map(|(_, value)| *value).filter(|value| value.is_finite());
        let seconds = if self.seconds.is_finite() { self.seconds.max(1.0) } else { 1.0 };
        let scale = PlotScale::of(values.clone(), seconds, self.axis);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"14\">{title}</text>\n",
            title = escaped(self.title)
        );
        axes(&mut svg, &scale);
        for (index, mark) in self.marks.iter().enumerate() {
            rule(&mut svg, &scale, index, mark);
        }
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            legend(&mut svg, index, self.series.len(), &series.name, colour);
            line(&mut svg, &scale, series, colour);
        }
        if values.count() == 0 {
            let (x, y) = (f64::midpoint(LEFT, WIDTH), f64::midpoint(TOP, HEIGHT - BOTTOM));
            let _ =
                writeln!(svg, "<text class=\"none\" x=\"{x:.1}\" y=\"{y:.1}\">nothing was measured</text>");
        }
        svg.push_str("</svg>\n");
        svg
    }
}

/// Draws a mark with its label. Labels of successive marks are staggered, since marks may be close together.
fn rule(svg: &mut String, scale: &PlotScale, index: usize, mark: &PlotMark) {
    let (x, label) = (scale.x(mark.at), escaped(&mark.label));
    let (end, y) = (HEIGHT - BOTTOM, TOP + 9.0 + LABEL_HEIGHT * (index % LABEL_ROWS) as f64);
    let (side, beside) = if x > WIDTH * 0.8 { ("before", x - 4.0) } else { ("behind", x + 4.0) };
    let _ = writeln!(
        svg,
        "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{end:.1}\"/>\
         <text class=\"{side}\" x=\"{beside:.1}\" y=\"{y:.1}\">{label}</text>"
    );
}

fn axes(svg: &mut String, scale: &PlotScale) {
    for value in scale.ticks() {
        let (y, right) = (scale.y(value), WIDTH - RIGHT);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            LEFT - 6.0,
            y + 3.5,
            short(value)
        );
    }
    let step = step_of(scale.seconds, PlotAxis::Whole);
    let mut at = 0.0;
    while at <= scale.seconds {
        let (x, y) = (scale.x(at), HEIGHT - BOTTOM + 15.0);
        let _ = writeln!(svg, "<text class=\"x\" x=\"{x:.1}\" y=\"{y:.1}\">{} s</text>", short(at));
        at += step;
    }
}

fn legend(svg: &mut String, index: usize, of: usize, name: &str, colour: &str) {
    let x = LEFT + (WIDTH - LEFT - RIGHT) * index as f64 / of as f64;
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"22\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
         <text class=\"name\" x=\"{:.1}\" y=\"31\">{}</text>",
        x + 14.0,
        escaped(name)
    );
}

/// Draws a line for each stretch without a gap; an isolated point is a dot.
fn line(svg: &mut String, scale: &PlotScale, series: &PlotLine, colour: &str) {
    let whole = |point: &(f64, Option<f64>)| point.1.is_some_and(f64::is_finite) && point.0.is_finite();
    for stretch in series.points.split(|point| !whole(point)) {
        let places = stretch.iter().filter_map(|(at, value)| Some((scale.x(*at), scale.y((*value)?))));
        let places: Vec<(f64, f64)> = places.collect();
        match places[..] {
            [] => {}
            [(x, y)] => {
                let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.5\" fill=\"{colour}\"/>");
            }
            _ => {
                let places = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>();
                let places = places.join(" ");
                let _ = writeln!(svg, "<polyline points=\"{places}\" stroke=\"{colour}\"/>");
            }
        }
    }
}

/// Returns a step of 1, 2 or 5 times a power of ten, so that about five steps reach `most`. Steps of `Whole` are at
/// least 1.
fn step_of(most: f64, axis: PlotAxis) -> f64 {
    if !(most.is_finite() && most > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf((most / TICKS).log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power * TICKS >= most * 0.999);
    let step = times.unwrap_or(10.0) * power;
    if axis == PlotAxis::Whole { step.max(1.0) } else { step }
}

/// Formats a number briefly for an axis.
fn short(value: f64) -> String {
    let (value, unit) = match value.abs() {
        million if million >= 1e6 => (value / 1e6, "M"),
        thousand if thousand >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(series: Vec<PlotLine>) -> String {
        LinePlot { title: "t", axis: PlotAxis::Linear, seconds: 10.0, series, marks: &[] }.svg()
    }

    /// Asserts that every tag is closed and every attribute quoted.
    fn assert_well_formed(xml: &str) {
        let mut open = Vec::new();
        let mut rest = xml;
        while let Some(at) = rest.find('<') {
            assert!(!rest[..at].contains('>'), "a stray >: {rest}");
            let end = at + rest[at..].find('>').expect("a tag ends");
            let tag = &rest[at + 1..end];
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name.to_owned()), "{xml}");
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or_default().to_owned());
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn lines_are_drawn_at_their_values() {
        let svg = plot(vec![PlotLine::new("a", [(0.0, Some(0.0)), (5.0, Some(50.0)), (10.0, Some(100.0))])]);
        assert_well_formed(&svg);
        assert!(svg.contains("points=\"64.0,194.0 456.0,117.0 848.0,40.0\""), "{svg}");
        for said in [">0<", ">20<", ">100<", ">10 s<"] {
            assert!(svg.contains(said), "{said}: {svg}");
        }
    }

    #[test]
    fn log_axis_shows_common_and_rare_values() {
        let points = [(0.0, Some(2.0)), (5.0, Some(100.0)), (10.0, Some(1_000.0))];
        let series =
            || vec![PlotLine::new("a", points), PlotLine::new("b", [(0.0, Some(0.0)), (10.0, Some(1.0))])];
        let svg =
            LinePlot { title: "t", axis: PlotAxis::Powers, seconds: 10.0, series: series(), marks: &[] }
                .svg();
        assert_well_formed(&svg);
        // Each power is a third of the height, and nothing is below the axis.
        assert!(svg.contains("64.0,178.5 456.0,91.3 848.0,40.0"), "{svg}");
        assert!(svg.contains("64.0,194.0 848.0,194.0"), "{svg}");
        for said in [">1<", ">10<", ">100<", ">1000<"] {
            assert!(svg.contains(said), "{said}: {svg}");
        }
        for values in [vec![], vec![0.0], vec![7.0], vec![10.0], vec![1e-3, 5e6]] {
            let scale = PlotScale::of(values.iter().copied(), 1.0, PlotAxis::Powers);
            assert!((2..=12).contains(&scale.ticks().len()), "{values:?}: {:?}", scale.ticks());
        }
    }

    #[test]
    fn whole_axis_has_integer_ticks_and_labelled_marks() {
        let marks = [1.0, 1.5, 9.9].map(|at| PlotMark { at, label: format!("at {at}") });
        let series = vec![PlotLine::new("a", [(0.0, Some(1.0)), (10.0, Some(2.0))])];
        let svg = LinePlot { title: "t", axis: PlotAxis::Whole, seconds: 10.0, series, marks: &marks }.svg();
        assert_well_formed(&svg);
        assert!(svg.contains(">2<") && !svg.contains(">0.5<"), "{svg}");
        for said in [
            "class=\"behind\" x=\"146.4\" y=\"49.0\">at 1<",
            "class=\"behind\" x=\"185.6\" y=\"61.0\">at 1.5<",
            "class=\"before\" x=\"836.2\" y=\"73.0\">at 9.9<",
        ] {
            assert!(svg.contains(said), "{said}: {svg}");
        }
    }

    #[test]
    fn missing_and_non_finite_values_are_gaps() {
        let points = [
            (0.0, Some(1.0)),
            (1.0, Some(1.0)),
            (2.0, None),
            (3.0, Some(f64::NAN)),
            (4.0, Some(2.0)),
            (5.0, Some(f64::INFINITY)),
        ];
        let svg = plot(vec![PlotLine::new("a", points)]);
        assert_well_formed(&svg);
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (1, 1), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn plot_without_values_says_so() {
        for series in [vec![], vec![PlotLine::new("a", [])], vec![PlotLine::new("a", [(1.0, None)])]] {
            let svg = plot(series);
            assert_well_formed(&svg);
            assert!(svg.contains("nothing was measured") && !svg.contains("NaN"), "{svg}");
        }
        let zero = plot(vec![PlotLine::new("a", [(0.0, Some(0.0)), (1.0, Some(0.0))])]);
        assert!(zero.contains("<polyline") && !zero.contains("nothing was measured"), "{zero}");
        assert_well_formed(
            &LinePlot { title: "t", axis: PlotAxis::Powers, seconds: 0.0, series: vec![], marks: &[] }.svg(),
        );
    }

    #[test]
    fn names_are_escaped() {
        let marks = [PlotMark { at: 1.0, label: "</title><script>'\"&".to_owned() }];
        let hostile = "<b onload=\"x\">\u{0}";
        let series = vec![PlotLine::new(hostile, [(0.0, Some(1.0))])];
        let svg =
            LinePlot { title: hostile, axis: PlotAxis::Linear, seconds: 2.0, series, marks: &marks }.svg();
        assert_well_formed(&svg);
        assert!(!svg.contains("<b") && !svg.contains("<script") && !svg.contains('\u{0}'), "{svg}");
        assert!(svg.contains("&lt;/title&gt;&lt;script&gt;&#39;&quot;&amp;"), "{svg}");
    }

    #[test]
    fn steps_are_round_and_few() {
        for most in [0.0007, 0.3, 1.0, 7.0, 99.0, 100.0, 101.0, 12_345.0, 9e9] {
            let lines = (most / step_of(most, PlotAxis::Linear)).ceil();
            assert!((2.0..=5.0).contains(&lines), "{most}: {lines}");
        }
        let shown = [0.0, 0.25, 5.0, 9_999.0, 20_000.0, 2_500_000.0].map(short);
        assert_eq!(shown, ["0", "0.25", "5", "9999", "20k", "2.5M"]);
    }
}
