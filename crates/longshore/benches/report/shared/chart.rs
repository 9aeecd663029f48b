//! Draws what heartbeats cost over the number of workers, as SVG; both axes are logarithmic, so even growth is a straight
//! line.

use std::fmt::Write as _;

use super::heartbeats::Load;

const COLOURS: [&str; 2] = ["#0969da", "#cf222e"];
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 60.0;
/// From the left edge of one panel to that of the next.
const STEP: f64 = WIDTH + LEFT + 20.0;

struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

/// One panel for CPU time, one for transactions.
pub fn drawn(loads: &[Load]) -> String {
    let line = |name, of: fn(&Load) -> f64| Line {
        name,
        points: loads.iter().map(|load| (load.workers as f64, of(load))).collect(),
    };
    let (width, height) = (2.0 * STEP, TOP + HEIGHT + 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, \
         sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n<rect width=\"{width}\" height=\"{height}\" \
         fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"14\" font-weight=\"600\">Workers that hold eight \
         tasks each and renew them every 5 s</text>\n"
    );
    let cpu = [line("serve", |load| load.serve * 100.0), line("Postgres", |load| load.postgres * 100.0)];
    panel(&mut svg, LEFT, "% of a core", &cpu);
    let work =
        [line("heartbeats/s", |load| load.heartbeats), line("transactions/s", |load| load.transactions)];
    panel(&mut svg, LEFT + STEP, "a second", &work);
    svg + "</svg>\n"
}

fn panel(svg: &mut String, left: f64, unit: &str, lines: &[Line]) {
    let all = || lines.iter().flat_map(|line| &line.points);
    let (first, last) = decades(all().map(|point| point.0));
    let (low, high) = decades(all().map(|point| point.1));
    let x = |value: f64| left + WIDTH * (value.log10() - first) / (last - first).max(1.0);
    let y = |value: f64| {
        TOP + HEIGHT * (1.0 - (value.max(10f64.powf(low)).log10() - low) / (high - low).max(1.0))
    };
    text(svg, left, TOP - 10.0, "start", unit);
    for decade in low as i32..=high as i32 {
        let value = 10f64.powi(decade);
        put(svg, &format!("<path d=\"M{left} {:.1}h{WIDTH}\" stroke=\"#d0d7de\"/>", y(value)));
        text(svg, left - 6.0, y(value) + 4.0, "end", &value.to_string());
    }
    for decade in first as i32..=last as i32 {
        let value = 10f64.powi(decade);
        text(svg, x(value), TOP + HEIGHT + 18.0, "middle", &value.to_string());
    }
    text(svg, left + WIDTH / 2.0, TOP + HEIGHT + 38.0, "middle", "workers");
    for ((at, line), colour) in lines.iter().enumerate().zip(COLOURS) {
        let mut path = String::new();
        for (n, point) in line.points.iter().enumerate() {
            let verb = if n == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{verb}{:.1} {:.1}", x(point.0), y(point.1));
            let (at_x, at_y) = (x(point.0), y(point.1));
            put(svg, &format!("<circle cx=\"{at_x:.1}\" cy=\"{at_y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
        }
        put(svg, &format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
        let above = TOP + 16.0 + 18.0 * at as f64;
        let bar = format!("width=\"12\" height=\"3\" fill=\"{colour}\"");
        put(svg, &format!("<rect x=\"{}\" y=\"{}\" {bar}/>", left + 10.0, above - 5.0));
        let value = line.points.last().map_or(0.0, |point| point.1);
        text(svg, left + 28.0, above, "start", &format!("{}: {value:.0}", line.name));
    }
}

/// The powers of ten around the values.
fn decades(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let positive = values.filter(|value| *value > 0.0);
    let low = positive.clone().fold(f64::INFINITY, f64::min).log10().floor();
    let high = positive.fold(f64::NEG_INFINITY, f64::max).log10().ceil();
    if low.is_finite() && high.is_finite() { (low, high.max(low + 1.0)) } else { (0.0, 1.0) }
}

fn put(svg: &mut String, element: &str) {
    svg.push_str(element);
    svg.push('\n');
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    put(svg, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"));
}
