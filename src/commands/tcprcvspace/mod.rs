// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcprcvspace: receive-buffer autotuning, a row per segment that is read from a TCP socket, or a summary of sockets whose window is
//! too small.
//!
//! Traces `tcp:tcp_rcv_space_adjust` and, for steps of growth, `tcp:tcp_rcvbuf_grow`, and `sock:inet_sock_set_state` for owners and for the end of a socket.

mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod grouped;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::abi::types::{decode, event_name};
use crate::aggregate::keys::Keys;
use crate::cli::{self, Common, duration, sampling::Sampling};
use crate::error::Usage;
use crate::kernel::{btf, diagnose};
use crate::output::{Rows, Sort};
use crate::session::active::Active;
use crate::session::{Figures, Handler, Printer, Session, Shows, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::adjust;
use columns::{EVENTS, Of, columns, kinds};
use grouped::Grouped;

crate::skeleton!("tcprcvspace");

crate::record!(adjust, bpf::types::head);

/// Show how the kernel tunes TCP receive buffers, or which sockets are limited by their window.
///
/// GROWTH says whether the buffer can grow: open (it can), max (it has reached the maximum of net.ipv4.tcp_rmem),
/// locked (the program set SO_RCVBUF), off (net.ipv4.tcp_moderate_rcvbuf is 0).
#[derive(Parser)]
#[command(name = "tcprcvspace")]
#[command(mut_arg("changes", |a| a.help("Show a socket only when its buffer, or what it is sized by, has changed")))]
struct Args {
    /// Print one line per window-limited socket instead of samples, when it closes, and of those still open on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    summary: Option<Option<Duration>>,
    /// Add the sockets of --summary up by KEY: comm, or several as comm,raddr
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(&[]), requires = "summary")]
    by: Option<Keys>,
    /// Sort the sockets that are still open, or sums, by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "summary",
        allow_hyphen_values = true
    )]
    sort: Option<Sort>,
    /// Show only the steps in which a buffer was to grow, and what came of it (Linux 6.16)
    #[arg(long, conflicts_with_all = ["summary", "every", "interval", "changes"])]
    grow: bool,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    common: Common,
}

impl Args {
    fn of(&self) -> Of {
        match (self.summary, self.grow) {
            (Some(_), _) => Of::Sockets,
            (None, true) => Of::Steps,
            (None, false) => Of::Calls,
        }
    }
}

struct RcvSpace {
    rows: Rows<adjust>,
    /// With `--summary`: the sockets that are still open.
    open: Option<Active>,
    /// With `--by`: they are added up.
    grouped: Option<Grouped>,
}

impl RcvSpace {
    fn print(&mut self, body: &adjust, out: &mut Printer) {
        if let Some(grouped) = &mut self.grouped {
            return grouped.add(body);
        }
        let event = event_name(&EVENTS, body.head.event);
        out.row(|buf| self.rows.row(buf, event, &body.into()));
    }

    fn print_open(&mut self, out: &mut Printer) {
        let open = self.open.as_ref().map(Active::records);
        let mut open: Vec<adjust> = open.unwrap_or_default();
        self.rows.sort(&mut open, |body| body.into());
        for body in open {
            self.print(&body, out);
        }
        if let Some(grouped) = &mut self.grouped {
            grouped.print(out);
        }
    }
}

impl Handler for RcvSpace {
    fn header(&mut self, out: &mut Vec<u8>) {
        match &mut self.grouped {
            Some(grouped) => grouped.header(out),
            None => self.rows.header(out),
        }
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        if let Some(body) = decode::<adjust>(record) {
            self.print(body, out);
        }
    }

    fn shows(&self) -> Shows {
        match &self.open {
            Some(open) => open.every.length().into(),
            None => Shows::Rows,
        }
    }

    fn has_ends(&self) -> bool {
        self.grouped.is_none()
    }

    fn uncounted(&self) -> u64 {
        self.grouped.as_ref().map_or(0, Grouped::uncounted)
    }

    fn resume(&mut self) {
        self.rows.refresh_clock();
    }

    fn due(&self) -> Option<Instant> {
        self.open.as_ref().and_then(|open| open.every.due())
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.open.as_mut().is_some_and(|open| open.every.is_due()) {
            self.print_open(out);
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.print_open(out);
    }

    fn unvisited(&self) -> u64 {
        self.open.as_ref().map_or(0, Active::unvisited)
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        match &mut self.grouped {
            Some(grouped) => grouped.summary(out, fields),
            None => self.rows.summary(out, fields),
        }
    }
}

fn refuse_what_has_no_effect(args: &Args) -> Result<()> {
    if args.common.filter.mptcp {
        let reason = "--mptcp: MPTCP tunes its receive buffers without tcp:tcp_rcv_space_adjust";
        return Err(Usage(reason.into()).into());
    }
    if args.summary.is_some() && args.sampling.is_set() {
        let reason =
            "--summary counts everything; --every, --interval and --changes are for samples";
        return Err(Usage(reason.into()).into());
    }
    Ok(())
}

/// Without type information that is refused anyway, and why.
fn refuse_growth_without_tracepoint(args: &Args) -> Result<()> {
    if args.grow && btf::kernel().is_some() && !diagnose::has_tracepoint("tcp:tcp_rcvbuf_grow") {
        let reason = "--grow: this kernel has no tracepoint tcp:tcp_rcvbuf_grow (since Linux 6.16)";
        return Err(Usage(reason.into()).into());
    }
    Ok(())
}

fn run(args: Args) -> Result<()> {
    refuse_what_has_no_effect(&args)?;
    let (filter, output, run) = args.common.parts();
    let columns = columns(args.of());
    let mut style = output.style();
    style.sort.clone_from(&args.sort);
    let grouped = args.by.clone().map(|by| Grouped::new(by, style.clone()));
    let grouped = grouped.transpose()?;
    if grouped.is_some() {
        (style.columns, style.sort) = (None, None);
    }
    let rows = Rows::new("tcprcvspace", style, columns)?;
    let tracepoints = ["tcp:tcp_rcv_space_adjust", "sock:inet_sock_set_state"];
    let mut session = Session::new("tcprcvspace", run, &tracepoints)?;
    refuse_growth_without_tracepoint(&args)?;
    let iterator = args.summary.map(|_| "open_sockets");
    let mut storage = storage();
    let loaded =
        session.start::<bpf::TcprcvspaceSkelBuilder>(&mut storage, filter, iterator, |open| {
            let rodata = constants(&mut open.maps.rodata_data)?;
            rodata.sample_every = args.sampling.every;
            rodata.sample_interval_ns = args.sampling.interval_ns();
            rodata.sample_changes = args.sampling.changes;
            rodata.summary = args.summary.is_some();
            rodata.grown = args.grow;
            open.progs.rcvbuf_grow.set_autoload(args.grow);
            Ok(())
        });
    let Some(mut skel) = loaded? else {
        let samples = fallback::Samples::new(&args, session.sockets().is_some())?;
        let mut rows = RcvSpace {
            rows,
            open: None,
            grouped: None,
        };
        return crate::fallback::run(&session, filter, samples, &mut rows);
    };
    let open = session.each_socket(skel.object_mut())?.zip(args.summary);
    let open = open.map(|(sockets, interval)| Active::new("tcprcvspace", sockets, interval));
    let mut handler = RcvSpace {
        rows,
        open,
        grouped,
    };
    session.run(skel.object_mut(), &mut handler)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcprcvspace", kinds, run)
}
