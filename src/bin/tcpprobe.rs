// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpprobe: a row per segment that an established connection receives: congestion window and its companions.
//!
//! Traces `tcp:tcp_probe`, with `sock:inet_sock_set_state` and `tcp:tcp_rcv_space_adjust` for owners and, for pictures,
//! `tcp:tcp_retransmit_skb`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use libbpf_rs::skel::Skel;
use tcptools::cli::{self, Common, Usage, duration};
use tcptools::clock::Clock;
use tcptools::count::Every;
use tcptools::hist::{Hists, MAX_HISTS};
use tcptools::output::escape;
use tcptools::output::schema::{self, Kind};
use tcptools::output::{Column, Format, Rows, Shown, Style, comm, laddr, lport, pid, raddr, rport};
use tcptools::sample::Sampling;
use tcptools::session::{Figures, Handler, Printer, Session};
use tcptools::table::Table;
use tcptools::trace::{INFINITE_SSTHRESH, MAX_TRACES, Moment, Trace, Traces};
use tcptools::types::{Record, decode, head};
use tcptools::value::{Value, delivery_rate, kernel_name};
use tcptools::{plot, spark};

#[path = "tcpprobe/record.rs"]
mod record;

tcptools::skeleton!("tcpprobe");
use bpf::types::probe;
tcptools::record!(probe, bpf::types::head);

/// Show what congestion control does: a row per segment that an established connection receives.
///
/// Each row is the sender's state just before the segment is processed. S is the state of congestion control: O open,
/// D disorder, C window reduced, R fast recovery, L loss (the timer fired). A busy host has very many segments: choose
/// some connections, or sample.
#[derive(Parser)]
#[command(name = "tcpprobe")]
struct Args {
    /// Draw cwnd, ssthresh and srtt of the busiest connections over time, with losses marked, into this file
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Instead of rows, a sparkline of cwnd and srtt per connection, every second or at --refresh
    #[arg(long, conflicts_with = "plot")]
    live: bool,
    /// Instead of rows, count round-trip times in the kernel: one histogram, or one per address or port
    #[arg(long, value_name = "BY", num_args = 0..=1, require_equals = true, default_missing_value = "all", conflicts_with_all = ["plot", "live", "every", "interval", "changes"])]
    hist: Option<By>,
    /// Show --hist or --live at this interval
    #[arg(short = 'i', long, value_name = "TIME", value_parser = duration)]
    refresh: Option<Duration>,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    common: Common,
}

/// What there is one histogram for each of: `enum hist_by` of tcpprobe.bpf.c.
#[derive(Clone, Copy, ValueEnum)]
enum By {
    /// One for all
    All = 1,
    /// Local address
    Laddr,
    /// Remote address
    Raddr,
    /// Local port
    Lport,
    /// Remote port
    Rport,
}

impl By {
    fn key(self) -> &'static str {
        match self {
            Self::All | Self::Raddr => "raddr",
            Self::Laddr => "laddr",
            Self::Lport => "lport",
            Self::Rport => "rport",
        }
    }
}

/// `enum tcp_ca_state` (include/uapi/linux/tcp.h, ABI), and its letter in the narrow table.
const CA_STATES: [(&str, &str); 5] = [
    ("open", "O"),
    ("disorder", "D"),
    ("cwr", "C"),
    ("recovery", "R"),
    ("loss", "L"),
];

/// `enum event_kind` of tcpprobe.bpf.c.
const PROBE_RETRANSMIT: u32 = 1;

fn ca_state(body: &probe) -> Option<(&'static str, &'static str)> {
    let unknown = ("unknown", "?");
    let known = CA_STATES.get(usize::from(body.ca_state));
    (body.bare == 0).then(|| *known.unwrap_or(&unknown))
}

// ---------------------------------------------------------------- columns

type C = Column<probe>;

/// A number that a field of the record is.
macro_rules! int {
    ($field:ident) => {
        |r| Value::Int(r.body.$field.into())
    };
}

/// The same for one that no tracepoint's record has.
macro_rules! told {
    ($field:ident) => {
        |r| told(r.body, Value::Int(r.body.$field.into()))
    };
}

fn told<'a>(body: &probe, value: Value<'a>) -> Value<'a> {
    match body.bare {
        0 => value,
        _ => Value::Unknown,
    }
}

fn columns() -> Vec<C> {
    let text = Shown::TEXT;
    let wide = Shown::WIDE.or(Shown::JSON);
    vec![
        C::new("pid", "PID", (5, 7), pid).shown(Shown::WIDE),
        C::new("comm", "COMM", (10, 16), comm).shown(Shown::WIDE),
        C::new("laddr", "LADDR", (15, 39), laddr).shown(text),
        C::new("lport", "LPORT", (5, 5), lport).shown(text),
        C::new("raddr", "RADDR", (15, 39), raddr).shown(text),
        C::new("rport", "RPORT", (5, 5), rport).shown(text),
        C::new("snd_cwnd", "CWND", (5, 6), int!(snd_cwnd)).right(),
        C::new("ssthresh", "SSTHR", (5, 6), |r| {
            let finite = r.body.ssthresh < INFINITE_SSTHRESH && r.body.ssthresh != 0; // 0: not in the record
            finite
                .then_some(r.body.ssthresh.into())
                .map_or(Value::Unknown, Value::Int)
        })
        .right(),
        C::new("packets_in_flight", "INFL", (4, 6), |r| {
            told(r.body, Value::Int(in_flight(r.body).into()))
        })
        .right(),
        C::new("srtt_us", "SRTT_MS", (7, 7), |r| match r.body.srtt_us {
            0 => Value::Unknown,
            us => Value::Micros(us.into()),
        })
        .right(),
        C::new("data_len", "LEN", (5, 6), int!(data_len)).right(),
        C::new("total_retrans", "RTX", (3, 6), told!(total_retrans)).right(),
        C::new("", "S", (1, 1), |r| {
            ca_state(r.body).map_or(Value::Unknown, |s| Value::Text(s.1))
        })
        .shown(Shown::NARROW),
        C::new("ca_state", "CA_STATE", (8, 8), |r| {
            ca_state(r.body).map_or(Value::Unknown, |s| Value::Text(s.0))
        })
        .shown(Shown::DETAIL),
        C::new("ca_name", "CA", (8, 8), |r| {
            kernel_name(&r.body.ca_name).map_or(Value::Unknown, Value::Text)
        })
        .shown(Shown::DETAIL),
        C::new("snd_wnd", "SND_KB", (6, 6), |r| {
            Value::Bytes(r.body.snd_wnd.into())
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("rcv_wnd", "RCV_KB", (6, 6), |r| {
            Value::Bytes(r.body.rcv_wnd.into())
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("bytes_in_flight", "INFL_KB", (7, 7), |r| {
            Value::Bytes(unacked(r.body).into())
        })
        .right()
        .shown(wide),
        C::new("delivery_rate_bytes_per_s", "MBIT/S", (6, 6), |r| {
            delivery_rate(r.body.rate_delivered, r.body.mss, r.body.rate_interval_us)
                .map_or(Value::Unknown, Value::Rate)
        })
        .right()
        .shown(wide),
        C::new(
            "pacing_rate_bytes_per_s",
            "PACE_MBIT/S",
            (11, 11),
            |r| match r.body.pacing_rate {
                u64::MAX => Value::Unknown,
                rate => Value::Rate(rate),
            },
        )
        .right()
        .shown(wide),
        C::new("snd_nxt", "", (0, 0), int!(snd_nxt)).shown(Shown::JSON),
        C::new("snd_una", "", (0, 0), int!(snd_una)).shown(Shown::JSON),
        C::new("mss", "", (0, 0), told!(mss)).shown(Shown::JSON),
        C::new("packets_out", "", (0, 0), told!(packets_out)).shown(Shown::JSON),
        C::new("sacked_out", "", (0, 0), told!(sacked_out)).shown(Shown::JSON),
        C::new("lost_out", "", (0, 0), told!(lost_out)).shown(Shown::JSON),
        C::new("retrans_out", "", (0, 0), told!(retrans_out)).shown(Shown::JSON),
        C::new("retransmits", "", (0, 0), told!(retransmits)).shown(Shown::JSON),
        C::new("delivery_rate_app_limited", "", (0, 0), |r| {
            told(r.body, Value::Bool(r.body.app_limited != 0))
        })
        .shown(Shown::JSON),
    ]
}

/// As `include/net/tcp.h: tcp_packets_in_flight` has it.
fn in_flight(p: &probe) -> u32 {
    let left = p.sacked_out.wrapping_add(p.lost_out);
    p.packets_out.wrapping_sub(left).wrapping_add(p.retrans_out)
}

/// Bytes sent and not acknowledged.
fn unacked(p: &probe) -> u32 {
    p.snd_nxt.wrapping_sub(p.snd_una)
}

// ---------------------------------------------------------------- rows

/// Rows for so many segments a second, and no one asked for some of them: worth a word.
const BUSY: u64 = 5000;

struct Probe {
    rows: Rows<probe>,
    /// What is drawn at the end, if anything is.
    traces: Option<Traces>,
    /// Since when segments are counted, and how many came; `None` when it does not matter (any more).
    busy: Option<(Instant, u64)>,
}

impl Probe {
    fn new(rows: Rows<probe>, args: &Args) -> Self {
        let watched = !args.common.filter.is_set() && !args.sampling.is_set();
        Self {
            rows,
            traces: None,
            busy: watched.then(|| (Instant::now(), 0)),
        }
    }

    fn warn_if_busy(&mut self) {
        let Some((since, count)) = &mut self.busy else {
            return;
        };
        let second = since.elapsed() >= Duration::from_secs(1);
        if *count >= BUSY {
            tcptools::message!(
                "tcpprobe: more than {BUSY} segments a second, and a row for each: a filter (-D 443, --raddr), --every, --interval or --changes makes it cheaper"
            );
            self.busy = None;
        } else if second {
            self.busy = Some((Instant::now(), 0));
        }
    }
}

impl Handler for Probe {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(body) = decode::<probe>(record) else {
            return;
        };
        if let Some(traces) = &mut self.traces {
            follow(traces, body);
        }
        if body.head.event == PROBE_RETRANSMIT {
            return;
        }
        if let Some((_, count)) = &mut self.busy {
            *count += 1;
        }
        out.row(|buf| self.rows.row(buf, "sample", &body.into()));
    }

    fn tick(&mut self, _out: &mut Printer) {
        self.rows.refresh_clock();
        self.warn_if_busy();
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

// ---------------------------------------------------------------- pictures

fn follow(traces: &mut Traces, body: &probe) {
    let Some(trace) = traces.get(body.head.cookie) else {
        return;
    };
    let pid = body.head().pid();
    if trace.title.is_empty() || trace.pid != pid {
        trace.title = title(body);
        trace.pid = pid;
    }
    let now = Moment {
        boot_ns: body.head.boot_ns,
        cwnd: body.snd_cwnd,
        ssthresh: body.ssthresh,
        srtt_us: body.srtt_us,
        ca_state: body.ca_state,
        retransmits: body.retransmits,
        snd_una: body.snd_una,
        total_retrans: body.total_retrans,
    };
    if body.head.event == PROBE_RETRANSMIT {
        trace.retransmit(now);
    } else {
        trace.sample(now);
    }
}

/// `10.0.0.1:443 → 10.0.0.2:50000 · nginx (pid 812), cubic`
fn title(body: &probe) -> String {
    let flow = &body.head().flow;
    let local = body.head().local().with_port(flow.lport);
    let remote = body.head().remote().with_port(flow.rport);
    let owner = owner(body.head());
    let ca = escape::text(kernel_name(&body.ca_name).unwrap_or("?"));
    format!("{local} → {remote} · {owner}{ca}")
}

fn owner(head: &head) -> String {
    let (Some(pid), Some(comm)) = (head.pid(), head.comm()) else {
        return String::new();
    };
    let mut name = Vec::new();
    Value::Comm(comm).table(&mut name);
    format!("{} (pid {pid}), ", String::from_utf8_lossy(&name))
}

/// Opened before the privileges are dropped, and written when all is seen. A file that is there keeps its content
/// until then.
struct Picture {
    path: PathBuf,
    file: File,
}

impl Picture {
    fn create(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file })
    }

    fn write(mut self, traces: &Traces) -> Result<()> {
        let busiest = traces.busiest();
        let shown = busiest.len().min(plot::MAX_PLOTS);
        let mut note = format!("tcpprobe: {shown} of {} connections", busiest.len());
        if busiest.len() > shown {
            note += ", those with most samples";
        }
        if traces.refused != 0 {
            note += &format!("; {} samples of others beyond {MAX_TRACES}", traces.refused);
        }
        let mut clock = Clock::default();
        let start = |ns| {
            let (second, ns) = clock.rfc3339(ns);
            format!("{second}.{:03}Z", ns / 1_000_000)
        };
        let svg = plot::svg(&busiest, start, &note)?;
        let written = self
            .file
            .set_len(0)
            .and_then(|()| self.file.write_all(svg.as_bytes()));
        written.with_context(|| format!("cannot write {}", self.path.display()))?;
        if shown < busiest.len() || traces.refused != 0 {
            tcptools::message!("{note}");
        }
        Ok(())
    }

    /// A picture that will not be drawn leaves no empty file behind.
    fn discard(self) {
        if self
            .file
            .metadata()
            .is_ok_and(|m| m.is_file() && m.len() == 0)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

// ---------------------------------------------------------------- terminal

/// Characters of a sparkline.
const SPARK: usize = 60;

struct Live {
    style: Style,
    clock: Clock,
    traces: Traces,
    every: Every,
    since: u64,
}

impl Live {
    fn print(&mut self, out: &mut Printer) {
        let now = tcptools::clock::boot_ns();
        let traces = std::mem::take(&mut self.traces);
        self.clock.refresh();
        let busiest = traces.busiest();
        for trace in busiest.iter().take(plot::MAX_PLOTS) {
            let (since, clock, style) = (self.since, &mut self.clock, &self.style);
            out.row(|buf| spark_rows(buf, trace, (since, now), style, clock));
        }
        let others = busiest.len().saturating_sub(plot::MAX_PLOTS);
        if others != 0 || traces.refused != 0 {
            tcptools::message!(
                "tcpprobe: {others} more connections and {} samples of others",
                traces.refused
            );
        }
        self.since = now;
    }
}

fn spark_rows(
    out: &mut Vec<u8>,
    trace: &Trace,
    time: (u64, u64),
    style: &Style,
    clock: &mut Clock,
) {
    if style.time {
        let _ = write!(out, "{} ", clock.local_time(time.1));
    }
    let last = trace.last();
    let _ = writeln!(
        out,
        "{}, {}: {} samples, {} sent again, {} RTO",
        trace.title,
        CA_STATES.get(last.ca_state as usize).map_or("?", |s| s.0),
        trace.samples,
        trace.retransmitted(),
        trace.rtos
    );
    let (low, high) = trace.cwnd.range().unwrap_or_default();
    let line = spark::line(trace.cwnd.points(), time.0, time.1, SPARK);
    let _ = writeln!(out, "  cwnd {line} {low}..{high}, now {}", last.cwnd);
    let (low, high) = trace.srtt.range().unwrap_or_default();
    let line = spark::line(trace.srtt.points(), time.0, time.1, SPARK);
    let ms = |us: u32| f64::from(us) / 1e3;
    let _ = writeln!(
        out,
        "  srtt {line} {:.3}..{:.3}, now {:.3} ms",
        ms(low),
        ms(high),
        ms(last.srtt_us)
    );
}

impl Handler for Live {
    fn header(&mut self, _out: &mut Vec<u8>) {}

    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(body) = decode::<probe>(record) {
            follow(&mut self.traces, body);
        }
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.print(out);
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.print(out);
    }

    fn summary(&mut self, _out: &mut Vec<u8>, _fields: &Figures) {}
}

// ---------------------------------------------------------------- histograms

struct Histograms {
    hists: Hists,
    by: By,
    /// Only for the summary.
    rows: Rows<probe>,
}

impl Histograms {
    fn new(style: Style, table: Table, by: By, args: &Args, rows: Rows<probe>) -> Self {
        let unit = ("usecs", "us");
        let hists = Hists::new("tcpprobe", style, table, unit, args.refresh).by(by.key());
        Self { hists, by, rows }
    }

    /// count_srtt() of tcpprobe.bpf.c.
    fn add(&mut self, body: &probe) {
        let mut flow = body.head().flow;
        let value = u64::from(body.srtt_us);
        match self.by {
            _ if value == 0 => {}
            By::All => self.hists.add(None, 0, value),
            By::Raddr => self.hists.add(Some(&flow), 0, value),
            By::Laddr => {
                flow.raddr = flow.laddr;
                self.hists.add(Some(&flow), 0, value);
            }
            By::Lport => self.hists.add(None, flow.lport.into(), value),
            By::Rport => self.hists.add(None, flow.rport.into(), value),
        }
    }
}

impl Handler for Histograms {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.hists.header(out);
    }

    /// The kernel half sends none: these are of tracepoints' records.
    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(body) = decode::<probe>(record) {
            self.add(body);
        }
    }

    fn uncounted(&self) -> u64 {
        self.hists.uncounted()
    }

    fn tick(&mut self, out: &mut Printer) {
        self.hists.tick(out);
    }

    fn finish(&mut self, out: &mut Printer) {
        self.hists.print(out);
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

// ---------------------------------------------------------------- main

fn check(args: &Args) -> Result<(), Usage> {
    if args.live && args.common.output.style().format != Format::Table {
        return Err(Usage(
            "--live is for people: there is no JSON or CSV of it".into(),
        ));
    }
    if args.refresh.is_some() && !args.live && args.hist.is_none() {
        return Err(Usage("--refresh goes with --hist or --live".into()));
    }
    Ok(())
}

fn run(args: Args) -> Result<()> {
    check(&args)?;
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    let style = output.style();
    let session = Session::new("tcpprobe", run, &["tcp:tcp_probe"]);
    if session.has_only_records() {
        let samples = record::Samples::new(&args)?;
        let rows = Rows::new("tcpprobe", style.clone(), columns());
        if let Some(by) = args.hist {
            let mut hists = Histograms::new(style, Table::own(MAX_HISTS), by, &args, rows);
            return tcptools::record::run(&session, filter, samples, &mut hists);
        }
        return tcptools::record::run(&session, filter, samples, &mut Probe::new(rows, &args));
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::TcpprobeSkelBuilder::default(), &mut storage, filter)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.sampled = args.sampling.is_set();
        rodata.sample_every = args.sampling.every;
        rodata.sample_interval_ns = args.sampling.interval_ns();
        rodata.sample_changes = args.sampling.changes;
        rodata.hist_by = args.hist.map_or(0, |by| by as u32);
    }
    if args.hist.is_some() {
        open.maps.hists.set_max_entries(MAX_HISTS)?;
    }
    open.progs
        .retransmit
        .set_autoload(args.plot.is_some() || args.live);
    let mut skel = session.load(open)?;
    let rows = Rows::new("tcpprobe", style.clone(), columns());
    if let Some(by) = args.hist {
        let table = Table::new(&skel.maps.hists)?;
        let mut hists = Histograms::new(style, table, by, &args, rows);
        return session.run(skel.object_mut(), &mut hists);
    }
    if args.live {
        let every = Every::new(Some(args.refresh.unwrap_or(Duration::from_secs(1))));
        let (clock, traces) = (Clock::default(), Traces::default());
        let since = tcptools::clock::boot_ns();
        let mut live = Live {
            style,
            clock,
            traces,
            every,
            since,
        };
        return session.run(skel.object_mut(), &mut live);
    }
    let picture = args.plot.as_deref().map(Picture::create).transpose()?;
    let mut probe = Probe::new(rows, &args);
    probe.traces = picture.is_some().then(Traces::default);
    let result = session.run(skel.object_mut(), &mut probe);
    match (picture, &probe.traces) {
        (Some(picture), Some(traces)) if result.is_ok() => picture.write(traces)?,
        (Some(picture), _) => picture.discard(),
        (None, _) => {}
    }
    result
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    vec![Kind::row("sample", &columns()), Hists::kind()]
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("tcpprobe", run))
}
