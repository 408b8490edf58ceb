// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcplat: where the time of a request goes: a row per turn of a connection, or sums and histograms of turns.
//!
//! Traces `sock:sock_send_length`, `sock:sock_recv_length` and `sock:sk_data_ready`, with `sock:inet_sock_set_state` for
//! who opened a connection and `tcp:tcp_rcv_space_adjust` for the owner of an accepted one.

mod columns;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod hist;
mod parts;
mod summary;

use std::process::ExitCode;
use std::time::Duration;

use crate::aggregate::by::By;
use crate::aggregate::group::bits;
use crate::aggregate::hist_keys::{self, ALL};
use crate::aggregate::{histograms::MAX_HISTS, keys::Keys, table::Table};
use crate::cli::{self, Common, duration, milliseconds, sampling::Sampling, whole};
use crate::error::Usage;
use crate::fallback::refusal;
use crate::kernel::clock;
use crate::output::{Rows, Sort};
use crate::session::{EachRow, Session, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::turn;
use columns::{columns, kinds};
use hist::Histograms;
use summary::Summary;

crate::skeleton!("tcplat");

crate::record!(turn, bpf::types::head);

/// Show where the time of requests goes: the application, the network, or the other end.
///
/// One line per turn. A server's (S: it accepted the connection) is from its last receive to its first send, a client's
/// (C: it connected) from its last send to its first receive. UNREAD is how long data waited for its reader, MINRTT the
/// shortest round trip, WHERE the largest part: app, read (data waited for its reader), network, peer (the other end).
#[derive(Parser)]
#[command(name = "tcplat")]
#[command(mut_arg("changes", |a| a.hide(true)))]
struct Args {
    /// Show only turns that took at least MS milliseconds, or whose data waited unread so long
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    min_ms: Option<Duration>,
    /// Print histograms instead of turns: of servers' and clients' turns, and of how long data waited unread; for all, or for each KEY: raddr, or several as comm,lport
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(ALL), num_args = 0..=1, require_equals = true, default_missing_value = "all", conflicts_with = "summary")]
    hist: Option<Keys>,
    /// Print --hist every TIME, and on exit
    #[arg(short = 'i', long, value_name = "TIME", value_parser = duration, requires = "hist")]
    refresh: Option<Duration>,
    /// Print totals with percentiles instead of turns, on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    summary: Option<Option<Duration>>,
    /// Make totals or histograms by KEY: comm, or several as comm,lport; totals also by the server's end: comm,server [default: comm for totals, all for histograms]
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(&[BY_SERVER]))]
    by: Option<Keys>,
    /// Sort totals by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "summary",
        allow_hyphen_values = true
    )]
    sort: Option<Sort>,
    /// Print only the N totals with most time; 0: all [default: 20 in a table, all in JSON and CSV]
    #[arg(long, value_name = "N", requires = "summary", value_parser = whole(0..=u32::MAX))]
    top: Option<u32>,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    common: Common,
}

crate::enumerators! { bpf::types::mode as u32: HIST = MODE_HIST, SUMMARY = MODE_SUMMARY }

impl Args {
    fn keys(&self) -> Keys {
        self.by.clone().unwrap_or_else(|| Keys::of(By::Comm))
    }

    fn refuse_what_has_no_effect(&self) -> Result<(), Usage> {
        let why = if self.common.filter.mptcp {
            "--mptcp: an MPTCP connection's calls are not those of its subflows, and are not followed"
        } else if self.sampling.changes {
            "--changes: turns have no congestion window; use --every or --interval"
        } else {
            return Ok(());
        };
        Err(Usage(why.into()))
    }
}

/// A key of this command's own, for totals: the address and port of the server, at whichever end that is.
const BY_SERVER: &str = "server";

/// The tracepoints that it cannot do without: since Linux 6.3.
const TRACEPOINTS: [&str; 4] = [
    "sock:sock_send_length",
    "sock:sock_recv_length",
    "sock:sk_data_ready",
    "sock:inet_sock_set_state",
];

fn configure(open: &mut bpf::OpenTcplatSkel<'_>, args: &Args, shape: &Shape) -> Result<()> {
    let rodata = constants(&mut open.maps.rodata_data)?;
    rodata.min_us = args.min_ms.unwrap_or_default().as_micros() as u64;
    rodata.jiffy_us = clock::jiffy_us() as u32;
    rodata.sample_every = args.sampling.every;
    rodata.sample_interval_ns = args.sampling.interval_ns();
    if let Shape::Hists(hists) = shape {
        rodata.mode = HIST;
        rodata.group_by = hists.bits();
        open.maps.hists.set_max_entries(MAX_HISTS)?;
    }
    if args.summary.is_some() {
        let keys = args.keys();
        let by_server = keys.has(BY_SERVER);
        rodata.mode = SUMMARY;
        rodata.group_by = keys.bits() | if by_server { bits::FLOW } else { 0 };
        rodata.by_server = by_server;
        open.maps.turn_sums.set_max_entries(summary::MAX_SUMS)?;
    }
    Ok(())
}

/// What is made of turns.
enum Shape {
    Each(EachRow<turn>),
    Hists(Histograms),
    Summary(Summary),
}

impl Shape {
    /// Before anything is loaded: whether the columns exist.
    fn new(args: &Args) -> Result<Self, Usage> {
        let mut style = args.common.output.style();
        style.sort.clone_from(&args.sort);
        let by_server = args.by.as_ref().is_some_and(|by| by.has(BY_SERVER));
        if by_server && args.summary.is_none() {
            return Err(Usage("--by server requires --summary".into()));
        }
        if let Some(hist) = &args.hist {
            let keys = hist_keys::per(hist, args.by.as_ref())?;
            return Histograms::new(style, keys, args.refresh).map(Self::Hists);
        }
        if args.by.is_some() && args.summary.is_none() {
            return Err(Usage("--by requires --summary or --hist".into()));
        }
        if let Some(interval) = args.summary {
            return Summary::new(style, args.keys(), args.top, interval).map(Self::Summary);
        }
        let rows = Rows::new("tcplat", style, columns())?;
        Ok(Self::Each(EachRow {
            rows,
            event: |_| "turn",
        }))
    }
}

fn run(args: Args) -> Result<()> {
    args.refuse_what_has_no_effect()?;
    let mut shape = Shape::new(&args)?;
    let (filter, _, run) = args.common.parts();
    let mut session = Session::new("tcplat", run, &TRACEPOINTS)?;
    let mut storage = storage();
    let configure = |open: &mut _| configure(open, &args, &shape);
    let loaded = session.start::<bpf::TcplatSkelBuilder>(&mut storage, filter, None, configure);
    let Some(mut skel) = loaded? else {
        let why = "which tcplat needs to look into sockets; tcpprobe shows round-trip times";
        return Err(refusal(run.btf.as_deref(), why));
    };
    match &mut shape {
        Shape::Each(rows) => session.run(skel.object_mut(), rows),
        Shape::Hists(hists) => {
            hists.read_from(Table::new(&skel.maps.hists)?);
            session.run(skel.object_mut(), hists)
        }
        Shape::Summary(summary) => {
            summary.read_from(Table::new(&skel.maps.turn_sums)?);
            session.run(skel.object_mut(), summary)
        }
    }
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcplat", kinds, run)
}
