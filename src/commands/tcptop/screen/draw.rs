// SPDX-License-Identifier: MIT OR Apache-2.0
//! A picture of the state, for any size.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line as Text, Span};
use unicode_width::UnicodeWidthStr;

use super::detail;
use super::paint::{Look, lines, put, split};
use super::state::{Line, State};
use super::text::{self, Table, shown};
use crate::output::escape;
use crate::output::units::per_second;

/// The lines of a screen from top to bottom, as many as there are.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, look: Look) {
    let area = frame.area();
    let (head, rest) = split(area, 1);
    put(frame, head, &totals(state), look.strong());
    let (body, foot) = match rest.height {
        0 | 1 => (rest, Rect::ZERO),
        height => split(rest, height - 1),
    };
    // A line for what is chosen, where there are some for rows.
    let (chosen_at, body) = match body.height {
        ..4 => (Rect::ZERO, body),
        _ => split(body, 1),
    };
    put(frame, chosen_at, &chosen(state), Style::new());
    if state.help {
        lines(frame, body, &HELP.map(Text::from));
    } else if let Some(opened) = &state.opened {
        detail::draw(frame, body, opened, look);
    } else {
        table(frame, body, state, look);
    }
    put(frame, foot, &footer(state), Style::new());
}

fn totals(state: &State) -> String {
    let sums = &state.interval.sums;
    let us = state.interval.interval_us;
    let rate = |bytes: u64| shown(&per_second(bytes, us));
    let stuck = match sums.stuck {
        0 => String::new(),
        stuck => format!(", {stuck} stuck"),
    };
    let paused = if state.paused { " PAUSED" } else { "" };
    format!(
        "tcptop {}{paused}  {} connections{stuck}  TX {} RX {} Mbit/s  RETR {}",
        state.interval.time,
        sums.connections,
        rate(sums.tx),
        rate(sums.rx),
        sums.retrans
    )
}

fn chosen(state: &State) -> String {
    let choice = &state.choice;
    let mut parts = vec![format!("every {}", state.every)];
    parts.push(format!("sort {}", choice.sort.name()));
    if choice.stalled_us.is_some() {
        parts.push("only what does not move".into());
    }
    if let Some(by) = &choice.by {
        parts.push(format!("by {}", by.name()));
    }
    if let Some((by, group)) = &state.within {
        parts.push(format!("{} {}", by.name(), text::group_name(by, group)));
    }
    if !state.filter.is_empty() {
        parts.push(format!("filter {}", escape::text(&state.filter)));
    }
    if choice.all {
        parts.push("all".into());
    }
    parts.join(", ")
}

fn footer(state: &State) -> String {
    if let Some(typed) = &state.typing {
        return format!(
            "filter: {}_   Enter applies, Esc leaves it",
            escape::text(typed)
        );
    }
    if let Some(note) = &state.note {
        return escape::text(note).into_owned();
    }
    if state.help || state.opened.is_some() {
        return "Esc back  p pause  q quit".into();
    }
    "h help  s sort  g group  / filter  w why  a all  p pause  Enter open  q quit".into()
}

const HELP: [&str; 15] = [
    "s S, right left   sort by the next key, the one before",
    "g                 add up by the next key (pid, comm, ...; see --by), or not",
    "w                 only connections that do not move, and why; or all that do",
    "/                 only rows with this in process, addresses, ports or reason",
    "a                 rows too whose sorted value is 0",
    "p, blank          pause, go on",
    "up down, j k      select a row (also page up and down, home, end)",
    "Enter             open the selected connection; the connections of a group",
    "Esc               back: from a connection, a group, a filter, the groups",
    "Ctrl-Z            stop, until the shell's fg",
    "q, Ctrl-C         quit",
    "",
    "TX_MBIT, RX_MBIT  Mbit/s sent (and acknowledged), received, in the interval",
    "RTT, FOR_MS       milliseconds        RCVQ, SNDQ  KiB unread, unacknowledged",
    "WHY               tcptop(8) explains each reason",
];

fn table(frame: &mut Frame<'_>, area: Rect, state: &State, look: Look) {
    let (titles, body) = split(area, 1);
    let room = usize::from(area.width);
    let visible = usize::from(body.height);
    // The selected row is always visible.
    let from = (state.selected + 1).saturating_sub(visible);
    let shown = state.lines.iter().skip(from).take(visible);
    let made = match &state.choice.by {
        Some(by) => {
            let groups = shown.filter_map(|line| match line {
                Line::Group(group) => Some(*group),
                Line::Connection(_) => None,
            });
            text::groups(&groups.collect::<Vec<_>>(), by, room)
        }
        None => {
            let connections = shown.filter_map(|line| match line {
                Line::Connection(one) => Some(*one),
                Line::Group(_) => None,
            });
            let stalled = state.choice.stalled_us.is_some();
            text::connections(&connections.collect::<Vec<_>>(), stalled, room)
        }
    };
    let head = line(&made, &made.titles, None);
    let head = Text::styled(format!("{:room$}", head.to_string()), look.title());
    lines(frame, titles, &[head]);
    let rows: Vec<_> = made
        .rows
        .iter()
        .map(|row| line(&made, row, Some(look)))
        .collect();
    lines(frame, body, &rows);
    if let Some(at) = state
        .selected
        .checked_sub(from)
        .filter(|_| !rows.is_empty())
    {
        let (_, rest) = split(body, at as u16);
        let (row, _) = split(rest, 1);
        frame.buffer_mut().set_style(row, look.selected());
    }
    if rows.is_empty() && state.interval.interval_us != 0 {
        put(
            frame,
            body,
            "nothing to show; a shows all connections",
            Style::new(),
        );
    }
}

/// A row of a table; `look`: it is none of titles.
fn line<'t>(table: &Table, cells: &'t [String], look: Option<Look>) -> Text<'t> {
    let mut spans = Vec::with_capacity(cells.len() * 2);
    for (at, cell) in cells.iter().enumerate() {
        let pad = table.widths[at].saturating_sub(cell.width());
        let blank = " ".repeat(pad);
        let style = match look {
            Some(look) if table.why == Some(at) => look.wrong(),
            _ => Style::new(),
        };
        if at > 0 {
            spans.push(Span::raw(" "));
        }
        let cell = Span::styled(cell.as_str(), style);
        match table.right[at] {
            true => spans.extend([Span::raw(blank), cell]),
            false => spans.extend([cell, Span::raw(blank)]),
        }
    }
    Text::from(spans)
}
