// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcprcvspace: receive-buffer autotuning, a row per segment that is read from a TCP socket, or a summary of sockets whose window is
//! too small.
//!
//! Traces `tcp:tcp_rcv_space_adjust`, and `sock:inet_sock_set_state` for owners and for the end of a socket.

use std::mem::MaybeUninit;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;
use tcptools::choice::Choice;
use tcptools::cli::{self, Common, Usage};
use tcptools::holders::Holders;
use tcptools::output::schema::{self, Kind};
use tcptools::output::{Column, Rows, Shown, comm, laddr, lport, pid, raddr, rport};
use tcptools::sample::Sampling;
use tcptools::session::{Figures, Handler, Printer, Session, Unseen};
use tcptools::types::decode;
use tcptools::value::Value;

#[path = "tcprcvspace/record.rs"]
mod record;

tcptools::skeleton!("tcprcvspace");
use bpf::types::adjust;
tcptools::record!(adjust, bpf::types::head);

/// Show how the kernel tunes the receive buffers of TCP sockets, or which sockets have too small a window.
///
/// GROWTH tells whether a buffer can still grow: open (it can), max (it is at net.ipv4.tcp_rmem's maximum), locked
/// (the program set SO_RCVBUF), off (net.ipv4.tcp_moderate_rcvbuf is 0).
#[derive(Parser)]
#[command(name = "tcprcvspace")]
struct Args {
    /// Instead of samples, show each socket that its window has limited: when it is closed, or at the end
    #[arg(long)]
    summary: bool,
    /// Show these columns, by JSON key or heading; +LIST adds them to those shown anyway
    #[arg(long, value_name = "LIST")]
    columns: Option<Choice>,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    common: Common,
}

/// `enum event_kind` of tcprcvspace.bpf.c, and the row's `event` in JSON.
const EVENTS: [&str; 3] = ["adjust", "limited", "active"];

/// `enum growth` of tcprcvspace.bpf.c.
const GROWTH: [&str; 4] = ["open", "locked", "off", "max"];

type C = Column<adjust>;

fn columns(summary: bool) -> Vec<C> {
    let own = if summary { tally() } else { sample() };
    [who(), own, sizes()].into_iter().flatten().collect()
}

fn who() -> Vec<C> {
    let text = Shown::TEXT;
    vec![
        C::new("pid", "PID", (5, 7), pid).shown(text),
        C::new("comm", "COMM", (7, 16), comm).shown(text),
        C::new("laddr", "LADDR", (15, 39), laddr).shown(text),
        C::new("lport", "LPORT", (5, 5), lport).shown(text),
        C::new("raddr", "RADDR", (15, 39), raddr).shown(text),
        C::new("rport", "RPORT", (5, 5), rport).shown(text),
    ]
}

/// What one call has measured.
fn sample() -> Vec<C> {
    vec![
        C::new("copied_bytes", "COPIED", (6, 7), |r| {
            told(r.body, Value::Bytes(r.body.copied.into()))
        })
        .right(),
        C::new("measure_us", "MEASURE", (7, 7), |r| {
            told(r.body, Value::Micros(r.body.measure_us))
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("measured", "", (0, 0), |r| {
            told(r.body, Value::Bool(r.body.measured != 0))
        })
        .shown(Shown::JSON),
        C::new("queued_bytes", "QUEUED", (6, 7), |r| {
            told(r.body, Value::Bytes(r.body.queued.into()))
        })
        .right()
        .shown(Shown::DETAIL),
    ]
}

/// What all calls of a socket have, since its first one that was seen.
fn tally() -> Vec<C> {
    vec![
        C::new("limited_percent", "LIM%", (5, 5), |r| {
            let all = f64::from(r.body.measures.max(1));
            Value::Percent(f64::from(r.body.limited) * 100.0 / all)
        })
        .right(),
        C::new("limited", "LIMITED", (7, 7), |r| {
            Value::Int(r.body.limited.into())
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("measures", "MEASURES", (8, 8), |r| {
            Value::Int(r.body.measures.into())
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("max_copied_bytes", "MAXCOPIED", (9, 9), |r| {
            Value::Bytes(r.body.max_copied.into())
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("watched_us", "MS", (8, 8), |r| {
            Value::Micros(r.body.tally_ns / 1000)
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("window_rate_bytes_per_s", "MBIT/S", (6, 7), |r| {
            window_rate(r.body).map_or(Value::Unknown, Value::Rate)
        })
        .right()
        .shown(Shown::DETAIL),
    ]
}

fn sizes() -> Vec<C> {
    let json = |key, get| {
        Column::<adjust>::new(key, "", (0, 0), get)
            .right()
            .shown(Shown::JSON)
    };
    vec![
        C::new("rcvbuf_bytes", "RCVBUF", (6, 7), |r| {
            told(r.body, Value::Bytes(r.body.rcvbuf.into()))
        })
        .right(),
        C::new("growth", "GROWTH", (6, 6), |r| {
            GROWTH
                .get(usize::from(r.body.growth))
                .map_or(Value::Unknown, |growth| Value::Text(growth))
        }),
        C::new("rcv_rtt_us", "RTT", (6, 6), |r| match r.body.rcv_rtt_us {
            0 => Value::Unknown,
            us => Value::Micros(us.into()),
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("space_bytes", "SPACE", (6, 7), |r| {
            told(r.body, Value::Bytes(r.body.space.max(0) as u64))
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("window_clamp_bytes", "CLAMP", (6, 7), |r| {
            told(r.body, Value::Bytes(r.body.window_clamp.into()))
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("rcv_ssthresh_bytes", "SSTHRESH", (8, 8), |r| {
            told(r.body, Value::Bytes(r.body.rcv_ssthresh.into()))
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("rcv_wnd_bytes", "RCVWND", (6, 7), |r| {
            told(r.body, Value::Bytes(r.body.rcv_wnd.into()))
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("tcp_rmem_max_bytes", "RMEMMAX", (7, 7), |r| {
            told(r.body, Value::Bytes(r.body.rmem_max.into()))
        })
        .right()
        .shown(Shown::DETAIL),
        json("rmem_alloc_bytes", |r| {
            told(r.body, Value::Bytes(r.body.rmem_alloc.into()))
        }),
        json("calls", |r| Value::Int(r.body.calls.into())),
    ]
}

/// What no tracepoint's record has.
fn told<'a>(body: &adjust, value: Value<'a>) -> Value<'a> {
    match body.bare {
        0 => value,
        _ => Value::Unknown,
    }
}

/// What this window allows: one of it in each round trip.
fn window_rate(body: &adjust) -> Option<u64> {
    (u64::from(body.rcv_ssthresh) * 1_000_000).checked_div(body.rcv_rtt_us.into())
}

struct RcvSpace {
    rows: Rows<adjust>,
    /// The iterator over sockets that are still open.
    open: Option<Holders>,
}

impl RcvSpace {
    fn print(&mut self, body: &adjust, out: &mut Printer) {
        let event = EVENTS.get(body.head.event as usize).unwrap_or(&EVENTS[0]);
        out.row(|buf| self.rows.row(buf, event, &body.into()));
    }
}

impl Handler for RcvSpace {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        if let Some(body) = decode::<adjust>(record) {
            self.print(body, out);
        }
    }

    fn shows(&self) -> tcptools::session::Shows {
        match self.open {
            Some(_) => tcptools::session::Shows::AtTheEnd,
            None => tcptools::session::Shows::Rows,
        }
    }

    fn tick(&mut self, _out: &mut Printer) {
        self.rows.refresh_clock();
    }

    fn finish(&mut self, out: &mut Printer) {
        let Some(sockets) = &self.open else {
            return;
        };
        match sockets.run() {
            Ok(bytes) => bytes.chunks_exact(size_of::<adjust>()).for_each(|chunk| {
                let mut body = adjust::default();
                if plain::copy_from_bytes(&mut body, chunk).is_ok() {
                    self.print(&body, out);
                }
            }),
            Err(error) => {
                tcptools::message!("tcprcvspace: sockets still open are not shown: {error:#}")
            }
        }
    }

    fn unseen(&self) -> Unseen {
        Unseen {
            unvisited: self.open.as_ref().map_or(0, Holders::unvisited),
            ..Unseen::default()
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

fn refuse_what_has_no_effect(args: &Args) -> Result<()> {
    if args.common.filter.mptcp {
        let reason = "--mptcp: MPTCP tunes its receive buffers without tcp:tcp_rcv_space_adjust";
        return Err(Usage(reason.into()).into());
    }
    if args.summary && args.sampling.is_set() {
        let reason =
            "--summary counts everything; --every, --interval and --changes are for samples";
        return Err(Usage(reason.into()).into());
    }
    Ok(())
}

fn run(args: Args) -> Result<()> {
    refuse_what_has_no_effect(&args)?;
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    let columns = columns(args.summary);
    let rows = Rows::chosen(
        "tcprcvspace",
        output.style(),
        columns,
        args.columns.as_ref(),
    )?;
    let tracepoints = ["tcp:tcp_rcv_space_adjust", "sock:inet_sock_set_state"];
    let session = Session::new("tcprcvspace", run, &tracepoints);
    if session.has_only_records() {
        let samples = record::Samples::new(&args)?;
        let mut rows = RcvSpace { rows, open: None };
        return tcptools::record::run(&session, filter, samples, &mut rows);
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::TcprcvspaceSkelBuilder::default(), &mut storage, filter)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.sample_every = args.sampling.every;
        rodata.sample_interval_ns = args.sampling.interval_ns();
        rodata.sample_changes = args.sampling.changes;
        rodata.summary = args.summary;
    }
    if args.summary {
        session.enable(&mut open, "open_sockets");
    }
    let mut skel = session.load(open)?;
    let open = match args.summary {
        true => Some(session.each_socket(skel.object_mut(), "open_sockets")?),
        false => None,
    };
    session.run(skel.object_mut(), &mut RcvSpace { rows, open })
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    let kind = |event: &&'static str| Kind::row(event, &columns(*event != EVENTS[0]));
    EVENTS.iter().map(kind).collect()
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("tcprcvspace", run))
}
