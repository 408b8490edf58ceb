// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpaccept: a row per passive open: who listens, who came, and how full the accept queue is; or numbers per listener.
//!
//! Traces `sock:inet_sock_set_state`.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;
use listeners::Listeners;
use tcptools::cli::{self, Common, PinnedMaps, duration};
use tcptools::clock::boot_ns;
use tcptools::interval::Interval;
use tcptools::names::tcp_state;
use tcptools::output::schema::{self, Kind};
use tcptools::output::{
    Column, Format, Rows, Shown, Style, comm, family, laddr, lport, pid, raddr, rport,
};
use tcptools::session::{EachRow, Figures, Handler, Printer, Session};
use tcptools::table::Table;
use tcptools::types::{Record, head};
use tcptools::value::Value;

#[path = "tcpaccept/record.rs"]
mod record;

tcptools::skeleton!("tcpaccept");
use bpf::types::{accept, listener_stats};
tcptools::record!(accept, bpf::types::head);

// SAFETY: generated from C, a `repr(C)` struct of integers without padding: every bit pattern is a value.
unsafe impl plain::Plain for listener_stats {}

#[path = "tcpaccept/listeners.rs"]
mod listeners;

/// Show passive TCP opens (accept): the listener's process, the two ends, and the listener's accept queue.
///
/// A row comes when the handshake ends, before the process calls accept(). QLEN is the accept queue's length with this
/// connection in it, QMAX its limit. Flags and columns are those of bcc's tcpaccept.
#[derive(Parser)]
#[command(name = "tcpaccept")]
#[command(mut_arg("lport", |a| a.visible_short_alias('P').visible_alias("port")))]
#[command(mut_arg("port", |a| a.long("any-port")))]
struct Args {
    /// Numbers per listener instead of rows, at the end or at this interval: opens, rate, longest accept queue
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    summary: Option<Option<Duration>>,
    #[command(flatten)]
    pinned: PinnedMaps,
    #[command(flatten)]
    common: Common,
}

/// Listeners that --summary knows: opens of others are counted, and told.
const MAX_LISTENERS: u32 = 1 << 14;

/// What stands for a queue that could not be read.
const UNKNOWN: u32 = u32::MAX;

fn queue(length: u32) -> Value<'static> {
    match length {
        UNKNOWN => Value::Unknown,
        length => Value::Int(length.into()),
    }
}

const TEXT: Shown = Shown::TEXT;

fn columns() -> Vec<Column<accept>> {
    type C = Column<accept>;
    vec![
        C::new("pid", "PID", (7, 7), pid).shown(TEXT),
        C::new("comm", "COMM", (10, 16), comm).shown(TEXT),
        C::new("family", "IP", (2, 2), family).shown(TEXT),
        C::new("raddr", "RADDR", (15, 39), raddr).shown(TEXT),
        C::new("rport", "RPORT", (5, 5), rport).shown(TEXT),
        C::new("laddr", "LADDR", (15, 39), laddr).shown(TEXT),
        C::new("lport", "LPORT", (5, 5), lport).shown(TEXT),
        C::new("accept_queue", "QLEN", (5, 5), |r| {
            queue(r.body.accept_queue)
        })
        .right(),
        C::new("accept_queue_max", "QMAX", (5, 5), |r| {
            queue(r.body.accept_queue_max)
        })
        .right(),
        C::new("listener_cookie", "", (0, 0), |r| {
            match r.body.listener_cookie {
                0 => Value::Unknown,
                cookie => Value::Int(cookie),
            }
        })
        .shown(Shown::JSON),
        C::new("state", "STATE", (11, 11), |r| {
            Value::Text(tcp_state(r.body.state))
        })
        .shown(Shown::WIDE.or(Shown::JSON)),
    ]
}

/// What a listener did in an interval. The head is the listener's.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Listener {
    head: head,
    accepts: u64,
    interval_us: u64,
    /// Longest accept queue; `UNKNOWN` when it could not be read.
    high: u32,
    max: u32,
}

// SAFETY: `repr(C)` and integers only: every bit pattern is a value.
unsafe impl plain::Plain for Listener {}
// SAFETY: as above, and the head comes first.
unsafe impl Record for Listener {}

fn summary_columns() -> Vec<Column<Listener>> {
    type C = Column<Listener>;
    vec![
        C::new("pid", "PID", (7, 7), pid).shown(TEXT),
        C::new("comm", "COMM", (10, 16), comm).shown(TEXT),
        C::new("family", "IP", (2, 2), family).shown(TEXT),
        C::new("laddr", "LADDR", (15, 39), laddr).shown(TEXT),
        C::new("lport", "LPORT", (5, 5), lport).shown(TEXT),
        C::new("accepts", "ACCEPTS", (8, 8), |r| Value::Int(r.body.accepts)).right(),
        C::new("accepts_per_s", "PER_S", (6, 6), |r| {
            Value::Number(per_second(r.body.accepts, r.body.interval_us))
        })
        .right(),
        C::new("accept_queue_high", "QHIGH", (5, 5), |r| queue(r.body.high)).right(),
        C::new("accept_queue_max", "QMAX", (5, 5), |r| queue(r.body.max)).right(),
        C::new("interval_us", "", (0, 0), |r| {
            Value::Int(r.body.interval_us)
        })
        .shown(Shown::JSON),
    ]
}

fn per_second(count: u64, interval_us: u64) -> f64 {
    count as f64 * 1e6 / interval_us.max(1) as f64
}

/// Shows what the kernel half has added up per listener.
struct Summary {
    table: Table,
    listeners: Listeners,
    interval: Table,
    rows: Rows<Listener>,
    every: Interval,
    epoch: u64,
    since: Instant,
    /// Opens of each listener that were shown.
    shown: HashMap<Vec<u8>, u64>,
}

impl Summary {
    fn print(&mut self, out: &mut Printer) {
        let before = self.epoch;
        // New opens belong to the next interval; then this one can be read in peace.
        let result = self.interval.write(&(before + 1).to_ne_bytes());
        let entries = result.and_then(|()| self.table.read());
        // After the numbers: of each there is a head then.
        match entries.and_then(|entries| Ok((entries, self.listeners.heads()?))) {
            Ok((entries, heads)) => {
                self.epoch += 1;
                self.show(entries, &heads, before, out);
            }
            Err(error) => tcptools::message!("tcpaccept: listeners are not shown: {error:#}"),
        }
    }

    fn show(
        &mut self,
        entries: Vec<(Vec<u8>, Vec<u8>)>,
        heads: &HashMap<Vec<u8>, head>,
        epoch: u64,
        out: &mut Printer,
    ) {
        let interval_us = self.since.elapsed().as_micros() as u64;
        self.since = Instant::now();
        let now = boot_ns();
        let mut rows = Vec::new();
        for (key, value) in entries {
            let mut stats = listener_stats::default();
            if plain::copy_from_bytes(&mut stats, &value).is_err() {
                continue;
            }
            let Some(&head) = heads.get(&key) else {
                continue;
            };
            let accepts = stats.accepts - self.shown.insert(key, stats.accepts).unwrap_or(0);
            let high = longest(&stats, epoch);
            let mut row = Listener {
                head,
                accepts,
                interval_us,
                high,
                max: if high == UNKNOWN {
                    UNKNOWN
                } else {
                    stats.accept_queue_max
                },
            };
            row.head.boot_ns = now;
            rows.push(row);
        }
        rows.retain(|row| row.accepts != 0);
        rows.sort_by_key(|row| {
            (
                std::cmp::Reverse(row.accepts),
                row.head.flow.lport,
                row.head.cookie,
            )
        });
        for row in &rows {
            out.row(|buf| self.rows.row(buf, "listener", &row.into()));
        }
    }
}

/// The longest accept queue of an interval.
fn longest(stats: &listener_stats, epoch: u64) -> u32 {
    let of_epoch = stats
        .high
        .iter()
        .filter(|&&high| high >> 32 == epoch & 0xffff_ffff);

    of_epoch.map(|&high| high as u32).max().unwrap_or(UNKNOWN)
}

impl Handler for Summary {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, _record: &[u8], _out: &mut Printer) {}

    fn shows(&self) -> tcptools::session::Shows {
        self.every.length().into()
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.rows.refresh_clock();
            self.print(out);
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.print(out);
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

fn run(args: Args) -> Result<()> {
    args.pinned.refuse()?;
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    let mut style: Style = output.style();
    let session = Session::new("tcpaccept", run, &["sock:inet_sock_set_state"]);
    if session.has_only_records() {
        let opens = record::Opens::new(&args)?;
        let rows = Rows::new("tcpaccept", style, columns());
        let event = |_: &accept| "accept";
        let mut rows = EachRow { rows, event };
        return tcptools::record::run(&session, filter, opens, &mut rows);
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::TcpacceptSkelBuilder::default(), &mut storage, filter)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.summarise = args.summary.is_some();
    }
    if args.summary.is_some() {
        open.maps.listeners.set_max_entries(MAX_LISTENERS)?;
        open.maps.listener_heads.set_max_entries(MAX_LISTENERS)?;
        session.enable(&mut open, "listeners_now");
    }
    // A row comes before anybody reads.
    open.progs.note_reader.set_autoload(false);
    let mut skel = session.load(open)?;
    let Some(interval) = args.summary else {
        let rows = Rows::new("tcpaccept", style, columns());
        let event = |_: &accept| "accept";
        return session.run(skel.object_mut(), &mut EachRow { rows, event });
    };
    let now = session.each_socket(skel.object_mut(), "listeners_now")?;
    style.time |= interval.is_some() && style.format == Format::Table;
    let mut summary = Summary {
        table: Table::new(&skel.maps.listeners)?,
        listeners: Listeners::new(Table::new(&skel.maps.listener_heads)?, now),
        interval: Table::new(&skel.maps.data_interval)?,
        rows: Rows::new("tcpaccept", style, summary_columns()),
        every: Interval::new(interval),
        epoch: 1,
        since: Instant::now(),
        shown: HashMap::new(),
    };
    session.run(skel.object_mut(), &mut summary)
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    vec![
        Kind::row("accept", &columns()),
        Kind::row("listener", &summary_columns()),
    ]
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("tcpaccept", run))
}
