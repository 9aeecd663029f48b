//! Draws lines over the number of calls, as SVG.

use std::fmt::Write as _;

pub struct Line {
    pub name: &'static str,
    /// Of the first call, of the second, …
    pub points: Vec<u64>,
}

const COLOURS: [&str; 2] = ["#0969da", "#cf222e"];
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 60.0;
/// From the left edge of one panel to that of the next.
const STEP: f64 = WIDTH + LEFT + 20.0;

/// One panel for the first line alone, in its own scale, and one for all of them.
pub fn drawn(title: &str, lines: &[Line]) -> String {
    let (width, height) = (2.0 * STEP, TOP + HEIGHT + 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"system-ui, \
         sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n<rect width=\"{width}\" height=\"{height}\" \
         fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"24\" font-size=\"14\" font-weight=\"600\">{title}</text>\n"
    );
    panel(&mut svg, LEFT, &lines[..1]);
    panel(&mut svg, LEFT + STEP, lines);
    svg + "</svg>\n"
}

fn panel(svg: &mut String, left: f64, lines: &[Line]) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let top = round_up(points().copied().max().unwrap_or(1));
    let calls = lines.iter().map(|line| line.points.len()).max().unwrap_or(1);
    let y = |value: u64| TOP + HEIGHT * (1.0 - value as f64 / top as f64);
    let x = |call: usize| left + WIDTH * call as f64 / calls as f64;
    for part in 0..=4 {
        let value = top / 4 * part;
        put(svg, &format!("<path d=\"M{left} {:.1}h{WIDTH}\" stroke=\"#d0d7de\"/>", y(value)));
        text(svg, left - 6.0, y(value) + 4.0, "end", &bytes(value));
        let call = calls * part as usize / 4;
        text(svg, x(call), TOP + HEIGHT + 18.0, "middle", &call.to_string());
    }
    text(svg, left + WIDTH / 2.0, TOP + HEIGHT + 38.0, "middle", "calls");
    for ((at, line), colour) in lines.iter().enumerate().zip(COLOURS) {
        let mut path = format!("M{left} {:.1}", y(0));
        for (call, value) in line.points.iter().enumerate() {
            let _ = write!(path, "L{:.1} {:.1}", x(call + 1), y(*value));
        }
        put(svg, &format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
        let (above, last) = (TOP + 16.0 + 18.0 * at as f64, line.points.last().copied().unwrap_or(0));
        put(
            svg,
            &format!(
                "<rect x=\"{}\" y=\"{}\" width=\"12\" height=\"3\" fill=\"{colour}\"/>",
                left + 10.0,
                above - 5.0
            ),
        );
        text(svg, left + 28.0, above, "start", &format!("{}: {}", line.name, bytes(last)));
    }
}

fn put(svg: &mut String, element: &str) {
    svg.push_str(element);
    svg.push('\n');
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    put(svg, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"));
}

/// The next number above that reads well and can be quartered.
fn round_up(value: u64) -> u64 {
    let scale = 10u64.pow(value.max(1).ilog10());
    let steps = [1, 2, 4, 6, 8, 10].map(|step| step * scale);
    steps.into_iter().find(|step| *step >= value).unwrap_or(10 * scale)
}

fn bytes(value: u64) -> String {
    match value {
        0..1_000 => format!("{value} B"),
        1_000..1_000_000 => format!("{:.0} kB", value as f64 / 1e3),
        _ => format!("{:.1} MB", value as f64 / 1e6),
    }
}
