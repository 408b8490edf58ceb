// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--from`: the rows of a recording, sorted, filtered and added up as if they were seen now.

use std::path::Path;

use anyhow::Result;
use chrono::DateTime;

use crate::abi::known::PROGRAMS;
use crate::abi::names::{CA_STATES, TCP_STATES};
use crate::abi::types::{Record, head};
use crate::cli::filter::Filter;
use crate::commands::tcptools::feed::{self, Matching, Recording};
use crate::error::Usage;
use crate::output::{Format, Row, Style, print};

use super::batch::Kinds;
use super::bpf::types::conn;
use super::choice::Choice;
use super::columns::TIMERS;
use super::flag;
use super::sort::{First, Ranked};
use super::traffic::Connection;
use super::why::Why;

/// Prints each interval of the file.
pub(super) fn run(
    path: &Path,
    filter: &Filter,
    style: &Style,
    choice: Choice,
    kinds: Kinds,
) -> Result<()> {
    if filter.unit.is_some() || filter.container.is_some() {
        let reason = "--from: rows of a recording are not filtered by --unit or --container";
        return Err(Usage(reason.into()).into());
    }
    if style.host.is_some() {
        let reason = "--host: rows of a recording keep what they say of their host";
        return Err(Usage(reason.into()).into());
    }
    let recording = Recording::open(path)?;
    let matching = Matching::of(filter)?;
    replay(recording, &matching, style, (choice, kinds), |text| {
        print::records(text)
    })
}

/// Hands over the text of each interval.
pub(super) fn replay(
    mut recording: Recording,
    matching: &Matching,
    style: &Style,
    (choice, kinds): (Choice, Kinds),
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut replay = Replay {
        again: style.format == Format::Table && style.header,
        whole: style.format == Format::Json && style.columns.is_none(),
        choice,
        kinds,
        lines: Vec::new(),
        boot_ns: 0,
        interval_us: 0,
    };
    let mut out = Vec::new();
    if !replay.again {
        replay.header(&mut out);
    }
    while let Some(row) = recording.next()? {
        if !row.is("tcptop", replay.choice.event()) {
            continue;
        }
        // The rows of an interval have one time, its end.
        if replay.boot_ns != row.boot_ns() {
            replay.print(&mut out);
            write(&out)?;
            out.clear();
            replay.begin(&row);
        }
        if matching.passes(&row) {
            replay.add(&row);
        }
    }
    replay.print(&mut out);
    write(&out)
}

struct Replay {
    choice: Choice,
    kinds: Kinds,
    /// A table has its header at every interval.
    again: bool,
    /// Rows are printed as they were kept.
    whole: bool,
    lines: Vec<String>,
    boot_ns: u64,
    interval_us: u64,
}

impl Replay {
    fn header(&mut self, out: &mut Vec<u8>) {
        match &mut self.kinds {
            Kinds::Connections(rows, _) => rows.header(out),
            Kinds::Groups(rows, _) => rows.header(out),
        }
    }

    /// An interval, by its first row.
    fn begin(&mut self, row: &feed::Row) {
        self.lines.clear();
        self.boot_ns = row.boot_ns();
        self.interval_us = row.number("interval_us").unwrap_or_default();
        let time = row
            .text("ts")
            .and_then(|ts| DateTime::parse_from_rfc3339(ts).ok());
        let Some(unix_ns) = time.and_then(|time| time.timestamp_nanos_opt()) else {
            return;
        };
        match &mut self.kinds {
            Kinds::Connections(rows, _) => rows.fix_clock(self.boot_ns, unix_ns),
            Kinds::Groups(rows, _) => rows.fix_clock(self.boot_ns, unix_ns),
        }
    }

    fn add(&mut self, row: &feed::Row) {
        let mut one = connection(row);
        // Which line it is.
        one.conn.sock = self.lines.len() as u64;
        if self.whole && self.choice.by.is_none() {
            self.lines.push(row.line().to_owned());
        }
        self.kinds.add(one, &self.choice);
    }

    /// The interval that is over.
    fn print(&mut self, out: &mut Vec<u8>) {
        let choice = &self.choice;
        match &mut self.kinds {
            Kinds::Connections(rows, first) => {
                let (mut first, _) = first.take();
                if self.again && !first.is_empty() {
                    rows.header(out);
                }
                rows.sort(&mut first, |one| one.into());
                for one in first.iter().take(choice.top) {
                    match self.lines.get(one.conn.sock as usize) {
                        Some(line) => out.extend([line.as_bytes(), b"\n"].concat()),
                        None => rows.row(out, choice.event(), &one.into()),
                    }
                }
            }
            Kinds::Groups(rows, groups) => {
                let boot_ns = self.boot_ns;
                rows.end_period(boot_ns.saturating_sub(self.interval_us * 1000));
                rows.end_period(boot_ns);
                let mut first = First::new(choice.sort, choice.kept());
                let all = groups.take(self.interval_us);
                all.filter(|one| choice.all || one.value(choice.sort) != (0, 0))
                    .for_each(|one| first.add(one));
                let (first, _) = first.take();
                if self.again && !first.is_empty() {
                    rows.header(out);
                }
                let with_head = |one: super::groups::Talker| (one.group.head(boot_ns), one);
                let mut first: Vec<_> = first.into_iter().map(with_head).collect();
                rows.sort(&mut first, |(head, body)| Row { head, body });
                for (head, body) in first.iter().take(choice.top) {
                    rows.row(out, "total", &Row { head, body });
                }
            }
        }
    }
}

/// What the columns are made of, from what they said.
fn connection(row: &feed::Row) -> Connection {
    let long = |key| row.number(key).unwrap_or_default();
    let number = |key| u32::try_from(long(key)).unwrap_or(u32::MAX);
    let byte = |key| u8::try_from(long(key)).unwrap_or(u8::MAX);
    let is = |key, bit: u8| if row.flag(key) == Some(true) { bit } else { 0 };
    let place = |names: &[&str], key| {
        let text = row.text(key);
        names
            .iter()
            .position(|name| Some(*name) == text)
            .unwrap_or_default() as u8
    };
    let conn = conn {
        start_ns: row.boot_ns().saturating_sub(long("age_us") * 1000),
        bytes_sent: long("bytes_sent"),
        bytes_retrans: long("bytes_retrans"),
        bytes_acked: long("bytes_acked"),
        bytes_received: long("bytes_received"),
        busy_us: long("busy_time_us"),
        rwnd_limited_us: long("rwnd_limited_us"),
        sndbuf_limited_us: long("sndbuf_limited_us"),
        timer_us: long("timer_us"),
        total_retrans: number("total_retrans"),
        rqueue: number("rqueue_bytes"),
        wqueue: number("wqueue_bytes"),
        notsent: number("notsent_bytes"),
        unacked: number("packets_out"),
        lost_out: number("lost_out"),
        retrans_out: number("retrans_out"),
        snd_wnd: number("snd_wnd_bytes"),
        rcv_wnd: number("rcv_wnd_bytes"),
        snd_cwnd: number("snd_cwnd"),
        snd_mss: number("mss"),
        rtt_us: number("srtt_us"),
        rttvar_us: number("rttvar_us"),
        min_rtt_us: row.number("min_rtt_us").map_or(u32::MAX, |us| us as u32),
        rto_us: number("rto_us"),
        data_segs_out: row.number("last_data_sent_us").is_some().into(),
        data_segs_in: row.number("last_data_recv_us").is_some().into(),
        last_data_sent_ms: number("last_data_sent_us") / 1000,
        last_data_recv_ms: number("last_data_recv_us") / 1000,
        last_ack_recv_ms: number("last_ack_recv_us") / 1000,
        rmem_alloc: number("rmem_alloc_bytes"),
        rcvbuf: number("rcvbuf_bytes"),
        wmem_queued: number("wmem_queued_bytes"),
        sndbuf: number("sndbuf_bytes"),
        drops: number("drops"),
        ca_name: name(row.text("ca_name")),
        state: place(&TCP_STATES, "state"),
        ca_state: place(&CA_STATES, "ca_state"),
        retransmits: byte("retransmits"),
        probes: byte("probes"),
        backoff: byte("backoff"),
        timer: place(&TIMERS, "timer"),
        flags: is("active_open", flag::ACTIVE_OPEN)
            | is("partial", flag::OPENED_BEFORE)
            | is("orphan", flag::ORPHAN)
            | is("keepalive", flag::KEEPALIVE)
            | is("nodelay", flag::NODELAY),
        ..conn::default()
    };
    let mut one = Connection {
        conn: conn.with_head(&head_of(row)),
        tx: long("tx_bytes"),
        rx: long("rx_bytes"),
        interval_us: long("interval_us"),
        retrans: number("retrans_segs"),
        ..Connection::default()
    };
    if row.flag("closed") == Some(true) {
        one.set_closed();
    }
    one.set_why(Why {
        us: long("why_us"),
        at_least: row.flag("why_at_least") == Some(true),
        ..Why::parse(row.text("why").unwrap_or_default())
    });
    one
}

fn head_of(row: &feed::Row) -> head {
    head {
        boot_ns: row.boot_ns(),
        cookie: row.number("cookie").unwrap_or_default(),
        flow: feed::flow_of(row),
        netns: row.number("netns").unwrap_or_default() as u32,
        owner: feed::owner_of(row),
        uid: row.number("uid").map_or(u32::MAX, |uid| uid as u32),
        known: PROGRAMS.1,
        ..head::default()
    }
}

fn name(text: Option<&str>) -> [u8; 16] {
    let mut name = [0; 16];
    let bytes = text.unwrap_or_default().bytes();
    name.iter_mut()
        .zip(bytes.take(15))
        .for_each(|(to, byte)| *to = byte);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(stalled: bool, one: &Connection) -> serde_json::Map<String, serde_json::Value> {
        let style = Style {
            format: Format::Json,
            ..Style::default()
        };
        let mut rows =
            crate::output::Rows::new("tcptop", style, super::super::columns(stalled)).unwrap();
        rows.fix_clock(0, 0);
        let mut out = Vec::new();
        rows.row(&mut out, "stalled", &one.into());
        serde_json::from_slice(&out).unwrap()
    }

    /// What is read of a row, and printed, is the row.
    #[test]
    fn rows_come_back() {
        let mut one = Connection {
            tx: 10,
            rx: 20,
            interval_us: 1_000_000,
            retrans: 2,
            ..Connection::default()
        };
        one.set_closed();
        one.set_why(Why {
            us: 77,
            at_least: true,
            ..Why::parse("no_ack unread orphan")
        });
        one.conn = conn {
            start_ns: 5_000_000,
            bytes_acked: 3,
            wqueue: 4,
            rtt_us: 100,
            rttvar_us: 7,
            min_rtt_us: 90,
            data_segs_in: 1,
            last_data_recv_ms: 6,
            state: 8,
            ca_state: 4,
            timer: 1,
            timer_us: 12,
            flags: flag::NODELAY | flag::OPENED_BEFORE,
            ca_name: name(Some("cubic")),
            ..conn::default()
        };
        let mut head = head {
            boot_ns: 9_000_000,
            cookie: 3,
            netns: 4,
            uid: 1,
            known: PROGRAMS.1,
            ..head::default()
        };
        head.flow.family = 4;
        head.flow.laddr[10..].copy_from_slice(&[255, 255, 10, 0, 0, 1]);
        head.flow.raddr[10..].copy_from_slice(&[255, 255, 10, 0, 0, 2]);
        one.conn = one.conn.with_head(&head);
        let text = serde_json::Value::Object(columns(true, &one)).to_string();
        let row = feed::Row::parse(text, 0).unwrap();
        assert_eq!(columns(true, &connection(&row)), columns(true, &one));
    }
}
