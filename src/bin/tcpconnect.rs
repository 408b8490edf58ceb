// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpconnect: a row per active open: who, to where, with what outcome, and how long the answer took.
//!
//! Traces `sock:inet_sock_set_state`; an iterator over the sockets finds the opens that nobody answers.

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;
use tcptools::cli::{self, Common, PinnedMaps, duration, milliseconds};
use tcptools::count::{self, Counted, Counts, MAX_FLOWS};
use tcptools::hist::{Hists, MAX_HISTS};
use tcptools::names::errno;
use tcptools::output::schema::{self, Kind};
use tcptools::output::{Column, Rows, Shown, Style, comm, family, laddr, pid, raddr, rport, uid};
use tcptools::pending::{Pending, slot_shift};
use tcptools::resolve::{Answer, Resolver};
use tcptools::session::{Figures, Handler, Printer, Session};
use tcptools::table::Table;
use tcptools::types::{Record, decode};
use tcptools::value::Value;

#[path = "tcpconnect/record.rs"]
mod record;

tcptools::skeleton!("tcpconnect");
use bpf::types::connect;
tcptools::record!(connect, bpf::types::head);

/// Show active TCP opens (connect) with their outcome and latency.
///
/// A row comes when an open ends: established, refused, reset, timeout, unreachable or aborted. One that has no answer
/// yet is shown as pending once, and again when it ends. Flags and columns are those of bcc's tcpconnect.
#[derive(Parser)]
#[command(name = "tcpconnect")]
#[command(mut_arg("duration", |a| a.short(None)), mut_arg("lport", |a| a.short(None)))]
#[command(mut_arg("rport", |a| a.visible_short_alias('P').visible_alias("port")))]
#[command(mut_arg("port", |a| a.long("any-port")))]
struct Args {
    /// Add a column with the local port
    #[arg(short = 'L', long)]
    print_lport: bool,
    /// Add a column with the user id
    #[arg(short = 'U', long)]
    print_uid: bool,
    /// Count opens per flow and outcome, in the kernel; show the counts at the end, or at this interval
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration,
          conflicts_with_all = ["hist", "dns"])]
    count: Option<Option<Duration>>,
    /// Add the name of the remote address, asked of the resolver: a row waits for it at most 200 ms
    #[arg(short, long, conflicts_with = "hist")]
    dns: bool,
    /// Only opens that failed, or are pending
    #[arg(long)]
    failed: bool,
    /// Only opens that took at least so many milliseconds
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    min_ms: Option<Duration>,
    /// Show an open as pending when it has had no answer for this time
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pending: Duration,
    /// Do not show pending opens
    #[arg(long, conflicts_with = "pending")]
    no_pending: bool,
    /// Histogram of the latency of established opens (with --failed, of failed ones), made in the kernel: one for all, or one per remote address
    #[arg(long, value_enum, value_name = "PER", num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    hist: Option<Per>,
    /// Show --hist at this interval too, not only at the end
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "hist")]
    interval: Option<Duration>,
    #[command(flatten)]
    pinned: PinnedMaps,
    #[command(flatten)]
    common: Common,
}

/// What a histogram is of.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Per {
    /// All opens.
    All,
    /// Each remote address.
    Raddr,
}

/// `enum outcome` of tcpconnect.bpf.c.
const OUTCOMES: [&str; 7] = [
    "established",
    "refused",
    "reset",
    "timeout",
    "unreachable",
    "aborted",
    "pending",
];
const ESTABLISHED: u8 = 0;
const PENDING: u8 = 6;
/// An outcome that records do not tell.
const UNTOLD: u8 = u8::MAX;
/// Nor whether a SYN was sent: `struct connect` of tcpconnect.bpf.c.
const SYN_UNTOLD: u8 = 2;

/// `enum mode` of tcpconnect.bpf.c.
const MODE_COUNT: u32 = 1;
const MODE_HIST: u32 = 2;

/// How long a row waits for a name, and how many rows do.
const PATIENCE: Duration = Duration::from_millis(200);
const WAITING: usize = 4096;

/// A record, and the name of its remote address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Named {
    connect: connect,
    name: [u8; 256],
    name_len: usize,
}

// SAFETY: `repr(C)` and integers only: every bit pattern is a value.
unsafe impl plain::Plain for Named {}
// SAFETY: as above, and it begins with a record, which begins with a head.
unsafe impl Record for Named {}

impl Named {
    fn new(connect: connect) -> Self {
        Self {
            connect,
            name: [0; 256],
            name_len: 0,
        }
    }

    fn set_name(&mut self, name: &str) {
        self.name_len = name.len().min(self.name.len());
        self.name[..self.name_len].copy_from_slice(&name.as_bytes()[..self.name_len]);
    }

    fn name(&self) -> Value<'_> {
        match std::str::from_utf8(&self.name[..self.name_len]) {
            Ok("") | Err(_) => Value::Unknown,
            Ok(name) => Value::Text(name),
        }
    }
}

fn outcome(number: u32) -> &'static str {
    OUTCOMES.get(number as usize).unwrap_or(&"unknown")
}

fn latency(body: &connect) -> Value<'static> {
    let us = body.latency_ns / 1000;
    match body {
        connect {
            latency_ns: u64::MAX,
            ..
        } => Value::Unknown,
        connect {
            partial: 0,
            outcome,
            ..
        } if *outcome != PENDING => Value::Micros(us),
        _ => Value::MicrosAtLeast(us),
    }
}

type C = Column<Named>;

fn columns(args: &Args) -> Vec<C> {
    let text = Shown::TEXT;
    let extra = Shown::WIDE;
    let on_request = |wanted| if wanted { text } else { extra };
    let mut columns = vec![
        C::new("uid", "UID", (5, 5), uid).shown(on_request(args.print_uid)),
        C::new("pid", "PID", (7, 7), pid).shown(text),
        C::new("comm", "COMM", (10, 16), comm).shown(text),
        C::new("family", "IP", (2, 2), family).shown(text),
        C::new("laddr", "SADDR", (15, 39), laddr).shown(text),
        C::new("lport", "LPORT", (5, 5), |r| match r.head.flow.lport {
            0 => Value::Unknown,
            port => Value::Int(port.into()),
        })
        .shown(on_request(args.print_lport)),
        C::new("raddr", "DADDR", (15, 39), raddr).shown(text),
        C::new("rport", "DPORT", (5, 5), rport).shown(text),
        C::new("outcome", "OUTCOME", (11, 11), |r| {
            match r.body.connect.outcome {
                UNTOLD => Value::Unknown,
                number => Value::Text(outcome(number.into())),
            }
        }),
        C::new("latency_us", "MS", (6, 7), |r| latency(&r.body.connect)).right(),
        C::new("errno", "", (0, 0), |r| match r.body.connect.errno_ {
            0 => Value::Unknown,
            error => Value::Int(error.into()),
        })
        .shown(Shown::JSON),
        C::new("error", "ERROR", (13, 13), |r| {
            errno(r.body.connect.errno_).map_or(Value::Unknown, Value::Text)
        })
        .shown(Shown::DETAIL),
        C::new("syn_retrans", "RETRANS", (7, 7), |r| {
            Value::Int(r.body.connect.syn_retrans.into())
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("syn_sent", "SYN_SENT", (8, 8), |r| {
            match r.body.connect.syn_sent {
                SYN_UNTOLD => Value::Unknown,
                sent => Value::Bool(sent != 0),
            }
        })
        .shown(Shown::JSON),
        C::new("partial", "PARTIAL", (7, 7), |r| {
            Value::Bool(r.body.connect.partial != 0)
        })
        .shown(Shown::JSON),
    ];
    if args.dns {
        columns.push(C::new("raddr_name", "NAME", (0, 0), |r| r.body.name()));
    }
    columns
}

fn count_columns(print_lport: bool) -> Vec<Column<Counted>> {
    let mut columns = count::columns(print_lport, "CONNECTS");
    let outcome = |r: &tcptools::output::Row<'_, Counted>| {
        let known = OUTCOMES.get(r.head.event as usize);
        known.map_or(Value::Unknown, |name| Value::Text(name))
    };
    columns.insert(
        columns.len() - 1,
        Column::new("outcome", "OUTCOME", (11, 11), outcome),
    );
    columns
}

/// What is made of the opens.
enum Shape {
    Rows,
    /// By the local port, too?
    Counts(Counts, bool),
    /// One per remote address?
    Hists(Hists, bool),
}

impl Shape {
    /// `counts`, `hists`: the tables that may be needed.
    fn new(
        style: &Style,
        args: &Args,
        counts: impl FnOnce() -> Result<Table>,
        hists: impl FnOnce() -> Result<Table>,
    ) -> Result<Self> {
        let style = style.clone();
        Ok(match (args.count, args.hist) {
            (Some(interval), _) => {
                let columns = count_columns(args.print_lport);
                let counts = Counts::new("tcpconnect", style, counts()?, columns, interval);
                Self::Counts(counts, args.print_lport)
            }
            (_, Some(per)) => {
                let unit = ("usecs", "us");
                let hists = Hists::new("tcpconnect", style, hists()?, unit, args.interval);
                Self::Hists(hists, per == Per::Raddr)
            }
            _ => Self::Rows,
        })
    }
}

struct Connects {
    rows: Rows<Named>,
    shape: Shape,
    pending: Option<Pending>,
    resolver: Option<Resolver>,
    failed_only: bool,
    /// Rows that wait for a name, and since when, in order.
    waiting: VecDeque<(Instant, Named)>,
}

impl Connects {
    fn new(style: Style, args: &Args) -> Self {
        Self {
            rows: Rows::new("tcpconnect", style, columns(args)),
            shape: Shape::Rows,
            pending: None,
            resolver: args.dns.then(Resolver::default),
            failed_only: args.failed,
            waiting: VecDeque::new(),
        }
    }

    fn print(&mut self, row: &Named, out: &mut Printer) {
        let event = if row.connect.outcome == PENDING {
            "pending"
        } else {
            "connect"
        };
        out.row(|buf| self.rows.row(buf, event, &row.into()));
    }

    /// Prints the rows at the front of the queue that have their name, or have waited long enough.
    fn release(&mut self, out: &mut Printer, patience: Duration) {
        let Some(mut resolver) = self.resolver.take() else {
            return;
        };
        resolver.collect();
        while let Some((since, mut row)) = self.waiting.pop_front() {
            let patient = since.elapsed() < patience && self.waiting.len() < WAITING;
            match resolver.name(row.connect.head().flow.remote()) {
                Answer::Waiting if patient => {
                    self.waiting.push_front((since, row));
                    break;
                }
                Answer::Name(name) => row.set_name(name),
                Answer::Nameless | Answer::Waiting => {}
            }
            self.print(&row, out);
        }
        self.resolver = Some(resolver);
    }
}

impl Handler for Connects {
    fn header(&mut self, out: &mut Vec<u8>) {
        match &mut self.shape {
            Shape::Rows => self.rows.header(out),
            Shape::Counts(counts, _) => counts.header(out),
            Shape::Hists(hists, _) => hists.header(out),
        }
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(connect) = decode::<connect>(record) else {
            return;
        };
        // The kernel half sends none where it counts: these are of tracepoints' records.
        match &mut self.shape {
            Shape::Rows => {}
            Shape::Counts(counts, by_lport) => {
                return counts.add(connect.head(), *by_lport, connect.outcome.into());
            }
            Shape::Hists(hists, by_raddr) => {
                let known = connect.partial == 0 && connect.latency_ns != u64::MAX;
                if known && (self.failed_only || connect.outcome == ESTABLISHED) {
                    let flow = by_raddr.then_some(&connect.head().flow);
                    hists.add(flow, 0, connect.latency_ns / 1000);
                }
                return;
            }
        }
        let row = Named::new(*connect);
        match &mut self.resolver {
            None => self.print(&row, out),
            Some(resolver) => {
                let _ = resolver.name(connect.head().flow.remote());
                self.waiting.push_back((Instant::now(), row));
            }
        }
    }

    fn tick(&mut self, out: &mut Printer) {
        self.rows.refresh_clock();
        self.release(out, PATIENCE);
        match &mut self.shape {
            Shape::Rows => {}
            Shape::Counts(counts, _) => counts.tick(out),
            Shape::Hists(hists, _) => hists.tick(out),
        }
        if let Some(Err(error)) = self.pending.as_mut().map(Pending::tick) {
            tcptools::message!("tcpconnect: pending opens are not shown: {error:#}");
            self.pending = None;
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.release(out, Duration::ZERO);
        match &mut self.shape {
            Shape::Rows => {}
            Shape::Counts(counts, _) => counts.print(out),
            Shape::Hists(hists, _) => hists.print(out),
        }
    }

    fn uncounted(&self) -> u64 {
        match &self.shape {
            Shape::Rows => 0,
            Shape::Counts(counts, _) => counts.uncounted(),
            Shape::Hists(hists, _) => hists.uncounted(),
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

fn configure(open: &mut bpf::OpenTcpconnectSkel<'_>, args: &Args) -> Result<()> {
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.mode = match (&args.count, &args.hist) {
            (Some(_), _) => MODE_COUNT,
            (_, Some(_)) => MODE_HIST,
            _ => 0,
        };
        rodata.failed_only = args.failed;
        rodata.by_lport = args.print_lport;
        rodata.by_raddr = args.hist == Some(Per::Raddr);
        rodata.min_ns = args.min_ms.unwrap_or_default().as_nanos() as u64;
        rodata.pending_ns = args.pending.as_nanos() as u64;
        rodata.slot_shift = slot_shift(args.pending);
    }
    if args.count.is_some() {
        open.maps.counts.set_max_entries(MAX_FLOWS)?;
    }
    if args.hist.is_some() {
        open.maps.hists.set_max_entries(MAX_HISTS)?;
    }
    // An open has no reader yet.
    open.progs.note_reader.set_autoload(false);
    Ok(())
}

fn shows_pending(args: &Args) -> bool {
    !args.no_pending && args.count.is_none() && args.hist.is_none()
}

fn run(args: Args) -> Result<()> {
    args.pinned.refuse()?;
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    let style: Style = output.style();
    let session = Session::new("tcpconnect", run, &["sock:inet_sock_set_state"]);
    if session.has_only_records() {
        let opens = record::Opens::new(&args)?;
        let counts = || Ok(Table::own(MAX_FLOWS));
        let hists = || Ok(Table::own(MAX_HISTS));
        let shape = Shape::new(&style, &args, counts, hists)?;
        let mut connects = Connects {
            shape,
            ..Connects::new(style, &args)
        };
        return tcptools::record::run(&session, filter, opens, &mut connects);
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::TcpconnectSkelBuilder::default(), &mut storage, filter)?;
    configure(&mut open, &args)?;
    if shows_pending(&args) {
        session.enable(&mut open, "show_pending");
    }
    let mut skel = session.load(open)?;
    let pending = if shows_pending(&args) {
        let sockets = session.each_socket(skel.object_mut(), "show_pending")?;
        Some(Pending::new(
            sockets,
            &skel.maps.data_unanswered,
            args.pending,
        )?)
    } else {
        None
    };
    let counts = || Table::new(&skel.maps.counts);
    let hists = || Table::new(&skel.maps.hists);
    let shape = Shape::new(&style, &args, counts, hists)?;
    let mut connects = Connects {
        shape,
        pending,
        ..Connects::new(style, &args)
    };
    session.run(skel.object_mut(), &mut connects)
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    let args = Args::parse_from(["tcpconnect", "--dns"]);
    vec![
        Kind::row("connect", &columns(&args)),
        Kind::row("pending", &columns(&args)),
        Kind::aggregate("count", &count_columns(true)),
        Hists::kind(),
    ]
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("tcpconnect", run))
}
