// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpinfo: a row per TCP socket as it is destroyed, with the final statistics of its last connection.
//!
//! Traces `tcp:tcp_destroy_sock`, with `sock:inet_sock_set_state` for the statistics before `tcp_disconnect` clears
//! them, and `tcp:tcp_rcv_space_adjust` for the owner of an accepted socket.

use std::mem::{MaybeUninit, offset_of};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;
use tcptools::choice::Choice;
use tcptools::cli::{self, Common, Usage};
use tcptools::clock;
use tcptools::diag::TcpInfo;
use tcptools::names::tcp_state;
use tcptools::output::schema::{self, Kind};
use tcptools::output::{Column, Rows, Shown, comm, laddr, lport, pid, raddr, rport};
use tcptools::session::{EachRow, Session};
use tcptools::value::{Value, delivery_rate, kernel_name};

#[path = "tcpinfo/record.rs"]
mod record;

tcptools::skeleton!("tcpinfo");
use bpf::types::info;
tcptools::record!(info, bpf::types::head);

/// Show the final statistics of every TCP socket as it is destroyed: the fields of `ss -ti`, after the fact.
///
/// They are those of the socket's last connection, or attempt at one, when it became CLOSE.
#[derive(Parser)]
#[command(name = "tcpinfo")]
struct Args {
    /// Show listeners and sockets that were never connected, too
    #[arg(long)]
    all: bool,
    /// Show these columns, by JSON key or heading; +LIST adds them to those shown anyway
    #[arg(long, value_name = "LIST")]
    columns: Option<Choice>,
    #[command(flatten)]
    common: Common,
}

/// `enum use` of tcpinfo.bpf.c, and the row's `event` in JSON.
const EVENTS: [&str; 4] = ["unused", "listener", "attempt", "connection"];
const UNUSED: u32 = 0;
const LISTENER: u32 = 1;
const ATTEMPT: u32 = 2;
const CONNECTION: u32 = 3;

/// `enum tcp_ca_state` of include/uapi/linux/tcp.h.
const CA_STATES: [&str; 5] = ["Open", "Disorder", "CWR", "Recovery", "Loss"];

/// `TCPI_OPT_*` of include/uapi/linux/tcp.h by bit, in the words of ss.
const OPTIONS: [Option<&str>; 8] = [
    Some("ts"),
    Some("sack"),
    Some("wscale"),
    Some("ecn"),
    Some("ecnseen"),
    Some("fastopen"),
    None,
    Some("fastopen_child"),
];

type C = Column<info>;

/// A value of the field of `struct tcp_info`, which is not known where only tracepoints' records are and that is not told.
macro_rules! told {
    ($row:ident, $field:ident, $value:expr) => {
        match is_told($row.body, offset_of!(TcpInfo, $field)) {
            true => $value,
            false => Value::Unknown,
        }
    };
}

/// An integer of that name in `struct tcp_info`, that JSON always shows and the tables on request.
macro_rules! more {
    ($key:literal, $field:ident) => {
        Column::<info>::new($key, "", (0, 0), |r| {
            told!(r, $field, Value::Int(r.body.$field.into()))
        })
        .right()
        .shown(Shown::JSON)
    };
}

/// Whether what lies at this offset of `struct tcp_info` is known.
fn is_told(body: &info, offset: usize) -> bool {
    body.bare == 0 || offset < usize::from(body.bare - 1) * 4
}

/// What the kernel has cleared by the time that it tells of a socket.
fn at_close<'a>(body: &info, value: Value<'a>) -> Value<'a> {
    match body.bare {
        0 => value,
        _ => Value::Unknown,
    }
}

fn columns() -> Vec<C> {
    [who(), amounts(), times(), windows()]
        .into_iter()
        .flatten()
        .collect()
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
        C::new("state", "STATE", (11, 11), |r| {
            Value::Text(tcp_state(r.body.state))
        })
        .shown(Shown::DETAIL),
        C::new("errno", "", (0, 0), |r| {
            at_close(r.body, Value::Int(r.body.error.unsigned_abs().into()))
        })
        .shown(Shown::JSON),
        C::new("duration_us", "MS", (8, 8), |r| {
            known(r.body.duration_ns / 1000, 0, Value::Micros)
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("closed_us", "", (0, 0), |r| {
            Value::Micros(r.head.boot_ns.saturating_sub(r.body.close_ns) / 1000)
        })
        .shown(Shown::JSON),
        C::new("uses", "", (0, 0), |r| {
            known(r.body.uses.into(), u32::MAX.into(), Value::Int)
        })
        .right()
        .shown(Shown::JSON),
    ]
}

fn amounts() -> Vec<C> {
    vec![
        C::new("bytes_sent", "SENT_KB", (7, 7), |r| {
            told!(r, bytes_sent, Value::Bytes(r.body.bytes_sent))
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("bytes_acked", "ACKED", (5, 7), |r| {
            told!(r, bytes_acked, Value::Bytes(r.body.bytes_acked))
        })
        .right(),
        C::new("bytes_received", "RECVD", (5, 7), |r| {
            told!(r, bytes_received, Value::Bytes(r.body.bytes_received))
        })
        .right(),
        C::new("bytes_retrans", "RETR_KB", (7, 7), |r| {
            told!(r, bytes_retrans, Value::Bytes(r.body.bytes_retrans))
        })
        .right()
        .shown(Shown::DETAIL),
        more!("segs_out", segs_out),
        more!("segs_in", segs_in),
        more!("data_segs_out", data_segs_out),
        more!("data_segs_in", data_segs_in),
        C::new("total_retrans", "RETR", (4, 5), |r| {
            told!(r, total_retrans, Value::Int(r.body.total_retrans.into()))
        })
        .right(),
        C::new("total_rto", "", (0, 0), |r| {
            told!(
                r,
                total_rto,
                known(r.body.total_rto.into(), u32::MAX.into(), Value::Int)
            )
        })
        .right()
        .shown(Shown::JSON),
        more!("retransmits", retransmits),
        C::new("backoff", "", (0, 0), |r| {
            at_close(r.body, Value::Int(r.body.backoff.into()))
        })
        .right()
        .shown(Shown::JSON),
        C::new("unacked", "", (0, 0), |r| {
            at_close(r.body, Value::Int(r.body.unacked.into()))
        })
        .right()
        .shown(Shown::JSON),
        more!("sacked", sacked),
        more!("lost", lost),
        more!("retrans", retrans),
        C::new("notsent_bytes", "", (0, 0), |r| {
            told!(r, notsent_bytes, Value::Bytes(r.body.notsent.into()))
        })
        .right()
        .shown(Shown::JSON),
        more!("delivered", delivered),
        more!("delivered_ce", delivered_ce),
        more!("dsack_dups", dsack_dups),
        C::new("reord_seen", "REORD", (5, 5), |r| {
            told!(r, reord_seen, Value::Int(r.body.reord_seen.into()))
        })
        .right()
        .shown(Shown::DETAIL),
        more!("reordering", reordering),
        more!("rcv_ooopack", rcv_ooopack),
    ]
}

fn times() -> Vec<C> {
    vec![
        C::new("rtt_us", "RTT", (5, 6), |r| {
            known(r.body.rtt_us.into(), 0, Value::Micros)
        })
        .right(),
        C::new("rttvar_us", "RTTVAR", (6, 6), |r| {
            known(r.body.rtt_us.into(), 0, |_| {
                Value::Micros(r.body.rttvar_us.into())
            })
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("min_rtt_us", "MINRTT", (6, 6), |r| {
            told!(
                r,
                min_rtt,
                known(r.body.min_rtt_us.into(), u32::MAX.into(), Value::Micros)
            )
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("rcv_rtt_us", "", (0, 0), |r| {
            known(r.body.rcv_rtt_us.into(), 0, Value::Micros)
        })
        .right()
        .shown(Shown::JSON),
        C::new("rto_us", "RTO", (6, 6), |r| {
            told!(r, rto, Value::Micros(r.body.rto_us.into()))
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("busy_time_us", "BUSY", (6, 6), |r| {
            told!(r, busy_time, known(r.body.busy_us, u64::MAX, Value::Micros))
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("rwnd_limited_us", "RWNDLIM", (7, 7), |r| {
            told!(
                r,
                rwnd_limited,
                known(r.body.rwnd_limited_us, u64::MAX, Value::Micros)
            )
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("sndbuf_limited_us", "SNDBUFLIM", (9, 9), |r| {
            told!(
                r,
                sndbuf_limited,
                known(r.body.sndbuf_limited_us, u64::MAX, Value::Micros)
            )
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("last_data_sent_us", "", (0, 0), |r| {
            at_close(r.body, ago(r.body.data_segs_out, r.body.last_data_sent_ms))
        })
        .right()
        .shown(Shown::JSON),
        C::new("last_data_recv_us", "", (0, 0), |r| {
            at_close(r.body, ago(r.body.data_segs_in, r.body.last_data_recv_ms))
        })
        .right()
        .shown(Shown::JSON),
        C::new("last_ack_recv_us", "", (0, 0), |r| {
            at_close(r.body, ago(r.body.segs_in, r.body.last_ack_recv_ms))
        })
        .right()
        .shown(Shown::JSON),
    ]
}

fn windows() -> Vec<C> {
    vec![
        C::new("ca_name", "CA", (8, 8), |r| {
            kernel_name(&r.body.ca_name).map_or(Value::Unknown, Value::Text)
        })
        .shown(Shown::DETAIL),
        C::new("ca_state", "CASTATE", (8, 8), |r| {
            let name = CA_STATES.get(usize::from(r.body.ca_state)).copied();
            told!(r, ca_state, name.map_or(Value::Unknown, Value::Text))
        })
        .shown(Shown::DETAIL),
        C::new("snd_cwnd", "CWND", (5, 5), |r| {
            told!(r, snd_cwnd, Value::Int(r.body.snd_cwnd.into()))
        })
        .right()
        .shown(Shown::DETAIL),
        // TCP_INFINITE_SSTHRESH of include/net/tcp.h: still in the first slow start.
        C::new("snd_ssthresh", "SSTHRESH", (8, 8), |r| {
            told!(
                r,
                snd_ssthresh,
                known(r.body.snd_ssthresh.into(), 0x7fff_ffff, Value::Int)
            )
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("snd_mss", "MSS", (5, 5), |r| {
            told!(r, snd_mss, Value::Int(r.body.snd_mss.into()))
        })
        .right()
        .shown(Shown::DETAIL),
        more!("rcv_mss", rcv_mss),
        more!("advmss", advmss),
        more!("pmtu", pmtu),
        C::new("snd_wscale", "SWS", (3, 3), |r| {
            scale(r.body, r.body.snd_wscale)
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("rcv_wscale", "RWS", (3, 3), |r| {
            scale(r.body, r.body.rcv_wscale)
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("snd_wnd_bytes", "", (0, 0), |r| {
            told!(r, snd_wnd, Value::Bytes(r.body.snd_wnd.into()))
        })
        .right()
        .shown(Shown::JSON),
        C::new("rcv_wnd_bytes", "", (0, 0), |r| {
            told!(r, rcv_wnd, Value::Bytes(r.body.rcv_wnd.into()))
        })
        .right()
        .shown(Shown::JSON),
        C::new("rcv_ssthresh_bytes", "", (0, 0), |r| {
            told!(r, rcv_ssthresh, Value::Bytes(r.body.rcv_ssthresh.into()))
        })
        .right()
        .shown(Shown::JSON),
        C::new("rcv_space_bytes", "", (0, 0), |r| {
            told!(r, rcv_space, Value::Bytes(r.body.rcv_space.into()))
        })
        .right()
        .shown(Shown::JSON),
        C::new("pacing_rate_bytes_per_s", "", (0, 0), |r| {
            told!(
                r,
                pacing_rate,
                known(r.body.pacing_rate, u64::MAX, Value::Rate)
            )
        })
        .right()
        .shown(Shown::JSON),
        C::new("delivery_rate_bytes_per_s", "MBIT/S", (6, 6), |r| {
            let rate = match r.body.bare {
                0 => delivery_rate(
                    r.body.rate_delivered,
                    r.body.snd_mss,
                    r.body.rate_interval_us,
                ),
                _ => Some(r.body.delivery_rate).filter(|&rate| rate != 0),
            };
            rate.map_or(Value::Unknown, Value::Rate)
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("delivery_rate_app_limited", "", (0, 0), |r| {
            told!(r, state, Value::Bool(r.body.app_limited != 0))
        })
        .shown(Shown::JSON),
        C::new("options", "OPTIONS", (16, 16), |r| options(r.body.options)).shown(Shown::DETAIL),
    ]
}

/// `Value::Unknown` for the number that stands for it in the kernel.
fn known<'a>(value: u64, unknown: u64, make: impl FnOnce(u64) -> Value<'a>) -> Value<'a> {
    if value == unknown {
        Value::Unknown
    } else {
        make(value)
    }
}

/// How long before CLOSE something last happened, if it ever did.
fn ago(count: u32, ms: u32) -> Value<'static> {
    known(count.into(), 0, |_| Value::Micros(u64::from(ms) * 1000))
}

/// The shift is defined only where both ends offered the option.
fn scale(body: &info, shift: u8) -> Value<'static> {
    known((body.options >> 2 & 1).into(), 0, |_| {
        Value::Int(shift.into())
    })
}

/// The words of all combinations, made once: a row allocates nothing.
fn options(bits: u32) -> Value<'static> {
    static WORDS: std::sync::LazyLock<Vec<String>> = std::sync::LazyLock::new(|| {
        let words = |bits: usize| -> Vec<&str> {
            let set = |&(i, _): &(usize, &Option<&str>)| bits >> i & 1 == 1;
            OPTIONS
                .iter()
                .enumerate()
                .filter(set)
                .filter_map(|(_, word)| *word)
                .collect()
        };
        (0..256).map(|bits| words(bits).join(" ")).collect()
    });
    match WORDS[bits as usize & 0xff].as_str() {
        "" => Value::Unknown,
        words => Value::Text(words),
    }
}

fn event(body: &info) -> &'static str {
    EVENTS.get(body.head.event as usize).unwrap_or(&EVENTS[0])
}

fn run(args: Args) -> Result<()> {
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    if filter.mptcp {
        let reason = "--mptcp: only TCP sockets, subflows included, pass tcp:tcp_destroy_sock";
        return Err(Usage(reason.into()).into());
    }
    let rows = Rows::chosen("tcpinfo", output.style(), columns(), args.columns.as_ref())?;
    let tracepoints = ["tcp:tcp_destroy_sock", "sock:inet_sock_set_state"];
    let session = Session::new("tcpinfo", run, &tracepoints);
    if session.has_only_records() {
        let sockets = record::Sockets::new(&args);
        let mut each = EachRow { rows, event };
        return tcptools::record::run(&session, filter, sockets, &mut each);
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::TcpinfoSkelBuilder::default(), &mut storage, filter)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.jiffy_us = clock::jiffy_us() as u32;
        rodata.all = args.all;
    }
    let mut skel = session.load(open)?;
    session.run(skel.object_mut(), &mut EachRow { rows, event })
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    EVENTS.map(|event| Kind::row(event, &columns())).into()
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("tcpinfo", run))
}
