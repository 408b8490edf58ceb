// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpcong: a row per change of a connection's congestion state, with the time in the old one; or the time in each state,
//! as totals or as histograms.
//!
//! Traces `tcp:tcp_cong_state_set`, with `sock:inet_sock_set_state` for the beginning and the end of a connection and
//! `tcp:tcp_rcv_space_adjust` for the owner of an accepted socket.

mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod hist;
mod totals;

use std::process::ExitCode;
use std::time::Duration;

use crate::abi::types::event_name;
use crate::aggregate::hist_keys::{self, ALL};
use crate::aggregate::{histograms::MAX_HISTS, keys::Keys, table::Table};
use crate::cli::filter::{CaStates, NextCaStates};
use crate::cli::{self, Common, duration, milliseconds, whole};
use crate::error::Usage;
use crate::output::{Rows, Sort, Style};
use crate::session::{EachRow, Session, constants, storage};
use anyhow::{Context, Result};
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::{change, total};
use columns::{EVENTS, columns, kinds};
use hist::Histograms;
use totals::Totals;

crate::skeleton!("tcpcong");

crate::record!(change, bpf::types::head);

crate::record!(total, bpf::types::head);

/// Show changes of TCP's congestion state, with the time spent in the old one.
///
/// The states are the kernel's: open (nothing is wrong), disorder (segments arrived out of order, or one is missing),
/// cwr (the window is being reduced, for ECN, a full local queue, or a loss that a probe repaired), recovery (fast
/// retransmission), loss (the retransmission timer fired). MS is '>' a lower bound for a connection from before the
/// trace.
#[derive(Parser)]
#[command(name = "tcpcong", mut_arg("duration", |a| a.short(None)))]
struct Args {
    /// Show only changes from these states: loss,recovery; start the list with '!' to negate it
    #[arg(long, value_name = "STATES", conflicts_with_all = ["summary", "hist"])]
    old: Option<CaStates>,
    /// Show only changes to these states; 'closed' is the end of a connection that was not in open
    #[arg(long, value_name = "STATES", conflicts_with_all = ["summary", "hist"])]
    new: Option<NextCaStates>,
    /// Show only changes after at least MS milliseconds in the old state
    #[arg(long, value_name = "MS", value_parser = milliseconds, conflicts_with_all = ["summary", "hist"])]
    min_ms: Option<Duration>,
    /// Print the time in each state and the number of changes instead of rows, on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration, conflicts_with = "hist")]
    summary: Option<Option<Duration>>,
    /// Make totals or histograms by KEY: comm, or several as comm,raddr [default: flow for totals, all for histograms]
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(&[]))]
    by: Option<Keys>,
    /// Sort totals by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "summary",
        allow_hyphen_values = true
    )]
    sort: Option<Sort>,
    /// Print only the N totals with most time outside of open; 0: all [default: 20 in a table, all in JSON and CSV]
    #[arg(long, value_name = "N", requires = "summary", value_parser = whole(0..=u32::MAX))]
    top: Option<u32>,
    /// Print a histogram of the time in each state instead of rows: one for all, or one per KEY: raddr, or several as comm,rport
    #[arg(short = 'd', long, value_name = "KEY", value_parser = Keys::parser(ALL), num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    hist: Option<Keys>,
    /// Print --hist every TIME, and on exit
    #[arg(short = 'i', long, value_name = "TIME", value_parser = duration, requires = "hist")]
    refresh: Option<Duration>,
    #[command(flatten)]
    common: Common,
}

crate::enumerators! { bpf::types::mode as u32: MODE_TOTALS = MODE_TOTALS, MODE_HIST = MODE_HIST }

/// What is made of changes.
enum Shape {
    Each(EachRow<change>),
    Totals(Totals),
    Hists(Histograms),
}

impl Shape {
    /// # Errors
    /// When a column that was named does not exist.
    fn new(args: &Args, style: Style) -> Result<Self, Usage> {
        if let Some(hist) = &args.hist {
            let keys = hist_keys::per(hist, args.by.as_ref())?;
            return Histograms::new(style, keys, args.refresh).map(Self::Hists);
        }
        if args.by.is_some() && args.summary.is_none() {
            return Err(Usage("--by requires --summary or --hist".into()));
        }
        if args.summary.is_some() {
            return Totals::new(args, style).map(Self::Totals);
        }
        let rows = Rows::new("tcpcong", style, columns())?;
        let event = |body: &change| event_name(&EVENTS, body.head.event);
        Ok(Self::Each(EachRow { rows, event }))
    }
}

fn configure(open: &mut bpf::OpenTcpcongSkel<'_>, args: &Args, shape: &Shape) -> Result<()> {
    let rodata = constants(&mut open.maps.rodata_data)?;
    rodata.old_states = args.old.map_or(u32::MAX, CaStates::mask);
    rodata.new_states = args.new.map_or(u32::MAX, NextCaStates::mask);
    rodata.min_ns = args.min_ms.map_or(0, |time| time.as_nanos() as u64);
    if args.summary.is_some() {
        rodata.mode = MODE_TOTALS;
    }
    if let Shape::Hists(hists) = shape {
        rodata.mode = MODE_HIST;
        rodata.group_by = hists.bits();
        open.maps.hists.set_max_entries(MAX_HISTS)?;
    }
    Ok(())
}

fn run(args: Args) -> Result<()> {
    let (filter, output, run) = args.common.parts();
    if filter.mptcp {
        let reason = "--mptcp: MPTCP leaves congestion to its subflows, which are TCP and shown";
        return Err(Usage(reason.into()).into());
    }
    let shape = Shape::new(&args, output.style())?;
    let mut session = Session::new("tcpcong", run, &["tcp:tcp_cong_state_set"])?;
    fallback::refuse_without_tracepoint()?;
    let iterator = args.summary.map(|_| "open_totals");
    let mut storage = storage();
    let configure = |open: &mut _| configure(open, &args, &shape);
    let loaded =
        session.start::<bpf::TcpcongSkelBuilder>(&mut storage, filter, iterator, configure);
    let Some(mut skel) = loaded? else {
        return Err(fallback::refusal(run.btf.as_deref()));
    };
    let open = session.each_socket(skel.object_mut())?;
    match shape {
        Shape::Each(mut each) => session.run(skel.object_mut(), &mut each),
        Shape::Totals(mut totals) => {
            totals.visit(open.context("no iterator")?);
            session.run(skel.object_mut(), &mut totals)
        }
        Shape::Hists(mut hists) => {
            hists.read_from(Table::new(&skel.maps.hists)?);
            session.run(skel.object_mut(), &mut hists)
        }
    }
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcpcong", kinds, run)
}
