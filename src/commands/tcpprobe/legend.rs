// SPDX-License-Identifier: MIT OR Apache-2.0
//! The legend of a picture: which lines and marks are in it.

use crate::commands::tcpprobe::series::{Event, INFINITE_SSTHRESH, Trace};
use plotters::coord::Shift;
use plotters::prelude::*;

pub(super) const TEXT: RGBColor = RGBColor(40, 40, 40);
pub(super) const CWND: RGBColor = RGBColor(0, 90, 181);
pub(super) const SSTHRESH: RGBColor = RGBColor(120, 120, 120);
pub(super) const SRTT: RGBColor = RGBColor(0, 120, 90);
pub(super) const LOSS: RGBColor = RGBColor(230, 120, 0);
pub(super) const TIMEOUT: RGBColor = RGBColor(200, 0, 30);
pub(super) const REDUCED: RGBColor = RGBColor(140, 60, 170);

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(super) type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A line or mark, its name, and the room that its name needs.
fn legend_items(trace: &Trace) -> Vec<(Sign, &'static str, i32)> {
    let has = |event| trace.marks.iter().any(|m| m.event == event);
    let finite = trace.ssthresh.points().any(|p| p.1 < INFINITE_SSTHRESH);
    let items = [
        (true, Sign::Line(CWND), "cwnd", 50),
        (finite, Sign::Dashes(SSTHRESH), "ssthresh", 75),
        (true, Sign::Line(SRTT), "srtt", 45),
        (
            has(Event::Recovery),
            Sign::Of(Event::Recovery),
            "loss: fast recovery",
            132,
        ),
        (
            has(Event::Rto),
            Sign::Of(Event::Rto),
            "RTO: timer fired",
            118,
        ),
        (
            has(Event::Reduced),
            Sign::Of(Event::Reduced),
            "CWR: reduced",
            105,
        ),
        (
            has(Event::Retransmit),
            Sign::Of(Event::Retransmit),
            "segment sent again",
            150,
        ),
    ];
    let shown = items.into_iter().filter(|i| i.0);
    shown
        .map(|(_, sign, name, room)| (sign, name, room))
        .collect()
}

enum Sign {
    Line(RGBColor),
    Dashes(RGBColor),
    Of(Event),
}

pub(super) fn draw_legend(area: &Area<'_>, trace: &Trace) -> Drawn {
    let mut x = 84;
    let y = 12;
    for (sign, name, room) in legend_items(trace) {
        match sign {
            Sign::Line(color) => {
                area.draw(&PathElement::new(
                    [(x, y), (x + 22, y)],
                    color.stroke_width(2),
                ))?;
            }
            Sign::Dashes(color) => {
                for dash in [0, 8, 16] {
                    let ends = [(x + dash, y), (x + dash + 5, y)];
                    area.draw(&PathElement::new(ends, color.stroke_width(2)))?;
                }
            }
            Sign::Of(Event::Recovery) => {
                area.draw(&TriangleMarker::new((x + 12, y), 6, LOSS.filled()))?;
            }
            Sign::Of(Event::Rto) => {
                area.draw(&Cross::new((x + 12, y), 5, TIMEOUT.stroke_width(2)))?;
            }
            Sign::Of(Event::Reduced) => {
                area.draw(&Circle::new((x + 12, y), 4, REDUCED.filled()))?;
            }
            Sign::Of(Event::Retransmit) => {
                let ends = [(x + 12, y - 5), (x + 12, y + 5)];
                area.draw(&PathElement::new(ends, TIMEOUT.stroke_width(1)))?;
            }
        }
        let style = ("sans-serif", 14).into_font().color(&TEXT);
        area.draw(&Text::new(name, (x + 28, y - 7), style))?;
        x += 28 + room;
    }
    Ok(())
}
