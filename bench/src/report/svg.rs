//! Latency over time as a picture: one panel for each operation; p50, p99 and the longest, on a logarithmic scale.

use super::{Operation, Point, Report};

const WIDTH: f64 = 900.0;
const PANEL: f64 = 170.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const GAP: f64 = 46.0;
/// More points than this are joined: nobody sees more.
const MOST_POINTS: usize = 300;
/// The lines: what they show, and a colour that also the colour-blind tell apart.
const LINES: [(&str, &str); 3] = [("p50", "#0072b2"), ("p99", "#e69f00"), ("max", "#d55e00")];

/// The picture.
#[must_use]
pub fn svg(report: &Report) -> String {
    let panels: Vec<&Operation> =
        report.operations.iter().filter(|operation| !operation.timeline.is_empty()).collect();
    let count = u32::try_from(panels.len()).map_or(1.0, f64::from);
    let height = TOP + (PANEL + GAP) * count.max(1.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}: latency from the intended time, ms</text>\n",
        escaped(report.scenario)
    );
    for (at, (name, colour)) in (0_u8..).zip(LINES) {
        let x = WIDTH - RIGHT - 150.0 + 50.0 * f64::from(at);
        line(&mut out, &format!("<text x=\"{x}\" y=\"20\" fill=\"{colour}\">{name}</text>"));
    }
    let end = panels
        .iter()
        .filter_map(|operation| operation.timeline.last())
        .map(|point| point.second + 1)
        .max()
        .unwrap_or(1);
    for (at, operation) in (0_u32..).zip(&panels) {
        panel(&mut out, operation, TOP + (PANEL + GAP) * f64::from(at), end);
    }
    if panels.is_empty() {
        line(&mut out, &format!("<text x=\"{LEFT}\" y=\"80\">nothing was measured</text>"));
    }
    out.push_str("</svg>\n");
    out
}

fn panel(out: &mut String, operation: &Operation, top: f64, end: usize) {
    let points = joined(&operation.timeline, end.div_ceil(MOST_POINTS).max(1));
    let values = || points.iter().flat_map(|point| [point.p50, point.p99, point.max]);
    // Whole powers of ten around everything there is.
    let low = values().fold(f64::MAX, f64::min).max(0.001).log10().floor();
    let high = values().fold(0.001, f64::max).log10().ceil().max(low + 1.0);
    let y = |value: f64| top + PANEL * (1.0 - (value.max(0.001).log10() - low) / (high - low));
    let length = seconds(end).max(1.0);
    let x = |second: usize| LEFT + (WIDTH - LEFT - RIGHT) * (seconds(second) + 0.5) / length;
    line(
        out,
        &format!(
            "<text x=\"{LEFT}\" y=\"{:.1}\" font-weight=\"bold\">{}</text>",
            top - 5.0,
            escaped(operation.name)
        ),
    );
    let mut power = low;
    while power <= high {
        let at = y(10_f64.powf(power));
        line(
            out,
            &format!(
                "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                10_f64.powf(power)
            ),
        );
        power += 1.0;
    }
    for quarter in 0_u8..=4 {
        let share = f64::from(quarter) / 4.0;
        line(
            out,
            &format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.0} s</text>",
                LEFT + (WIDTH - LEFT - RIGHT) * share,
                top + PANEL + 16.0,
                length * share
            ),
        );
    }
    let lines: [fn(&Point) -> f64; 3] = [|point| point.p50, |point| point.p99, |point| point.max];
    for ((_, colour), of) in LINES.iter().zip(lines).rev() {
        let path: Vec<String> =
            points.iter().map(|point| format!("{:.1},{:.1}", x(point.second), y(of(point)))).collect();
        line(
            out,
            &format!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
                path.join(" ")
            ),
        );
    }
}

/// Points of `step` seconds each. Medians and 99th percentiles of several seconds are the largest among them: a picture must
/// not hide a bad second.
fn joined(points: &[Point], step: usize) -> Vec<Point> {
    let mut out: Vec<Point> = Vec::new();
    for point in points {
        match out.last_mut().filter(|last| last.second / step == point.second / step) {
            Some(last) => {
                last.done += point.done;
                last.p50 = last.p50.max(point.p50);
                last.p99 = last.p99.max(point.p99);
                last.max = last.max.max(point.max);
            }
            None => out.push(*point),
        }
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn seconds(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_keeps_its_worst_second() {
        let timeline: Vec<Point> = (0..3000)
            .map(|second| Point {
                second,
                done: 1,
                p50: 1.0,
                p99: 2.0,
                max: if second == 1777 { 900.0 } else { 3.0 },
            })
            .collect();
        let points = joined(&timeline, 10);
        assert_eq!(points.len(), 300);
        assert_eq!(points.iter().map(|point| point.done).sum::<u64>(), 3000);
        assert_eq!(points.iter().filter(|point| point.max == 900.0).count(), 1);
    }
}
