// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpconnect: a row per active open: who, to where, with what outcome, and how long the answer took.
//!
//! Traces `sock:inet_sock_set_state`; an iterator over the sockets finds the opens that nobody answers.

mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod pending;
mod resolver;
mod shape;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::abi::known::KNOWN_CAUSE;
use crate::abi::types::{Record, decode};
use crate::aggregate::hist_keys::ALL;
use crate::aggregate::keys::Keys;
use crate::aggregate::{counts::MAX_COUNTS, histograms::MAX_HISTS};
use crate::cli::{self, Common, PinnedMaps, duration, milliseconds};
use crate::commands::tcpconnect::pending::{Pending, slot_shift};
use crate::commands::tcpconnect::resolver::{Answer, Resolver};
use crate::output::Sort;
use crate::session::{
    Deferred, Figures, Handler, Printer, Session, buffer::shared::Shared, constants, storage,
};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::connect;
pub(super) use columns::outcome as outcome_name;
use columns::{ESTABLISHED, Named, PENDING, kinds};
use shape::Shape;

crate::skeleton!("tcpconnect");

crate::record!(connect, bpf::types::head);

/// Show active TCP opens (connect) with outcome and latency.
///
/// Prints a line when an open ends: established, refused, reset, timeout, unreachable or aborted. An open without an
/// answer is also printed once as pending. Flags and columns are those of bcc's tcpconnect.
#[derive(Parser)]
#[command(name = "tcpconnect")]
#[command(mut_arg("duration", |a| a.short(None)), mut_arg("lport", |a| a.short(None)))]
#[command(mut_arg("rport", |a| a.visible_short_alias('P').visible_alias("port")))]
#[command(mut_arg("port", |a| a.long("any-port")))]
struct Args {
    /// Print the local port; with --count, count by it too
    #[arg(short = 'L', long)]
    print_lport: bool,
    /// Print the user id
    #[arg(short = 'U', long)]
    print_uid: bool,
    /// Print counts per flow and outcome instead of events, the largest first, on exit or every TIME
    #[arg(short, long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration,
          conflicts_with_all = ["hist", "dns"])]
    count: Option<Option<Duration>>,
    /// Make counts or histograms by KEY: comm, or several as comm,rport [default: flow for counts, all for histograms]
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(&[]))]
    by: Option<Keys>,
    /// Sort counts by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "count",
        allow_hyphen_values = true
    )]
    sort: Option<Sort>,
    /// Print the name of the remote address (reverse lookup; delays a row by up to 200 ms)
    #[arg(short, long, conflicts_with = "hist")]
    dns: bool,
    /// Show only opens that failed or are pending
    #[arg(long)]
    failed: bool,
    /// Show only opens that took at least MS milliseconds
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    min_ms: Option<Duration>,
    /// Show an open as pending after TIME without an answer
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pending: Duration,
    /// Do not show pending opens
    #[arg(long, conflicts_with = "pending")]
    no_pending: bool,
    /// Print a latency histogram of established opens (with --failed, of failed ones) instead of events: one for all, or one per KEY: raddr, or several as comm,rport
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(ALL), num_args = 0..=1, require_equals = true, default_missing_value = "all")]
    hist: Option<Keys>,
    /// Print --hist every TIME, and on exit
    #[arg(short = 'i', long, alias = "interval", value_name = "TIME", value_parser = duration, requires = "hist")]
    refresh: Option<Duration>,
    #[command(flatten)]
    pinned: PinnedMaps,
    #[command(flatten)]
    common: Common,
}

crate::enumerators! { bpf::types::mode as u32: MODE_COUNT = MODE_COUNT, MODE_HIST = MODE_HIST }

/// How long a row waits for a name, and how many rows do.
const DNS_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_DEFERRED: usize = 4096;
/// How often it is looked for names while rows wait for them.
const DNS_LOOK: Duration = Duration::from_millis(10);

struct Connects {
    shape: Shape,
    pending: Option<Pending>,
    resolver: Option<Resolver>,
    failed_only: bool,
    /// Rows that wait for a name.
    deferred: Deferred<Named>,
}

impl Connects {
    fn new(args: &Args, shape: Shape) -> Self {
        Self {
            shape,
            pending: None,
            resolver: args.dns.then(Resolver::default),
            failed_only: args.failed,
            deferred: Deferred::default(),
        }
    }

    fn print(&mut self, row: &Named, out: &mut Printer) {
        let event = if row.connect.outcome == PENDING {
            "pending"
        } else {
            "connect"
        };
        if let Shape::Rows(rows) = &mut self.shape {
            out.row(|buf| rows.row(buf, event, &row.into()));
        }
    }

    /// Prints the rows at the front of the queue that have their name, or have waited long enough.
    fn release(&mut self, out: &mut Printer, patience: Duration) {
        if let Some(resolver) = &mut self.resolver {
            resolver.collect();
        }
        while let Some(row) = self.next_named(patience) {
            self.print(&row, out);
        }
    }

    fn next_named(&mut self, patience: Duration) -> Option<Named> {
        let resolver = self.resolver.as_mut()?;
        let room = self.deferred.len() <= MAX_DEFERRED;
        self.deferred.pop_if(|row, age| {
            match resolver.name(row.connect.head().flow.remote()) {
                Answer::Waiting => return age.time >= patience || !room,
                Answer::Name(name) => row.set_name(name),
                Answer::Nameless => {}
            }
            true
        })
    }
}

impl Handler for Connects {
    fn header(&mut self, out: &mut Vec<u8>) {
        match &mut self.shape {
            Shape::Rows(rows) => rows.header(out),
            Shape::Counts(counts) => counts.header(out),
            Shape::Hists(hists) => hists.header(out),
        }
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(connect) = decode::<connect>(record) else {
            return;
        };
        // Only in fallback mode: the kernel half sends no records where it counts.
        match &mut self.shape {
            Shape::Rows(_) => {}
            Shape::Counts(counts) => {
                let known = connect.head.known & KNOWN_CAUSE != 0;
                let kind = if known { connect.outcome } else { u8::MAX };
                return counts.add(connect.head(), kind.into(), 1);
            }
            Shape::Hists(hists) => {
                let known = connect.partial == 0 && connect.latency_ns != u64::MAX;
                if known && (self.failed_only || connect.outcome == ESTABLISHED) {
                    hists.add(connect.head(), connect.latency_ns / 1000);
                }
                return;
            }
        }
        let row = Named::new(*connect);
        match &mut self.resolver {
            None => self.print(&row, out),
            Some(resolver) => {
                let _ = resolver.name(connect.head().flow.remote());
                self.deferred.push(row);
            }
        }
    }

    fn shows(&self) -> crate::session::Shows {
        match &self.shape {
            Shape::Rows(_) => crate::session::Shows::Rows,
            Shape::Counts(counts) => counts.interval().into(),
            Shape::Hists(hists) => hists.interval().into(),
        }
    }

    fn resume(&mut self) {
        if let Shape::Rows(rows) = &mut self.shape {
            rows.refresh_clock();
        }
    }

    fn due(&self) -> Option<Instant> {
        let named = (!self.deferred.is_empty()).then(|| Instant::now() + DNS_LOOK);
        let shown = match &self.shape {
            Shape::Rows(_) => None,
            Shape::Counts(counts) => counts.due(),
            Shape::Hists(hists) => hists.due(),
        };
        let pending = self.pending.as_ref().and_then(Pending::due);
        [named, shown, pending].into_iter().flatten().min()
    }

    fn tick(&mut self, out: &mut Printer) {
        self.release(out, DNS_TIMEOUT);
        match &mut self.shape {
            Shape::Rows(_) => {}
            Shape::Counts(counts) => counts.tick(out),
            Shape::Hists(hists) => hists.tick(out),
        }
        if let Some(Err(error)) = self.pending.as_mut().map(Pending::tick) {
            crate::message!("tcpconnect: cannot show pending opens: {error:#}");
            self.pending = None;
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.release(out, Duration::ZERO);
        match &mut self.shape {
            Shape::Rows(_) => {}
            Shape::Counts(counts) => counts.print(out),
            Shape::Hists(hists) => hists.print(out),
        }
    }

    fn uncounted(&self) -> u64 {
        match &self.shape {
            Shape::Rows(_) => 0,
            Shape::Counts(counts) => counts.uncounted(),
            Shape::Hists(hists) => hists.uncounted(),
        }
    }

    fn unvisited(&self) -> u64 {
        self.pending.as_ref().map_or(0, Pending::unvisited)
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        match &mut self.shape {
            Shape::Rows(rows) => rows.summary(out, fields),
            Shape::Counts(counts) => counts.summary(out, fields),
            Shape::Hists(hists) => hists.summary(out, fields),
        }
    }
}

fn configure(open: &mut bpf::OpenTcpconnectSkel<'_>, args: &Args, group_by: u32) -> Result<()> {
    let rodata = constants(&mut open.maps.rodata_data)?;
    rodata.mode = match (&args.count, &args.hist) {
        (Some(_), _) => MODE_COUNT,
        (_, Some(_)) => MODE_HIST,
        _ => 0,
    };
    rodata.failed_only = args.failed;
    rodata.group_by = group_by;
    rodata.min_ns = args.min_ms.unwrap_or_default().as_nanos() as u64;
    rodata.pending_ns = args.pending.as_nanos() as u64;
    rodata.slot_shift = slot_shift(args.pending);
    if args.count.is_some() {
        open.maps.counts.set_max_entries(MAX_COUNTS)?;
    }
    if args.hist.is_some() {
        open.maps.hists.set_max_entries(MAX_HISTS)?;
    }
    // An open has no reader yet.
    open.progs.note_reader.set_autoload(false);
    Ok(())
}

fn shows_pending(args: &Args) -> bool {
    !args.no_pending && args.count.is_none() && args.hist.is_none()
}

fn run(args: Args) -> Result<()> {
    args.pinned.refuse()?;
    let (filter, output, run) = args.common.parts();
    let mut connects = Connects::new(&args, Shape::new(output.style(), &args)?);
    let mut session = Session::new("tcpconnect", run, &["sock:inet_sock_set_state"])?;
    let iterator = shows_pending(&args).then_some("show_pending");
    let mut storage = storage();
    let group_by = connects.shape.bits();
    let configure = |open: &mut _| configure(open, &args, group_by);
    let loaded =
        session.start::<bpf::TcpconnectSkelBuilder>(&mut storage, filter, iterator, configure);
    let Some(mut skel) = loaded? else {
        let opens = fallback::Opens::new(&args, session.sockets().is_some())?;
        return crate::fallback::run(&session, filter, opens, &mut connects);
    };
    let pending = session.each_socket(skel.object_mut())?.map(|sockets| {
        let shared = Shared::from_object(skel.object(), ".data.unanswered");
        Pending::new(sockets, &skel.maps.data_unanswered, shared, args.pending)
    });
    connects.pending = pending.transpose()?;
    connects.shape.read_from(&skel)?;
    session.run(skel.object_mut(), &mut connects)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcpconnect", kinds, run)
}
