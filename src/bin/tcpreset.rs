// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpreset: a row per RST sent or received, with the socket's owner and the kernel's reason.
//!
//! Traces `tcp:tcp_send_reset` and `tcp:tcp_receive_reset`, with `sock:inet_sock_set_state` for the session's age and
//! `tcp:tcp_rcv_space_adjust` for the owner of an accepted socket.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use libbpf_rs::skel::Skel;
use tcptools::cli::{self, Common, Usage, duration};
use tcptools::clock::boot_ns;
use tcptools::count::Every;
use tcptools::names::tcp_state;
use tcptools::output::schema::{self, Kind};
use tcptools::output::{Column, Format, Row, Rows, Shown, Style, comm, family, pid};
use tcptools::resets;
use tcptools::session::{Figures, Handler, Printer, Session};
use tcptools::stack;
use tcptools::tracepoint;
use tcptools::types::{Record, decode_stack, head};
use tcptools::value::Value;

#[path = "tcpreset/record.rs"]
mod record;

tcptools::skeleton!("tcpreset");
use bpf::types::reset;
tcptools::record!(reset, bpf::types::head);

/// Show TCP resets: sent (->) and received (<-), with state and reason.
///
/// A reset that is sent has the kernel's reason (Linux 6.10), without TCP_ in the narrow table; --explain says what each
/// means. Of one that is received only the state is known: in SYN_SENT it refuses a connection.
#[derive(Parser)]
#[command(name = "tcpreset")]
struct Args {
    /// Explain this reason, or all that this kernel has, and exit
    #[arg(long, value_name = "REASON", num_args = 0..=1)]
    explain: Option<Option<String>>,
    /// Show how many, instead of each: at the end, or at this interval
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration, conflicts_with = "stack")]
    summary: Option<Option<Duration>>,
    /// What is counted together
    #[arg(long, value_enum, default_value_t, requires = "summary")]
    by: By,
    /// Show the kernel's call stack
    #[arg(long)]
    stack: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum By {
    /// Direction, state and reason.
    #[default]
    Reason,
    /// Sent or received.
    Direction,
    /// Remote address.
    Raddr,
    /// Local address.
    Laddr,
    /// Local port.
    Lport,
    /// Name of the owner.
    Comm,
}

/// `enum event_kind` of tcpreset.bpf.c.
const SENT: u32 = 0;
const RECEIVED: u32 = 1;

fn is_sent(body: &reset) -> bool {
    body.head.event != RECEIVED
}

type C = Column<reset>;

fn columns(stack: bool) -> Vec<C> {
    let table = Shown::TEXT;
    let mut columns = vec![
        C::new("pid", "PID", (5, 7), pid).shown(table),
        C::new("comm", "COMM", (0, 16), comm).shown(Shown::WIDE),
        C::new("family", "IP", (0, 2), family).shown(Shown::WIDE),
        C::new("", "LADDR:LPORT", (20, 47), |r| {
            Value::Endpoint(r.head.local(), r.head.flow.lport)
        })
        .shown(table),
        C::new("", "D", (2, 2), |r| {
            Value::Text(if is_sent(r.body) { "->" } else { "<-" })
        })
        .shown(table),
        C::new("direction", "DIRECTION", (0, 0), |r| {
            Value::Text(direction(r.body))
        })
        .shown(Shown::JSON),
        C::new("", "RADDR:RPORT", (20, 47), |r| {
            Value::Endpoint(r.head.remote(), r.head.flow.rport)
        })
        .shown(table),
        C::new("state", "STATE", (11, 11), |r| match r.body.state {
            0 => Value::Unknown,
            state => Value::Text(tcp_state(state)),
        }),
        C::new("", "REASON", (0, 0), |r| {
            reason(r.body).map_or(Value::Unknown, |name| {
                Value::Text(name.strip_prefix("TCP_").unwrap_or(name))
            })
        })
        .shown(Shown::NARROW),
        C::new("reason", "REASON", (0, 24), |r| {
            reason(r.body).map_or(Value::Unknown, Value::Text)
        })
        .shown(Shown::DETAIL),
    ];
    columns.extend(details());
    if stack {
        columns.push(C::new("", "", (0, 0), |r| Value::Stack(&r.body.stack)).shown(table));
        columns.push(
            C::new("stack", "STACK", (0, 0), |r| Value::Stack(&r.body.stack)).shown(Shown::JSON),
        );
    }
    columns
}

/// What only wide rows, CSV and JSON show.
fn details() -> Vec<C> {
    vec![
        C::new("trigger_flags", "TRIGGER", (0, 9), |r| {
            match r.body.trigger {
                0 => Value::Unknown,
                flags => Value::TcpFlags(flags.into()),
            }
        })
        .shown(Shown::DETAIL),
        C::new("age_us", "AGE_MS", (0, 9), |r| {
            match (r.body.session, r.body.partial) {
                (0, _) => Value::Unknown,
                (_, 0) => Value::Micros(r.body.age_ns / 1000),
                _ => Value::MicrosAtLeast(r.body.age_ns / 1000),
            }
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("partial", "", (0, 0), |r| {
            if_session(r.body, Value::Bool(r.body.partial != 0))
        })
        .shown(Shown::JSON),
        C::new("tx_bytes", "TX_KB", (0, 6), |r| {
            bytes(r.body, r.body.tx_bytes)
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("rx_bytes", "RX_KB", (0, 6), |r| {
            bytes(r.body, r.body.rx_bytes)
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("close_boot_ns", "", (0, 0), |r| match r.body.close_ns {
            0 => Value::Unknown,
            ns => Value::Int(ns),
        })
        .shown(Shown::JSON),
        C::new("after_shutdown", "", (0, 0), |r| {
            Value::Bool(r.body.disproves != 0)
        })
        .shown(Shown::JSON),
    ]
}

fn direction(body: &reset) -> &'static str {
    if is_sent(body) { "sent" } else { "received" }
}

fn reason(body: &reset) -> Option<&'static str> {
    resets::name(body.reason)
}

fn if_session<'a>(body: &reset, value: Value<'a>) -> Value<'a> {
    if body.session == 0 {
        Value::Unknown
    } else {
        value
    }
}

/// What no tracepoint's record has.
fn bytes(body: &reset, bytes: u64) -> Value<'static> {
    match body.bare {
        0 => if_session(body, Value::Bytes(bytes)),
        _ => Value::Unknown,
    }
}

/// How many resets have a thing in common.
struct Tally {
    by: By,
    key: Key,
    count: u64,
}

/// Only what is counted by is set.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    direction: Option<&'static str>,
    state: Option<&'static str>,
    text: Option<Vec<u8>>,
}

impl By {
    fn key(self, body: &reset) -> Key {
        let head = body.head();
        let state = (body.state != 0).then(|| tcp_state(body.state));
        let direction = Some(direction(body));
        let text = |text: String| Key {
            text: Some(text.into()),
            ..Key::default()
        };
        match self {
            Self::Reason => Key {
                direction,
                state,
                text: reason(body).map(Into::into),
            },
            Self::Direction => Key {
                direction,
                ..Key::default()
            },
            Self::Raddr => text(head.remote().to_string()),
            Self::Laddr => text(head.local().to_string()),
            Self::Lport => text(head.flow.lport.to_string()),
            Self::Comm => Key {
                text: head.comm().map(Into::into),
                ..Key::default()
            },
        }
    }
}

/// The columns of what is counted together, and how many there were.
fn tally_columns(by: By) -> Vec<Column<Tally>> {
    type C = Column<Tally>;
    let mut columns =
        vec![C::new("boot_ns", "", (0, 0), |r| Value::Int(r.head.boot_ns)).shown(Shown::JSON)];
    if matches!(by, By::Reason | By::Direction) {
        columns.push(C::new("direction", "DIRECTION", (9, 9), |r| {
            r.body.key.direction.map_or(Value::Unknown, Value::Text)
        }));
    }
    if matches!(by, By::Reason) {
        columns.push(C::new("state", "STATE", (12, 12), |r| {
            r.body.key.state.map_or(Value::Unknown, Value::Text)
        }));
    }
    let (name, heading) = match by {
        By::Reason => ("reason", "REASON"),
        By::Direction => ("", ""),
        By::Raddr => ("raddr", "RADDR"),
        By::Laddr => ("laddr", "LADDR"),
        By::Lport => ("lport", "LPORT"),
        By::Comm => ("comm", "COMM"),
    };
    if !name.is_empty() {
        columns.push(Column::new(name, heading, (24, 39), tally_key));
    }
    columns.push(C::new("count", "RESETS", (10, 10), |r| Value::Int(r.body.count)).right());
    columns
}

fn tally_key<'a>(row: &Row<'a, Tally>) -> Value<'a> {
    match (&row.body.key.text, row.body.by) {
        (None, _) => Value::Unknown,
        (Some(text), By::Lport) => std::str::from_utf8(text)
            .ok()
            .and_then(|t| t.parse().ok())
            .map_or(Value::Unknown, Value::Int),
        (Some(text), _) => Value::Comm(text),
    }
}

/// Where rows go: out, or into a count.
enum Shape {
    Each(Rows<reset>),
    Sums {
        by: By,
        sums: HashMap<Key, u64>,
        rows: Rows<Tally>,
        every: Every,
    },
}

struct Resets {
    shape: Shape,
    /// Rows that wait for a doubtful one before them to be decided, and in which turn of the reader they came: rows come
    /// out in the order of their time.
    waiting: VecDeque<(u64, reset)>,
    turn: u64,
}

/// How long after a doubtful record its refutation can come: it follows in the same call in the kernel, within
/// microseconds, so that only a stopped machine could take longer.
const DOUBT_NS: u64 = 200_000_000;

impl Resets {
    /// A reset of ours that answers data after shutdown says that there was no RST before it.
    fn refute(&mut self, cookie: u64) {
        let is_it = |(_, row): &(u64, reset)| row.doubtful != 0 && row.head.cookie == cookie;
        if let Some(index) = self.waiting.iter().rposition(is_it) {
            self.waiting.remove(index);
        }
    }

    fn release(&mut self, out: &mut Printer, all: bool) {
        let now = boot_ns();
        while let Some((turn, row)) = self.waiting.front() {
            // A late reader finds old rows: what refutes one may come with its next turn.
            let fresh = now.saturating_sub(row.head.boot_ns) < DOUBT_NS || *turn == self.turn;
            if row.doubtful != 0 && !all && fresh {
                return;
            }
            if let Some((_, row)) = self.waiting.pop_front() {
                self.show(&row, out);
            }
        }
    }

    fn show(&mut self, body: &reset, out: &mut Printer) {
        match &mut self.shape {
            Shape::Each(rows) => out.row(|buf| rows.row(buf, "reset", &body.into())),
            Shape::Sums { by, sums, .. } => *sums.entry(by.key(body)).or_default() += 1,
        }
    }

    fn print_sums(&mut self, out: &mut Printer) {
        let Shape::Sums { by, sums, rows, .. } = &mut self.shape else {
            return;
        };
        rows.refresh_clock();
        let now = head {
            boot_ns: boot_ns(),
            ..head::default()
        };
        let mut sorted: Vec<_> = sums.drain().collect();
        sorted.sort_by(|(a, x), (b, y)| y.cmp(x).then_with(|| a.cmp(b)));
        for (key, count) in sorted {
            let tally = Tally {
                by: *by,
                key,
                count,
            };
            out.row(|buf| {
                rows.row(
                    buf,
                    "count",
                    &Row {
                        head: &now,
                        body: &tally,
                    },
                )
            });
        }
    }
}

impl Handler for Resets {
    fn header(&mut self, out: &mut Vec<u8>) {
        match &mut self.shape {
            Shape::Each(rows) => rows.header(out),
            Shape::Sums { rows, .. } => rows.header(out),
        }
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(body) = decode_stack::<reset>(record, offset_of!(reset, stack)) else {
            return;
        };
        if body.disproves != 0 {
            self.refute(body.head.cookie);
        }
        if self.waiting.is_empty() && body.doubtful == 0 {
            self.show(&body, out);
        } else {
            self.waiting.push_back((self.turn, body));
        }
    }

    fn tick(&mut self, out: &mut Printer) {
        self.release(out, false);
        self.turn += 1;
        match &mut self.shape {
            Shape::Each(rows) => rows.refresh_clock(),
            Shape::Sums { every, .. } => {
                if every.is_due() {
                    self.print_sums(out);
                }
            }
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.release(out, true);
        self.print_sums(out);
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        match &mut self.shape {
            Shape::Each(rows) => rows.summary(out, fields),
            Shape::Sums { rows, .. } => rows.summary(out, fields),
        }
    }
}

impl Shape {
    fn new(args: &Args, mut style: Style) -> Self {
        let Some(interval) = args.summary else {
            return Self::Each(Rows::new("tcpreset", style, columns(args.stack)));
        };
        style.time |= interval.is_some() && style.format == Format::Table;
        Self::Sums {
            by: args.by,
            sums: HashMap::new(),
            rows: Rows::aggregate("tcpreset", style, tally_columns(args.by)),
            every: Every::new(interval),
        }
    }
}

fn explain(reason: Option<&str>) -> Result<()> {
    let reasons = match reason {
        None => resets::reasons(),
        Some(name) if resets::explain(name).is_some() => vec![name],
        Some(name) => {
            let known = resets::reasons().join(", ");
            bail!(Usage(format!(
                "'{name}' is not a reason; this kernel has {known}"
            )))
        }
    };
    match resets::print(&reasons, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn run(args: Args) -> Result<()> {
    if let Some(reason) = &args.explain {
        return explain(reason.as_deref());
    }
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    let tracepoints = ["tcp:tcp_send_reset", "tcp:tcp_receive_reset"];
    let session = Session::new("tcpreset", run, &tracepoints);
    let mut resets = Resets {
        shape: Shape::new(&args, output.style()),
        waiting: VecDeque::new(),
        turn: 0,
    };
    if session.has_only_records() {
        let records = record::Resets::new(&args, session.seeds())?;
        return tcptools::record::run(&session, filter, records, &mut resets);
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::TcpresetSkelBuilder::default(), &mut storage, filter)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.has_reason = tracepoint::arguments("tcp_send_reset") > 2;
        rodata.stacks = args.stack;
    }
    let mut skel = session.load(open)?;
    if args.stack && !stack::load_symbols() {
        tcptools::message!(
            "tcpreset: the kernel hides its addresses (kernel.kptr_restrict): stacks are shown as numbers"
        );
    }
    session.run(skel.object_mut(), &mut resets)
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    let counts = By::value_variants().iter();
    let counts = counts.map(|by| Kind::aggregate("count", &tally_columns(*by)));
    let mut kinds = vec![Kind::row("reset", &columns(true))];
    kinds.extend(counts);
    kinds
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("tcpreset", run))
}
