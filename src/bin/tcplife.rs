// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcplife: a row per TCP session when it ends: who, with whom, how much, how long, and how it ended.
//!
//! Traces `sock:inet_sock_set_state`, with `tcp:tcp_send_reset` and `tcp:tcp_receive_reset` for the ending and
//! `tcp:tcp_rcv_space_adjust` for the owner of an accepted socket.

use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;
use tcptools::cli::{self, Common, duration};
use tcptools::holders::Holders;
use tcptools::interval::Interval;
use tcptools::names::tcp_state;
use tcptools::output::schema::{self, Kind};
use tcptools::output::{
    Column, Format, Rows, Shown, Style, comm, family, laddr, lport, pid, pid_source, raddr, rport,
};
use tcptools::session::{Figures, Handler, Printer, Session, Unseen};
use tcptools::types::{Record, decode};
use tcptools::value::{Value, delivery_rate, kernel_name};

#[path = "tcplife/record.rs"]
mod record;

tcptools::skeleton!("tcplife");
use bpf::types::session;
tcptools::record!(session, bpf::types::head);

/// Show TCP sessions as they end: process, addresses, bytes, duration and how each ended.
///
/// E tells how it ended, in capitals where this end did it: F sent the first FIN, f received it, B both at once,
/// R sent an RST, r received one, x refused, t timed out, u unreachable, A aborted. Wide rows, CSV and JSON spell
/// it out.
#[derive(Parser)]
#[command(name = "tcplife")]
struct Args {
    /// Show the sessions that are still open: at the end, or at this interval
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    active: Option<Option<Duration>>,
    #[command(flatten)]
    common: Common,
}

/// `enum close_reason` of tcplife.bpf.c: its name, and its letter in the narrow table.
const REASONS: [(Option<&str>, &str); 10] = [
    (None, "-"),
    (Some("fin_local"), "F"),
    (Some("fin_remote"), "f"),
    (Some("fin_both"), "B"),
    (Some("rst_sent"), "R"),
    (Some("rst_received"), "r"),
    (Some("refused"), "x"),
    (Some("timeout"), "t"),
    (Some("unreachable"), "u"),
    (Some("aborted"), "A"),
];

/// `enum event_kind` of tcplife.bpf.c, and the row's `event` in JSON. An amendment is no row.
const SESSION_CLOSED: u32 = 0;
const SESSION_AMENDED: u32 = 2;
const EVENTS: [&str; 2] = ["session", "active"];

fn reason(body: &session) -> (Option<&'static str>, &'static str) {
    *REASONS.get(body.reason as usize).unwrap_or(&REASONS[0])
}

type C = Column<session>;

fn columns() -> Vec<C> {
    let text = Shown::TEXT;
    let wide = Shown::WIDE.or(Shown::JSON);
    vec![
        C::new("pid", "PID", (5, 7), pid).shown(text),
        C::new("comm", "COMM", (10, 16), comm).shown(text),
        C::new("family", "IP", (2, 2), family).shown(Shown::WIDE),
        C::new("laddr", "LADDR", (15, 39), laddr).shown(text),
        C::new("lport", "LPORT", (5, 5), lport).shown(text),
        C::new("raddr", "RADDR", (15, 39), raddr).shown(text),
        C::new("rport", "RPORT", (5, 5), rport).shown(text),
        C::new("tx_bytes", "TX_KB", (5, 6), |r| bytes(r.body.tx_bytes)).right(),
        C::new("rx_bytes", "RX_KB", (5, 6), |r| bytes(r.body.rx_bytes)).right(),
        C::new("", "E", (1, 1), |r| Value::Text(reason(r.body).1)).shown(Shown::NARROW),
        C::new("duration_us", "MS", (5, 9), |r| {
            let us = r.body.duration_ns / 1000;
            if r.body.partial == 0 {
                Value::Micros(us)
            } else {
                Value::MicrosAtLeast(us)
            }
        }),
        C::new("close_reason", "CLOSE_REASON", (12, 12), |r| {
            reason(r.body).0.map_or(Value::Unknown, Value::Text)
        })
        .shown(Shown::DETAIL),
        C::new("partial", "PARTIAL", (7, 7), |r| {
            Value::Bool(r.body.partial != 0)
        })
        .shown(Shown::JSON),
        C::new("pid_source", "PID_SOURCE", (10, 10), pid_source).shown(Shown::WIDE),
        C::new("state", "STATE", (11, 11), |r| {
            Value::Text(tcp_state(r.body.state))
        })
        .shown(wide),
        C::new("errno", "", (0, 0), |r| match r.body.bare {
            0 | 3 => Value::Int(r.body.errno_.into()),
            _ => Value::Unknown,
        })
        .shown(Shown::JSON),
        C::new("mptcp", "", (0, 0), |r| match r.body.mptcp {
            0 => Value::Unknown,
            1 => Value::Text("subflow"),
            _ => Value::Text("parent"),
        })
        .shown(Shown::JSON),
        C::new("srtt_us", "SRTT_MS", (7, 7), |r| {
            known(r.body.srtt_us, 0).map_or(Value::Unknown, Value::Micros)
        })
        .right()
        .shown(wide),
        C::new("min_rtt_us", "MINRTT_MS", (9, 9), |r| {
            known(r.body.min_rtt_us, u32::MAX).map_or(Value::Unknown, Value::Micros)
        })
        .right()
        .shown(wide),
        C::new("total_retrans", "RETRANS", (7, 7), |r| {
            told(r.body, r.body.total_retrans)
        })
        .right()
        .shown(wide),
        C::new("snd_cwnd", "CWND", (5, 5), |r| {
            told(r.body, r.body.snd_cwnd)
        })
        .right()
        .shown(wide),
        C::new("mss", "MSS", (5, 5), |r| told(r.body, r.body.mss))
            .right()
            .shown(wide),
        C::new("ca_name", "CA", (8, 8), |r| {
            kernel_name(&r.body.ca_name).map_or(Value::Unknown, Value::Text)
        })
        .shown(wide),
        C::new("delivery_rate_bytes_per_s", "MBIT/S", (6, 6), |r| {
            rate(r.body).map_or(Value::Unknown, Value::Rate)
        })
        .right()
        .shown(wide),
    ]
}

/// A field of the socket that inet_diag tells, too.
fn told(body: &session, value: u32) -> Value<'static> {
    match body.bare {
        0 | 2 => Value::Int(value.into()),
        _ => Value::Unknown,
    }
}

fn rate(body: &session) -> Option<u64> {
    match body.bare {
        0 => delivery_rate(body.rate_delivered, body.mss, body.rate_interval_us),
        _ => Some(body.told_rate).filter(|&rate| rate != 0),
    }
}

/// An MPTCP connection counts its bytes since 6.5 only.
fn bytes(count: u64) -> Value<'static> {
    match count {
        u64::MAX => Value::Unknown,
        count => Value::Bytes(count),
    }
}

fn known(value: u32, unknown: u32) -> Option<u64> {
    (value != unknown).then_some(value.into())
}

/// The iterator over open sessions, and when it is due.
type Active = (Holders, Interval);

struct Life {
    rows: Rows<session>,
    /// Rows that a reset may follow, which would be their true ending: those of this turn, and of the one before.
    parked: Vec<session>,
    held: Vec<session>,
    active: Option<Active>,
}

impl Life {
    fn new(style: Style, active: Option<Active>) -> Self {
        Self {
            rows: Rows::new("tcplife", style, columns()),
            parked: Vec::new(),
            held: Vec::new(),
            active,
        }
    }

    fn print(&mut self, body: &session, out: &mut Printer) {
        let event = EVENTS.get(body.head().event as usize).unwrap_or(&EVENTS[0]);
        out.row(|buf| self.rows.row(buf, event, &body.into()));
    }

    /// Later ends do not overtake those that wait.
    fn waits(&self, body: &session) -> bool {
        body.parked != 0 || !self.parked.is_empty() || !self.held.is_empty()
    }

    /// The reset that explains a row leaves within microseconds of it, but the reader may have looked between the two.
    fn release(&mut self, out: &mut Printer) {
        for body in std::mem::take(&mut self.held) {
            self.print(&body, out);
        }
        std::mem::swap(&mut self.held, &mut self.parked);
    }

    fn print_active(&mut self, out: &mut Printer) {
        let Some((sockets, _)) = &self.active else {
            return;
        };
        match sockets.run() {
            Ok(bytes) => bytes.chunks_exact(size_of::<session>()).for_each(|chunk| {
                let mut body = session::default();
                if plain::copy_from_bytes(&mut body, chunk).is_ok() {
                    self.print(&body, out);
                }
            }),
            Err(error) => {
                tcptools::message!("tcplife: sessions still open are not shown: {error:#}")
            }
        }
    }
}

impl Handler for Life {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(body) = decode::<session>(record) else {
            return;
        };
        if body.head.event == SESSION_AMENDED {
            let rows = self.parked.iter_mut().chain(&mut self.held);
            rows.filter(|row| row.parked != 0 && row.sock == body.sock)
                .for_each(|row| row.reason = body.reason);
        } else if body.head.event == SESSION_CLOSED && self.waits(body) {
            self.parked.push(*body);
        } else {
            self.print(body, out);
        }
    }

    fn tick(&mut self, out: &mut Printer) {
        self.rows.refresh_clock();
        self.release(out);
        if let Some((_, every)) = &mut self.active
            && every.is_due()
        {
            self.print_active(out);
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.release(out);
        self.release(out);
        self.print_active(out);
    }

    fn unseen(&self) -> Unseen {
        Unseen {
            unvisited: self
                .active
                .as_ref()
                .map_or(0, |(sockets, ..)| sockets.unvisited()),
            ..Unseen::default()
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

fn needs_detail(style: &Style) -> bool {
    style.wide || style.format != Format::Table
}

fn run(args: Args) -> Result<()> {
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    let style = output.style();
    let session = Session::new("tcplife", run, &["sock:inet_sock_set_state"]);
    if session.has_only_records() {
        let sessions = record::Sessions::new(&args)?;
        let mut life = Life::new(style, None);
        return tcptools::record::run(&session, filter, sessions, &mut life);
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::TcplifeSkelBuilder::default(), &mut storage, filter)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.detail = needs_detail(&style);
    }
    if args.active.is_some() {
        session.enable(&mut open, "open_sessions");
    }
    let mut skel = session.load(open)?;
    let active = match args.active {
        Some(interval) => {
            let sockets = session.each_socket(skel.object_mut(), "open_sessions")?;
            Some((sockets, Interval::new(interval)))
        }
        None => None,
    };
    let mut life = Life::new(style, active);
    session.run(skel.object_mut(), &mut life)
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    EVENTS.map(|event| Kind::row(event, &columns())).into()
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("tcplife", run))
}
