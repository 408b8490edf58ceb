// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pictures of connections: congestion window and slow-start threshold above, round-trip time below, on one time axis.

use crate::commands::tcpprobe::series::{Event, INFINITE_SSTHRESH, MAX_MARKS, Point, Trace};
use anyhow::{Result, anyhow};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::legend::{Area, CWND, Drawn, LOSS, REDUCED, SRTT, SSTHRESH, TEXT, TIMEOUT, draw_legend};

/// Default number of connections in a plot.
pub const USUAL_PLOTS: usize = 8;

const WIDTH: u32 = 1000;
const TOP: u32 = 14;
const BLOCK: u32 = 580;

/// Between two connections.
const GAP: u32 = 24;
const FOOT: u32 = 30;

/// Heights in a block: title, note, legend; then the two panels.
const HEADS: [u32; 3] = [30, 24, 28];
const UPPER: u32 = 250;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The time that all panels of a picture share.
#[derive(Clone, Copy)]
struct Time {
    from: u64,
    seconds: f64,
}

impl Time {
    fn of(traces: &[&Trace]) -> Self {
        let ends = |t: &&Trace| {
            let mut points = t.cwnd.points();
            let first = points.next()?.0;
            Some((first, points.last().map_or(first, |p| p.0)))
        };
        let from = traces.iter().filter_map(ends).map(|e| e.0).min();
        let to = traces.iter().filter_map(ends).map(|e| e.1).max();
        let from = from.unwrap_or(0);
        let seconds = (to.unwrap_or(0).saturating_sub(from)) as f64 / 1e9;
        Self {
            from,
            seconds: if seconds > 0.0 { seconds } else { 1.0 },
        }
    }

    fn at(&self, boot_ns: u64) -> f64 {
        (boot_ns.saturating_sub(self.from) as f64 / 1e9).min(self.seconds)
    }
}

/// Draws traces, one below the other, as SVG. `start` says when the time axis begins, given nanoseconds
/// since boot; `note` is the last line of the picture.
///
/// # Errors
/// When the plotting library fails.
pub fn svg(traces: &[&Trace], start: impl FnOnce(u64) -> String, note: &str) -> Result<String> {
    let time = Time::of(traces);
    let start = start(time.from);
    let height = TOP + BLOCK * traces.len().max(1) as u32 + FOOT;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw(&root, traces, time, &start, note).map_err(|e| anyhow!("cannot draw: {e}"))?;
    }
    Ok(text)
}

fn draw(root: &Area<'_>, traces: &[&Trace], time: Time, start: &str, note: &str) -> Drawn {
    root.fill(&WHITE)?;
    let (_, mut rest) = root.split_vertically(TOP);
    if traces.is_empty() {
        write(&rest, "No segment was received.", 18, 16)?;
    }
    for trace in traces {
        let (block, below) = rest.split_vertically(BLOCK);
        rest = below;
        draw_trace(&block, trace, time, start)?;
    }
    let (_, foot) = root.split_vertically(root.dim_in_pixel().1 - FOOT);
    write(&foot, note, 13, 6)?;
    root.present()?;
    Ok(())
}

fn write(area: &Area<'_>, text: &str, size: u32, y: i32) -> Drawn {
    let style = ("sans-serif", size).into_font().color(&TEXT);
    area.draw(&Text::new(text.to_owned(), (20, y), style))?;
    Ok(())
}

fn draw_trace(area: &Area<'_>, trace: &Trace, time: Time, start: &str) -> Drawn {
    let (title, area) = area.split_vertically(HEADS[0]);
    write(&title, &trace.title, 20, 4)?;
    let (note, area) = area.split_vertically(HEADS[1]);
    write(&note, &summary(trace), 14, 4)?;
    let (legend, area) = area.split_vertically(HEADS[2]);
    draw_legend(&legend, trace)?;
    let (area, _) = area.split_vertically(area.dim_in_pixel().1 - GAP);
    let (upper, lower) = area.split_vertically(UPPER);
    draw_windows(&upper, trace, time)?;
    draw_srtt(&lower, trace, time, start)
}

/// What a reader wants to know before looking closer.
fn summary(trace: &Trace) -> String {
    let mut text = format!("{} samples", trace.samples);
    if let Some((low, high)) = trace.cwnd.range() {
        text += &format!(" · cwnd {low} to {high}");
    }
    if let Some((low, high)) = trace.srtt.range() {
        let (low, high) = (f64::from(low) / 1e3, f64::from(high) / 1e3);
        text += &format!(" · srtt {low:.3} to {high:.3} ms");
    }
    let plural = |n: u64| if n == 1 { "" } else { "s" };
    let segments = u64::from(trace.retransmitted());
    text += &format!(" · {segments} segment{} sent again", plural(segments));
    text += &format!(" · {} fast recover", trace.recoveries);
    text += if trace.recoveries == 1 { "y" } else { "ies" };
    text += &format!(" · {} RTO{}", trace.rtos, plural(trace.rtos));
    if trace.marks.len() >= MAX_MARKS {
        text += &format!(" (first {MAX_MARKS} events marked)");
    }
    text
}

fn builder<'a, 'b, 'c>(area: &'a Area<'b>, bottom: u32) -> ChartBuilder<'a, 'c, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder.margin_right(30).margin_top(8).margin_left(14);
    builder.y_label_area_size(70).x_label_area_size(bottom);
    builder
}

fn mesh(chart: &mut Chart<'_, '_>, y_name: &str, x_name: Option<&str>) -> Drawn {
    let font = ("sans-serif", 14).into_font().color(&TEXT);
    let mut mesh = chart.configure_mesh();
    mesh.label_style(font.clone()).axis_desc_style(font);
    mesh.bold_line_style(RGBColor(225, 225, 225));
    mesh.light_line_style(RGBColor(245, 245, 245));
    mesh.x_labels(11).y_labels(6).y_desc(y_name);
    mesh.y_label_formatter(&|v| number(*v))
        .x_label_formatter(&|v| number(*v));
    match x_name {
        Some(name) => mesh.x_desc(name),
        None => mesh.x_labels(11),
    };
    mesh.draw()?;
    Ok(())
}

/// Without trailing zeros.
fn number(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn draw_windows(area: &Area<'_>, trace: &Trace, time: Time) -> Drawn {
    let finite = |p: &Point| p.1 < INFINITE_SSTHRESH;
    let highest = trace
        .cwnd
        .points()
        .chain(trace.ssthresh.points().filter(finite));
    let top = f64::from(highest.map(|p| p.1).max().unwrap_or(0).max(1)) * 1.1;
    let mut chart = builder(area, 0).build_cartesian_2d(0.0..time.seconds, 0.0..top)?;
    mesh(&mut chart, "window (segments)", None)?;
    let line = |run: &[Point]| {
        steps(run)
            .into_iter()
            .map(|(t, v)| (time.at(t), f64::from(v)))
    };
    for run in runs(trace.ssthresh.points(), finite) {
        chart.draw_series(DashedLineSeries::new(
            line(&run),
            6,
            4,
            SSTHRESH.stroke_width(2),
        ))?;
    }
    let cwnd: Vec<_> = trace.cwnd.points().collect();
    chart.draw_series(LineSeries::new(line(&cwnd), CWND.stroke_width(2)))?;
    for mark in &trace.marks {
        let (x, y) = (time.at(mark.boot_ns), f64::from(mark.cwnd).min(top));
        match mark.event {
            Event::Retransmit => {
                let tick = PathElement::new([(x, 0.0), (x, top * 0.03)], TIMEOUT.stroke_width(1));
                chart.draw_series([tick])?;
            }
            Event::Recovery => {
                chart.draw_series([TriangleMarker::new((x, y), 6, LOSS.filled())])?;
            }
            Event::Rto => {
                chart.draw_series([upright(x, top)])?;
                chart.draw_series([Cross::new((x, y), 5, TIMEOUT.stroke_width(2))])?;
            }
            Event::Reduced => {
                chart.draw_series([Circle::new((x, y), 4, REDUCED.filled())])?;
            }
        }
    }
    Ok(())
}

/// Across both panels, to relate their values at a timeout.
fn upright(x: f64, top: f64) -> PathElement<(f64, f64)> {
    PathElement::new([(x, 0.0), (x, top)], TIMEOUT.mix(0.3).stroke_width(1))
}

fn draw_srtt(area: &Area<'_>, trace: &Trace, time: Time, start: &str) -> Drawn {
    let top = trace.srtt.range().map_or(1, |r| r.1).max(1);
    let (unit, name) = if top < 1000 {
        (1.0, "srtt (µs)")
    } else {
        (1e3, "srtt (ms)")
    };
    let top = f64::from(top) / unit * 1.1;
    let mut chart = builder(area, 50).build_cartesian_2d(0.0..time.seconds, 0.0..top)?;
    let axis = format!("seconds since {start}");
    mesh(&mut chart, name, Some(&axis))?;
    let timeouts = trace.marks.iter().filter(|m| m.event == Event::Rto);
    chart.draw_series(timeouts.map(|m| upright(time.at(m.boot_ns), top)))?;
    let srtt: Vec<_> = trace.srtt.points().collect();
    let srtt = steps(&srtt).into_iter();
    let srtt = srtt.map(|(t, v)| (time.at(t), f64::from(v) / unit));
    chart.draw_series(LineSeries::new(srtt, SRTT.stroke_width(2)))?;
    Ok(())
}

/// The stretches in which every point is `wanted`.
fn runs(points: impl Iterator<Item = Point>, wanted: impl Fn(&Point) -> bool) -> Vec<Vec<Point>> {
    let mut runs = vec![vec![]];
    for point in points {
        if wanted(&point) {
            runs.last_mut().into_iter().for_each(|run| run.push(point));
        } else if runs.last().is_some_and(|run| !run.is_empty()) {
            runs.push(vec![]);
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// A value holds until another one is seen: corners instead of slopes, and no point that changes nothing.
fn steps(run: &[Point]) -> Vec<Point> {
    let mut corners: Vec<Point> = Vec::new();
    for &(t, value) in run {
        match corners.last().copied() {
            Some((_, before)) if before == value => continue,
            Some((_, before)) => corners.extend([(t, before), (t, value)]),
            None => corners.push((t, value)),
        }
    }
    corners.extend(run.last());
    corners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::tcpprobe::series::{Moment, Traces};

    fn trace() -> Trace {
        let mut traces = Traces::default();
        let trace = traces.get(1).unwrap();
        trace.title = "10.0.0.1:80 → 10.0.0.2:4000 <a&b>".into();
        for i in 0..100u32 {
            trace.sample(Moment {
                boot_ns: 1_000_000_000 + u64::from(i) * 10_000_000,
                cwnd: 10 + i,
                ssthresh: if i < 50 { INFINITE_SSTHRESH } else { 40 },
                srtt_us: 900 + i * 10,
                ca_state: if i == 60 { 3 } else { 0 },
                ..Moment::default()
            });
        }
        trace.clone()
    }

    #[test]
    fn plot_has_titles_axes_and_legend() {
        let trace = trace();
        let text = svg(&[&trace, &trace], |ns| format!("T{ns}"), "foot").unwrap();
        for name in [
            "window (segments)",
            "srtt (ms)",
            "loss: fast recovery",
            "&lt;a&amp;b&gt;",
        ] {
            assert_eq!(text.matches(name).count(), 2, "{name}");
        }
        assert!(text.contains("seconds since T1000000000") && text.contains("foot"));
        assert!(!text.contains("RTO: timer fired") && !text.contains("NaN"));
        assert!(text.contains("1 fast recovery"));
    }

    #[test]
    fn empty_and_single_point_plots() {
        assert!(
            svg(&[], |_| String::new(), "")
                .unwrap()
                .contains("No segment")
        );
        let mut single = Trace::default();
        single.sample(Moment::default());
        assert!(svg(&[&single], |_| String::new(), "").is_ok());
    }

    #[test]
    fn finite_threshold_is_drawn_in_steps() {
        let points = [
            (1, INFINITE_SSTHRESH),
            (2, 8),
            (3, 8),
            (4, 4),
            (5, INFINITE_SSTHRESH),
        ];
        let runs = runs(points.into_iter(), |p| p.1 < INFINITE_SSTHRESH);
        assert_eq!(runs, [[(2, 8), (3, 8), (4, 4)]]);
        assert_eq!(steps(&runs[0]), [(2, 8), (4, 8), (4, 4), (4, 4)]);
    }
}
