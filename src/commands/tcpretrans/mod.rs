// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpretrans: a row per TCP retransmission: whose, why, and whether it was really sent.
//!
//! Traces `tcp:tcp_retransmit_skb` and `tcp:tcp_retransmit_synack`, with `sock:inet_sock_set_state` and
//! `tcp:tcp_rcv_space_adjust` for the owners of sockets.

mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod per_flow;
mod summary;
mod why;

use std::mem::offset_of;
use std::process::ExitCode;
use std::time::Duration;

use crate::abi::types::decode_stack;
use crate::aggregate::by::By;
use crate::aggregate::counts::{MAX_COUNTS, Per};
use crate::aggregate::keys::Keys;
use crate::aggregate::table::Table;
use crate::aggregate::totals::Totals;
use crate::cli::{self, Common, duration, whole};
use crate::error::Usage;
use crate::kernel::{symbols, tracepoints::arguments};
use crate::output::{Format, Rows, Sort, Style};
use crate::session::{Figures, Handler, Printer, Session, constants, storage};
use anyhow::{Context, Result};
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::{retrans, total};
pub(super) use columns::kind_name;
use columns::{columns, kinds};
use per_flow::PerFlow;
use summary::Summary;
use why::Why;

crate::skeleton!("tcpretrans");

crate::record!(retrans, bpf::types::head);

crate::record!(total, bpf::types::head);

/// Show TCP retransmissions: process, addresses, state and cause.
///
/// KIND is the cause: SYN (an unanswered connect), SYNACK (a listener waits for the client's ACK, or cannot use it; see
/// HINT in wide rows), RTO (timeout, or the recovery after it), fast (later segments arrived, this one did not), TLP
/// (tail loss probe), other. T is L for a probe and R for all others; > was sent, ! failed on this host.
#[derive(Parser)]
#[command(name = "tcpretrans", mut_arg("csv", |a| a.short(None)))]
struct Args {
    /// Also print the sequence number
    #[arg(short, long)]
    sequence: bool,
    /// Also show tail loss probes that failed before the kernel counted them as sent (Linux 6.16)
    #[arg(short, long)]
    lossprobe: bool,
    /// Also show attempts that failed before the kernel counted them as sent (Linux 6.16)
    #[arg(long)]
    failed: bool,
    /// Print the number of retransmitted segments per flow instead of events, the largest first, on exit or every TIME
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    count: Option<Option<Duration>>,
    /// Print totals instead of events, with the share of all segments sent, on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration,
        conflicts_with_all = ["count", "failed", "lossprobe", "sequence", "stack"])]
    summary: Option<Option<Duration>>,
    /// Make counts or totals by KEY: comm, or several as comm,rport [default: flow for counts, raddr for totals]
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(&[]))]
    by: Option<Keys>,
    /// Sort counts or totals by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    sort: Option<Sort>,
    /// Print only the N totals with most retransmissions; 0: all [default: 20 in a table, all in JSON and CSV]
    #[arg(long, value_name = "N", requires = "summary", value_parser = whole(0..=u32::MAX))]
    top: Option<u32>,
    /// Also say whether this host dropped the segment when it was sent last, why and where (Linux 5.17)
    #[arg(long, conflicts_with_all = ["count", "summary"])]
    why: bool,
    /// Print the kernel call stack below each row
    #[arg(long, conflicts_with = "count")]
    stack: bool,
    #[command(flatten)]
    common: Common,
}

/// The bytes of a record without a stack.
const MIN_BYTES: usize = offset_of!(retrans, stack);

/// A row per retransmission.
struct Each {
    rows: Rows<retrans>,
    why: Option<Why>,
}

impl Handler for Each {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        if let Some(mut body) = decode_stack::<retrans>(record, MIN_BYTES) {
            if let Some(why) = &mut self.why {
                why.review(&mut body);
            }
            out.row(|buf| self.rows.row(buf, "retransmit", &(&body).into()));
        }
    }

    fn attached(&mut self) {
        if let Some(why) = &self.why {
            why.attached();
        }
    }

    fn resume(&mut self) {
        self.rows.refresh_clock();
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

/// What is made of retransmissions.
enum Shape {
    Each(Box<Each>),
    Counts(PerFlow),
    Totals(Totals),
}

impl Shape {
    fn new(args: &Args, mut style: Style, segments: bool) -> Result<Self> {
        style.sort.clone_from(&args.sort);
        if let Some(interval) = args.summary {
            let keys = args.by.clone().unwrap_or(Keys::of(By::Raddr));
            let totals = Totals::new("tcpretrans", style, keys, args.top, interval)?;
            return Ok(Self::Totals(totals));
        }
        if let Some(interval) = args.count {
            let counts = PerFlow::new(style, per(args), segments, interval)?;
            return Ok(Self::Counts(counts));
        }
        for (flag, given) in [("--by", args.by.is_some()), ("--sort", args.sort.is_some())] {
            if given {
                return Err(Usage(format!("{flag} requires --count or --summary")).into());
            }
        }
        let rows = Rows::new("tcpretrans", style, columns(args))?;
        Ok(Self::Each(Box::new(Each { rows, why: None })))
    }
}

/// What `--count` counts by.
fn per(args: &Args) -> Per {
    Per::new(args.by.as_ref(), true)
}

fn configure(open: &mut bpf::OpenTcpretransSkel<'_>, args: &Args, reports_err: bool) -> Result<()> {
    let rodata = constants(&mut open.maps.rodata_data)?;
    rodata.reports_err = reports_err;
    rodata.failed = args.failed;
    rodata.lossprobe = args.lossprobe;
    rodata.counting = args.count.is_some();
    rodata.group_by = per(args).bits();
    rodata.totals = args.summary.is_some();
    rodata.stacks = args.stack;
    if args.why {
        why::configure(open)?;
    }
    if args.count.is_some() {
        open.maps.counts.set_max_entries(MAX_COUNTS)?;
    }
    Ok(())
}

/// Without programs of its own: a tracepoint's record may not tell how many segments it is of.
fn fall_back(session: &Session<'_>, args: &Args, style: Style) -> Result<()> {
    let segments = session.sockets().is_some();
    let retransmits = fallback::Retransmits::new(args, segments)?;
    let filter = &args.common.filter;
    match Shape::new(args, style, segments)? {
        Shape::Each(mut each) => crate::fallback::run(session, filter, retransmits, &mut *each),
        Shape::Counts(mut counts) => {
            crate::fallback::run(session, filter, retransmits, &mut counts)
        }
        // Refused by `Retransmits`.
        Shape::Totals(_) => Ok(()),
    }
}

fn run(args: Args) -> Result<()> {
    let (filter, output, run) = args.common.parts();
    let mut style = output.style();
    style.time |= style.format == Format::Table;
    let shape = Shape::new(&args, style.clone(), true)?;
    let mut tracepoints = vec!["tcp:tcp_retransmit_skb", "tcp:tcp_retransmit_synack"];
    if args.why {
        tracepoints.push("skb:kfree_skb");
    }
    let mut session = Session::new("tcpretrans", run, &tracepoints)?;
    if args.stack || args.why {
        symbols::begin(run.asks_for_memory());
    }
    let reports_err = arguments::arguments("tcp_retransmit_skb") > 2;
    let iterator = args.summary.map(|_| "open_totals");
    let mut storage = storage();
    let configure = |open: &mut _| configure(open, &args, reports_err);
    let loaded =
        session.start::<bpf::TcpretransSkelBuilder>(&mut storage, filter, iterator, configure);
    let Some(mut skel) = loaded? else {
        return fall_back(&session, &args, style);
    };
    if (args.failed || args.lossprobe) && !reports_err {
        crate::message!(
            "tcpretrans: this kernel does not report failed attempts (before 6.16), so none are shown"
        );
    }
    if args.stack && !symbols::load_symbols() {
        crate::message!(
            "tcpretrans: the kernel hides its symbols (kernel.kptr_restrict), so stacks are shown as addresses"
        );
    }
    let open = session.each_socket(skel.object_mut())?;
    match shape {
        Shape::Each(mut each) => {
            each.why = args.why.then(|| Why::new(&skel)).transpose()?;
            session.run(skel.object_mut(), &mut *each)
        }
        Shape::Counts(mut counts) => {
            counts.read_from(Table::new(&skel.maps.counts)?);
            session.run(skel.object_mut(), &mut counts)
        }
        Shape::Totals(totals) => {
            let open = open.context("no iterator")?;
            session.run(skel.object_mut(), &mut Summary { totals, open })
        }
    }
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcpretrans", kinds, run)
}
