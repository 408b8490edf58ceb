// SPDX-License-Identifier: MIT OR Apache-2.0
//! From rows to tracks: a connection's states with what happens in them, its stalls below, and counters.

use std::collections::HashSet;
use std::io::{self, Write};

use super::trace::{Trace, Track};
use crate::commands::tcptools::feed::{Connection, Connections, MOST, Row};
use crate::commands::tcptools::follow::{title, words};
use crate::output::escape;

/// The group of connections without an owner: no process has this id (`PID_MAX_LIMIT` of include/linux/threads.h).
const NOBODY: u64 = (1 << 22) + 1;

/// Tracks are threads to the viewer: above all thread ids there are, two for each connection.
const TRACKS: u64 = 10_000_000;

/// Rows that say for how long something lasts differ by a little in when it began.
const SAME_NS: u64 = 1_000_000_000;

/// What a counter shows, and the key of a row that has it.
const COUNTERS: [(&str, &str); 4] = [
    ("cwnd (segments)", "snd_cwnd"),
    ("srtt (us)", "srtt_us"),
    ("in flight (bytes)", "in_flight_bytes"),
    ("window (bytes)", "snd_wnd_bytes"),
];

struct Stall {
    why: String,
    begin: u64,
    end: u64,
}

/// What was written of a connection.
#[derive(Default)]
struct About {
    pid: u64,
    is_begun: bool,
    in_state: bool,
    /// It was closed: what comes after that says how it was before.
    is_over: bool,
    /// A track's times must not go back.
    states_ns: u64,
    counters_ns: u64,
    stalls_ns: u64,
    stall: Option<Stall>,
    has_stalls: bool,
}

/// Writes the tracks of all connections.
pub struct Tracks<W: Write> {
    trace: Trace<W>,
    connections: Connections<About>,
    named: HashSet<u64>,
    last_ns: u64,
}

impl<W: Write> Tracks<W> {
    pub fn new(trace: Trace<W>) -> Self {
        Self {
            trace,
            connections: Connections::new(MOST),
            named: HashSet::new(),
            last_ns: 0,
        }
    }

    /// Whether something was written of the row's connection.
    pub fn knows(&self, row: &Row) -> bool {
        self.connections.find(row).is_some()
    }

    /// # Errors
    /// As write(2); so below.
    pub fn put(&mut self, row: &Row) -> io::Result<()> {
        // Sums, and what is about a listener's queue.
        if words::of(row).is_none() {
            return Ok(());
        }
        let Some(found) = self.connections.of(row) else {
            return Ok(());
        };
        self.last_ns = self.last_ns.max(row.boot_ns());
        let (trace, named) = (&mut self.trace, &mut self.named);
        if let Some(mut gone) = found.forgotten {
            close(trace, &mut gone, 0)?;
        }
        let one = found.one;
        if !one.about.is_begun {
            name(trace, named, one, row)?;
        }
        state(trace, one, row)?;
        happened(trace, one, row)?;
        stalled(trace, one, row)?;
        counters(trace, one, row)
    }

    /// How many connections and events there were.
    pub fn end(mut self) -> io::Result<(u64, u64)> {
        for mut one in self.connections.drain() {
            close(&mut self.trace, &mut one, self.last_ns)?;
        }
        let counts = (self.connections.count, self.trace.events);
        self.trace.end().map(|()| counts)
    }
}

fn states(one: &Connection<About>) -> Track {
    Track {
        pid: one.about.pid,
        tid: TRACKS + 2 * one.number,
    }
}

fn stalls(one: &Connection<About>) -> Track {
    Track {
        pid: one.about.pid,
        tid: TRACKS + 2 * one.number + 1,
    }
}

/// Its process, by what its first row knows.
fn name(
    trace: &mut Trace<impl Write>,
    named: &mut HashSet<u64>,
    one: &mut Connection<About>,
    row: &Row,
) -> io::Result<()> {
    one.about.is_begun = true;
    one.about.pid = row.number("pid").unwrap_or(NOBODY);
    let track = states(one);
    if named.insert(track.pid) {
        let comm = row.text("comm").map(escape::text);
        let process = comm.as_deref().unwrap_or("no process known");
        trace.name("process_name", track, process)?;
    }
    Ok(())
}

/// A slice from one change to the next.
fn state(trace: &mut Trace<impl Write>, one: &mut Connection<About>, row: &Row) -> io::Result<()> {
    let track = states(one);
    let about = &mut one.about;
    let now = row.boot_ns().max(about.states_ns);
    let change = (row.tool() == "tcpstates").then(|| row.text("new_state"));
    let new = change.flatten();
    if !about.in_state && !about.is_over {
        // What came before the first row, as far as the row tells.
        let old = row.text("old_state").or(row.text("state"));
        let old = old.filter(|state| *state != "CLOSE");
        let old = old.or((row.tool() == "tcpprobe").then_some("ESTABLISHED"));
        if let Some(old) = old {
            let us = row.number("in_state_us").filter(|_| new.is_some());
            let begin = row.boot_ns().saturating_sub(us.unwrap_or_default() * 1000);
            trace.begin_slice(track, begin.max(about.states_ns), old)?;
            about.in_state = true;
        }
    }
    about.states_ns = now;
    let Some(new) = new else {
        return Ok(());
    };
    if about.in_state {
        trace.end_slice(track, now)?;
    }
    about.in_state = new != "CLOSE";
    about.is_over = !about.in_state;
    if about.in_state {
        trace.begin_slice(track, now, new)?;
    }
    Ok(())
}

/// Losses, resets, and other things of a moment.
fn happened(
    trace: &mut Trace<impl Write>,
    one: &mut Connection<About>,
    row: &Row,
) -> io::Result<()> {
    let is_moment = match row.tool() {
        "tcpretrans" | "tcpreset" | "tcpdrop" | "tcpaccept" | "tcpconnect" | "sockbuf" => true,
        "tcpcong" => matches!(row.text("new_ca_state"), Some("recovery" | "loss" | "cwr")),
        "tcplife" | "tcpinfo" => true,
        _ => false,
    };
    let Some((word, what)) = words::of(row).filter(|_| is_moment) else {
        return Ok(());
    };
    let kind = match row.tool() {
        "tcpretrans" => row.text("kind"),
        "tcpreset" | "tcpdrop" => row.text("direction"),
        "tcpcong" => row.text("new_ca_state"),
        "tcpconnect" => row.text("outcome"),
        _ => None,
    };
    let name = kind.map_or(word.to_owned(), |kind| format!("{word} {kind}"));
    let now = row.boot_ns().max(one.about.states_ns);
    trace.instant(states(one), now, &name, &what)
}

/// A stall is written once it is over: its rows say when it began.
fn stalled(
    trace: &mut Trace<impl Write>,
    one: &mut Connection<About>,
    row: &Row,
) -> io::Result<()> {
    let why = (row.tool() == "tcptop").then(|| row.text("why")).flatten();
    let Some((why, us)) = why.zip(row.number("why_us")) else {
        return Ok(());
    };
    let begin = row.boot_ns().saturating_sub(us * 1000);
    let same = |stall: &&mut Stall| stall.why == why && begin.abs_diff(stall.begin) < SAME_NS;
    if let Some(stall) = one.about.stall.as_mut().filter(same) {
        stall.end = row.boot_ns();
        return Ok(());
    }
    end_stall(trace, one)?;
    one.about.stall = Some(Stall {
        why: why.to_owned(),
        begin,
        end: row.boot_ns(),
    });
    Ok(())
}

fn end_stall(trace: &mut Trace<impl Write>, one: &mut Connection<About>) -> io::Result<()> {
    let Some(stall) = one.about.stall.take() else {
        return Ok(());
    };
    let track = stalls(one);
    if !one.about.has_stalls {
        one.about.has_stalls = true;
        trace.name("thread_name", track, &format!("#{} stalls", one.number))?;
    }
    let begin = stall.begin.max(one.about.stalls_ns);
    let end = stall.end.max(begin);
    one.about.stalls_ns = end;
    trace.begin_slice(track, begin, &stall.why)?;
    trace.end_slice(track, end)
}

fn counters(
    trace: &mut Trace<impl Write>,
    one: &mut Connection<About>,
    row: &Row,
) -> io::Result<()> {
    if !["tcpprobe", "tcptop"].contains(&row.tool()) {
        return Ok(());
    }
    let now = row.boot_ns().max(one.about.counters_ns);
    one.about.counters_ns = now;
    for (what, key) in COUNTERS {
        if let Some(value) = row.number(key) {
            let name = format!("#{} {what}", one.number);
            trace.counter(one.about.pid, now, &name, value)?;
        }
    }
    Ok(())
}

/// Whatever is open ends with the connection's last row, or with the recording; its track gets its name.
fn close(trace: &mut Trace<impl Write>, one: &mut Connection<About>, now: u64) -> io::Result<()> {
    end_stall(trace, one)?;
    // Its first row may not have had the local port yet.
    let name = format!("#{} {}", one.number, title(one.ends, ""));
    trace.name("thread_name", states(one), &name)?;
    match one.about.in_state {
        true => trace.end_slice(states(one), now.max(one.about.states_ns)),
        false => Ok(()),
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod format_tests;
