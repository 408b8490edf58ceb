// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpretrans: a row per TCP retransmission: whose, why, and whether it was really sent.
//!
//! Traces `tcp:tcp_retransmit_skb` and `tcp:tcp_retransmit_synack`, with `sock:inet_sock_set_state` and
//! `tcp:tcp_rcv_space_adjust` for the owners of sockets.

use std::mem::{MaybeUninit, offset_of};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;
use tcptools::cli::{self, Common, duration, whole};
use tcptools::clock::jiffy_us;
use tcptools::count::{self, Counted, Counts, MAX_FLOWS};
use tcptools::holders::Holders;
use tcptools::names::tcp_state;
use tcptools::output::schema::{self, Kind};
use tcptools::output::{Column, Format, Row, Rows, Shown, Style, comm, family, pid};
use tcptools::session::{Figures, Handler, Printer, Session, Unseen};
use tcptools::stack;
use tcptools::table::Table;
use tcptools::talkers::{By, Sent, Talkers};
use tcptools::tracepoint;
use tcptools::types::{Record, decode, decode_stack};
use tcptools::value::Value;

#[path = "tcpretrans/record.rs"]
mod record;

tcptools::skeleton!("tcpretrans");
use bpf::types::{retrans, total};
tcptools::record!(retrans, bpf::types::head);
tcptools::record!(total, bpf::types::head);

/// Show TCP retransmissions: process, addresses, state and cause.
///
/// KIND tells the cause: SYN (an unanswered connect), SYNACK (of a listener: the client's ACK does not come, or is of no
/// use yet, see HINT in wide rows), RTO (the timer ran out, or the recovery after that), fast (other segments arrived,
/// this one did not), TLP (a tail loss probe). T is L for a probe and R for all others; > was sent, ! failed in this host.
#[derive(Parser)]
#[command(name = "tcpretrans", mut_arg("csv", |a| a.short(None)))]
struct Args {
    /// Show the sequence number too
    #[arg(short, long)]
    sequence: bool,
    /// Show the tail loss probes that could not even be made too
    #[arg(short, long)]
    lossprobe: bool,
    /// Show attempts too that failed before the kernel counted them as sent (Linux 6.16)
    #[arg(long)]
    failed: bool,
    /// Count segments sent again per flow, in the kernel, and show the counts at the end
    #[arg(short, long)]
    count: bool,
    /// Show totals, with the share of the segments sent: at the end, or at this interval
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration,
        conflicts_with_all = ["count", "failed", "lossprobe", "sequence", "stack"])]
    summary: Option<Option<Duration>>,
    /// What totals are made of
    #[arg(long, value_enum, default_value_t, requires = "summary")]
    by: By,
    /// Show so many totals, those with most retransmissions first; 0: all [default: 20 in a table, all in JSON and CSV]
    #[arg(long, value_name = "N", requires = "summary", value_parser = whole(0..=u32::MAX))]
    top: Option<u32>,
    /// Show the kernel's call stack
    #[arg(long, conflicts_with = "count")]
    stack: bool,
    #[command(flatten)]
    common: Common,
}

/// `enum kind` of tcpretrans.bpf.c: in JSON, and in a table.
const KINDS: [(&str, &str); 6] = [
    ("other", "other"),
    ("syn", "SYN"),
    ("synack", "SYNACK"),
    ("rto", "RTO"),
    ("fast", "fast"),
    ("tlp", "TLP"),
];
const OTHER: u8 = 0;
const SYN: u8 = 1;
const SYNACK: u8 = 2;
const RTO: u8 = 3;
const FAST: u8 = 4;
const TLP: u8 = 5;
/// Only a tracepoint's record told of it, which has no cause.
const UNTOLD: u8 = u8::MAX;

/// `enum synack_hint` of request.bpf.h, and what it says is not known.
const HINTS: [&str; 3] = ["", "defer_accept", "accept_queue_full"];

/// `enum tcp_ca_state` (`include/uapi/linux/tcp.h`).
const CA_STATES: [&str; 5] = ["open", "disorder", "cwr", "recovery", "loss"];

type C = Column<retrans>;

fn columns(args: &Args) -> Vec<C> {
    let table = Shown::TEXT;
    let mut columns = vec![
        C::new("pid", "PID", (5, 7), pid).shown(table),
        C::new("comm", "COMM", (0, 16), comm).shown(Shown::WIDE),
        C::new("family", "IP", (2, 2), family).shown(table),
        C::new("", "LADDR:LPORT", (20, 47), |r| {
            Value::Endpoint(r.head.local(), r.head.flow.lport)
        })
        .shown(table),
        C::new("", "T>", (2, 2), |r| {
            Value::Text(match (r.body.kind, r.body.err) {
                (TLP, 0) => "L>",
                (TLP, _) => "L!",
                (UNTOLD, 0) => "?>",
                (UNTOLD, _) => "?!",
                (_, 0) => "R>",
                _ => "R!",
            })
        })
        .shown(table),
        C::new("", "RADDR:RPORT", (20, 47), |r| {
            Value::Endpoint(r.head.remote(), r.head.flow.rport)
        })
        .shown(table),
        C::new("state", "STATE", (11, 11), |r| {
            match r.body.state {
                0 => Value::Unknown, // not in the record before 5.0
                state => Value::Text(tcp_state(state)),
            }
        }),
    ];
    let sequence = if args.sequence {
        Shown::ALL
    } else {
        Shown::DETAIL
    };
    columns.push(C::new("seq", "SEQ", (10, 10), |r| told(r.body, r.body.seq)).shown(sequence));
    columns.push(
        C::new("kind", "", (0, 0), |r| {
            kind(r.body).map_or(Value::Unknown, |k| Value::Text(k.0))
        })
        .shown(Shown::JSON),
    );
    columns.push(
        C::new("", "KIND", (6, 6), |r| {
            kind(r.body).map_or(Value::Unknown, |k| Value::Text(k.1))
        })
        .shown(table),
    );
    columns.extend(details());
    let errors = if args.failed || args.lossprobe {
        table
    } else {
        Shown::DETAIL
    };
    columns.push(
        C::new("hint", "HINT", (0, 17), |r| {
            match HINTS.get(usize::from(r.body.hint)) {
                None | Some(&"") => Value::Unknown,
                Some(hint) => Value::Text(hint),
            }
        })
        .shown(Shown::DETAIL),
    );
    columns.push(
        C::new("counted", "", (0, 0), |r| Value::Bool(r.body.counted != 0)).shown(Shown::JSON),
    );
    columns
        .push(C::new("err", "", (0, 0), |r| Value::Signed(r.body.err.into())).shown(Shown::JSON));
    columns.push(
        C::new("err_name", "ERR", (5, 12), |r| err_name(r.body.err)).shown(errors.or(Shown::JSON)),
    );
    if args.stack {
        columns.push(C::new("", "", (0, 0), |r| Value::Stack(&r.body.stack)).shown(table));
        columns.push(
            C::new("stack", "STACK", (0, 0), |r| Value::Stack(&r.body.stack)).shown(Shown::JSON),
        );
    }
    columns
}

/// What only wide rows, CSV and JSON show.
fn details() -> Vec<C> {
    let number = |key, heading, width, get| {
        Column::<retrans>::new(key, heading, (0, width), get)
            .right()
            .shown(Shown::DETAIL)
    };
    vec![
        number("segs", "SEGS", 4, |r| told(r.body, r.body.segs)),
        number("len_bytes", "LEN", 5, |r| told(r.body, r.body.len)),
        C::new("tcp_flags", "FLAGS", (0, 11), |r| match r.body.bare {
            0 => Value::TcpFlags(r.body.tcp_flags),
            _ => Value::Unknown,
        })
        .shown(Shown::DETAIL),
        C::new("ca_state", "CA_STATE", (0, 8), |r| {
            full(r.body).map_or(Value::Unknown, |s| {
                CA_STATES
                    .get(usize::from(s.ca_state))
                    .map_or(Value::Unknown, |name| Value::Text(name))
            })
        })
        .shown(Shown::DETAIL),
        number("attempt", "TRY", 3, |r| known(r.body.attempt.into())),
        C::new("timer", "", (0, 0), |r| {
            full(r.body).map_or(Value::Unknown, |s| Value::Bool(s.timer != 0))
        })
        .shown(Shown::JSON),
        number("rto_us", "RTO_MS", 6, |r| {
            full(r.body).map_or(Value::Unknown, |s| {
                Value::Micros(u64::from(s.rto_jiffies) * jiffy_us())
            })
        }),
        number("srtt_us", "SRTT_MS", 7, |r| match r.body.srtt_us {
            0 => Value::Unknown,
            us => Value::Micros(us.into()),
        }),
        number("snd_cwnd", "CWND", 5, |r| {
            full(r.body).map_or(Value::Unknown, |s| Value::Int(s.snd_cwnd.into()))
        }),
        number("in_flight_bytes", "INFLIGHT", 8, |r| {
            full(r.body).map_or(Value::Unknown, |s| Value::Int(s.in_flight_bytes.into()))
        }),
        number("syn_queue", "SYNQ", 5, |r| queue(r.body, r.body.syn_queue)),
        number("accept_queue", "ACCQ", 5, |r| {
            queue(r.body, r.body.accept_queue)
        }),
        number("accept_queue_max", "ACCQ_MAX", 8, |r| {
            queue(r.body, r.body.accept_queue_max)
        }),
    ]
}

fn kind(body: &retrans) -> Option<(&'static str, &'static str)> {
    KINDS.get(usize::from(body.kind)).copied()
}

/// A number that no tracepoint's record has.
fn told(body: &retrans, value: u32) -> Value<'static> {
    match body.bare {
        0 => Value::Int(value.into()),
        _ => Value::Unknown,
    }
}

/// The record, if it has a connection's own fields: a listener has none of the connection that it answers.
fn full(body: &retrans) -> Option<&retrans> {
    (body.bare == 0 && (body.kind != SYNACK || body.rto_jiffies != 0)).then_some(body)
}

fn known(value: u64) -> Value<'static> {
    if value == 0 {
        Value::Unknown
    } else {
        Value::Int(value)
    }
}

fn queue(body: &retrans, length: u32) -> Value<'static> {
    if body.listener == 0 {
        Value::Unknown
    } else {
        Value::Int(length.into())
    }
}

/// The errors that `__tcp_retransmit_skb` and what it calls are known to return; the number is in JSON's `err`.
fn err_name(err: i32) -> Value<'static> {
    Value::Text(match err {
        0 => return Value::Unknown,
        1.. => "NET_XMIT_DROP",
        -1 => "EPERM",
        -11 => "EAGAIN",
        -12 => "ENOMEM",
        -16 => "EBUSY",
        -22 => "EINVAL",
        -90 => "EMSGSIZE",
        -100 => "ENETDOWN",
        -101 => "ENETUNREACH",
        -105 => "ENOBUFS",
        -113 => "EHOSTUNREACH",
        _ => return Value::Signed(err.into()),
    })
}

/// The bytes of a record without a stack.
const LEAST: usize = offset_of!(retrans, stack);

/// A row per retransmission.
struct Each(Rows<retrans>);

impl Handler for Each {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.0.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        if let Some(body) = decode_stack::<retrans>(record, LEAST) {
            out.row(|buf| self.0.row(buf, "retransmit", &(&body).into()));
        }
    }

    fn tick(&mut self, _out: &mut Printer) {
        self.0.refresh_clock();
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.0.summary(out, fields);
    }
}

/// Counts per flow.
struct PerFlow {
    counts: Counts,
    json: Rows<retrans>,
}

/// What is counted: its name in JSON, and a heading. A tracepoint's record does not tell how many segments it is of.
const SEGMENTS: (&str, &str) = ("segments", "RETRANS");
const EVENTS: (&str, &str) = ("events", "EVENTS");

fn count_columns(segments: bool) -> Vec<Column<Counted>> {
    let (_, heading) = if segments { SEGMENTS } else { EVENTS };
    let mut columns = count::columns(true, heading);
    let counted = |r: &Row<'_, Counted>| {
        Value::Text(match r.head.event {
            COUNT_EVENTS => EVENTS.0,
            _ => SEGMENTS.0,
        })
    };
    columns.push(Column::new("counted", "", (0, 0), counted).shown(Shown::JSON));
    columns
}

impl PerFlow {
    fn new(style: Style, table: Table, json: Rows<retrans>, segments: bool) -> Self {
        // In a table counts have no time of their own.
        let style = Style {
            time: style.time && style.format != Format::Table,
            ..style
        };
        let columns = count_columns(segments);
        let counts = Counts::new("tcpretrans", style, table, columns, None);
        Self { counts, json }
    }
}

impl Handler for PerFlow {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.counts.header(out);
    }

    fn shows(&self) -> tcptools::session::Shows {
        self.counts.interval().into()
    }

    /// The kernel half sends none: these are of tracepoints' records.
    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(body) = decode_stack::<retrans>(record, LEAST) {
            let (kind, n) = match body.bare {
                0 => (0, body.segs.into()),
                _ => (COUNT_EVENTS, 1),
            };
            self.counts.add(body.head(), true, kind, n);
        }
    }

    fn uncounted(&self) -> u64 {
        self.counts.uncounted()
    }

    fn finish(&mut self, out: &mut Printer) {
        self.counts.print(out);
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.json.summary(out, fields);
    }
}

/// Totals: of closed sockets from their records, of open ones from an iterator, of SYN/ACKs one by one.
struct Totals {
    talkers: Talkers,
    open: Holders,
}

impl Totals {
    fn add_total(&mut self, body: &total) {
        let sent = Sent {
            segs_out: body.sent.segs_out.into(),
            data_segs_out: body.sent.data_segs_out.into(),
            retrans: body.sent.retrans.map(u64::from),
            ..Sent::default()
        };
        self.talkers.add(body.head(), &sent);
    }

    fn print(&mut self, out: &mut Printer) {
        match self.open.run() {
            Ok(bytes) => bytes.chunks_exact(size_of::<total>()).for_each(|chunk| {
                let mut body = total::default();
                if plain::copy_from_bytes(&mut body, chunk).is_ok() {
                    self.add_total(&body);
                }
            }),
            Err(error) => {
                tcptools::message!(
                    "tcpretrans: sockets still open are not in the totals: {error:#}"
                )
            }
        }
        self.talkers.print(out);
    }
}

impl Handler for Totals {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.talkers.header(out);
    }

    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(body) = decode::<total>(record).filter(|body| body.head.event == TOTAL) {
            self.add_total(body);
        } else if let Some(body) = decode_stack::<retrans>(record, LEAST) {
            let mut sent = Sent::default();
            sent.retrans[usize::from(body.kind)] = body.segs.into();
            self.talkers.add(body.head(), &sent);
        }
    }

    fn shows(&self) -> tcptools::session::Shows {
        self.talkers.interval().into()
    }

    fn uncounted(&self) -> u64 {
        self.talkers.uncounted()
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.talkers.is_due() {
            self.print(out);
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.print(out);
    }

    fn unseen(&self) -> Unseen {
        Unseen {
            unvisited: self.open.unvisited(),
            ..Unseen::default()
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.talkers.summary(out, fields);
    }
}

/// `enum event_kind` of tcpretrans.bpf.c.
const TOTAL: u32 = 1;

/// The kind of a count of which only events are known, not segments; others are 0.
const COUNT_EVENTS: u32 = 1;

fn run(args: Args) -> Result<()> {
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    let mut style = output.style();
    style.time |= style.format == Format::Table;
    let tracepoints = ["tcp:tcp_retransmit_skb", "tcp:tcp_retransmit_synack"];
    let session = Session::new("tcpretrans", run, &tracepoints);
    if session.has_only_records() {
        let retransmits = record::Retransmits::new(&args)?;
        let rows = Rows::new("tcpretrans", style.clone(), columns(&args));
        if !args.count {
            return tcptools::record::run(&session, filter, retransmits, &mut Each(rows));
        }
        let segments = session.types().is_some();
        let mut counts = PerFlow::new(style, Table::own(MAX_FLOWS), rows, segments);
        return tcptools::record::run(&session, filter, retransmits, &mut counts);
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::TcpretransSkelBuilder::default(), &mut storage, filter)?;
    let reports_err = tracepoint::arguments("tcp_retransmit_skb") > 2;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.reports_err = reports_err;
        rodata.failed = args.failed;
        rodata.lossprobe = args.lossprobe;
        rodata.counting = args.count;
        rodata.totals = args.summary.is_some();
        rodata.stacks = args.stack;
    }
    if args.count {
        open.maps.counts.set_max_entries(MAX_FLOWS)?;
    }
    if args.summary.is_some() {
        session.enable(&mut open, "open_totals");
    }
    let mut skel = session.load(open)?;
    if (args.failed || args.lossprobe) && !reports_err {
        tcptools::message!(
            "tcpretrans: this kernel does not report attempts that fail (Linux 6.16 does): none will be shown"
        );
    }
    if args.stack && !stack::load_symbols() {
        tcptools::message!(
            "tcpretrans: the kernel hides its addresses (kernel.kptr_restrict): stacks are shown as numbers"
        );
    }
    if let Some(interval) = args.summary {
        let open = session.each_socket(skel.object_mut(), "open_totals")?;
        let talkers = Talkers::new("tcpretrans", style, args.by, args.top, interval);
        return session.run(skel.object_mut(), &mut Totals { talkers, open });
    }
    let rows = Rows::new("tcpretrans", style.clone(), columns(&args));
    if !args.count {
        return session.run(skel.object_mut(), &mut Each(rows));
    }
    let mut counts = PerFlow::new(style, Table::new(&skel.maps.counts)?, rows, true);
    session.run(skel.object_mut(), &mut counts)
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    let args = Args::parse_from(["tcpretrans", "--stack", "--failed"]);
    vec![
        Kind::row("retransmit", &columns(&args)),
        Kind::aggregate("count", &count_columns(true)),
        Talkers::kind(),
    ]
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("tcpretrans", run))
}
