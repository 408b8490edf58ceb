// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpdrop: a row per TCP segment that this host throws away, with the kernel's reason and the place.
//!
//! Traces `skb:kfree_skb`, with `sock:inet_sock_set_state` and `tcp:tcp_rcv_space_adjust` for the owners of sockets.

mod columns;
mod explained;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod reasons;
mod sums;

use std::mem::offset_of;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::abi::types::decode_stack;
use crate::aggregate::keys::Keys;
use crate::cli::{self, Common, duration};
use crate::error::Usage;
use crate::kernel::{symbols, tracepoints::drops};
use crate::output::{Rows, Sort, Style};
use crate::session::{Figures, Handler, Printer, Session, Shows, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::dropped;
use columns::columns;
use reasons::{Hidden, Reasons};
use sums::{Sums, kinds};

crate::skeleton!("tcpdrop");

crate::record!(dropped, bpf::types::head);

/// Show TCP segments that this host throws away: sent (->), received (<-) or to be passed on (<=), why and where.
///
/// REASON is the kernel's (since Linux 5.17), without TCP_ in the narrow table; --explain describes each. WHERE is the
/// function that threw the segment away. Segments that are thrown away for harmless reasons are not shown: an RST that
/// was received, data that is here already, what comes for a socket that is closed; --all shows them too.
#[derive(Parser)]
#[command(name = "tcpdrop")]
struct Args {
    /// Explain REASON, or all reasons, and exit
    #[arg(long, value_name = "REASON", num_args = 0..=1)]
    explain: Option<Option<String>>,
    /// Show drops for harmless reasons too
    #[arg(long)]
    all: bool,
    /// Show only drops for these reasons, harmless ones too; !LIST: for all others
    #[arg(long, value_name = "LIST", conflicts_with = "all")]
    reason: Option<Reasons>,
    /// Print counts instead of events, on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration, conflicts_with = "stack")]
    summary: Option<Option<Duration>>,
    /// Count by KEY: reason, where, or several as where,lport [default: reason,where]
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(sums::OWN), requires = "summary")]
    by: Option<Keys>,
    /// Sort counts by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "summary",
        allow_hyphen_values = true
    )]
    sort: Option<Sort>,
    /// Print the kernel call stack below each row
    #[arg(long)]
    stack: bool,
    #[command(flatten)]
    common: Common,
}

/// Where rows go: out, or into a count.
enum Shape {
    Each(Box<Rows<dropped>>),
    Sums(Box<Sums>),
}

impl Shape {
    fn new(args: &Args, style: Style) -> Result<Self, Usage> {
        Ok(match args.summary {
            Some(_) => Self::Sums(Box::new(Sums::new(args, style)?)),
            None => Self::Each(Box::new(Rows::new("tcpdrop", style, columns(args.stack))?)),
        })
    }
}

impl Handler for Shape {
    fn header(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Each(rows) => rows.header(out),
            Self::Sums(sums) => sums.header(out),
        }
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(body) = decode_stack::<dropped>(record, offset_of!(dropped, stack)) else {
            return;
        };
        match self {
            Self::Each(rows) => out.row(|buf| rows.row(buf, "drop", &(&body).into())),
            Self::Sums(sums) => sums.add(&body),
        }
    }

    fn shows(&self) -> Shows {
        match self {
            Self::Each(_) => Shows::Rows,
            Self::Sums(sums) => sums.every.length().into(),
        }
    }

    fn resume(&mut self) {
        if let Self::Each(rows) = self {
            rows.refresh_clock();
        }
    }

    fn due(&self) -> Option<Instant> {
        match self {
            Self::Each(_) => None,
            Self::Sums(sums) => sums.every.due(),
        }
    }

    fn tick(&mut self, out: &mut Printer) {
        if let Self::Sums(sums) = self
            && sums.every.is_due()
        {
            sums.print(out);
        }
    }

    fn uncounted(&self) -> u64 {
        match self {
            Self::Each(_) => 0,
            Self::Sums(sums) => sums.uncounted(),
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        if let Self::Sums(sums) = self {
            sums.print(out);
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        match self {
            Self::Each(rows) => rows.summary(out, fields),
            Self::Sums(sums) => sums.summary(out, fields),
        }
    }
}

fn configure(open: &mut bpf::OpenTcpdropSkel<'_>, args: &Args, hidden: &Hidden) -> Result<()> {
    let rodata = constants(&mut open.maps.rodata_data)?;
    rodata.has_reason = drops::has_reason();
    rodata.has_rx_sk = drops::has_socket();
    rodata.hidden = hidden.bits;
    rodata.hides_others = hidden.others;
    rodata.stacks = args.stack;
    Ok(())
}

fn run(args: Args) -> Result<()> {
    if let Some(reason) = &args.explain {
        return reasons::explain(reason.as_deref());
    }
    let (filter, output, run) = args.common.parts();
    let mut shape = Shape::new(&args, output.style())?;
    reasons::load();
    let hidden = Hidden::new(args.all, args.reason.as_ref())?;
    let mut session = Session::new("tcpdrop", run, &["skb:kfree_skb"])?;
    let mut storage = storage();
    symbols::begin(run.asks_for_memory());
    let configure = |open: &mut _| configure(open, &args, &hidden);
    let loaded = session.start::<bpf::TcpdropSkelBuilder>(&mut storage, filter, None, configure);
    let Some(mut skel) = loaded? else {
        return Err(fallback::refusal(run.btf.as_deref()));
    };
    if !reasons::are_given() {
        crate::message!(
            "tcpdrop: this kernel gives no reason for a drop (before 5.17), so harmless ones are shown too"
        );
    }
    if !reasons::are_of_connections() {
        crate::message!(
            "tcpdrop: this kernel does not report what TCP throws away of a connection (before 5.18), so that is not shown"
        );
    }
    if !symbols::load_symbols() {
        crate::message!(
            "tcpdrop: the kernel hides its symbols (kernel.kptr_restrict), so functions are not shown, and stacks as addresses"
        );
    }
    session.run(skel.object_mut(), &mut shape)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcpdrop", kinds, run)
}
