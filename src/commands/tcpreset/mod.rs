// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpreset: a row per RST sent or received, with the socket's owner and the kernel's reason.
//!
//! Traces `tcp:tcp_send_reset` and `tcp:tcp_receive_reset`, with `sock:inet_sock_set_state` for the session's age and
//! `tcp:tcp_rcv_space_adjust` for the owner of an accepted socket.

mod columns;
mod explain;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod hints;
mod reasons;
mod sums;

use std::mem::offset_of;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::abi::types::decode_stack;
use crate::aggregate::keys::Keys;
use crate::cli::{self, Common, duration};
use crate::error::Usage;
use crate::kernel::{clock::boot_ns, symbols, tracepoints::arguments};
use crate::output::{Rows, Sort, Style};
use crate::session::{Deferred, Figures, Handler, Printer, Session, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::reset;
use columns::columns;
use explain::explain;
use hints::Hints;
use sums::{Sums, kinds};

crate::skeleton!("tcpreset");

crate::record!(reset, bpf::types::head);

/// Show TCP resets, sent (->) and received (<-), with process, state and reason.
///
/// REASON is the kernel's reason for a reset that was sent (since Linux 6.10), without TCP_ in the narrow table. Wide
/// rows add a HINT if the reason alone is misleading; --explain describes both. A received reset has no reason; in
/// SYN_SENT it means that the connection was refused.
#[derive(Parser)]
#[command(name = "tcpreset")]
struct Args {
    /// Explain REASON (a reason or a hint), or all of them, and exit
    #[arg(long, value_name = "REASON", num_args = 0..=1)]
    explain: Option<Option<String>>,
    /// Print counts instead of events, on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration, conflicts_with = "stack")]
    summary: Option<Option<Duration>>,
    /// Count by KEY: comm, or several as comm,rport [default: reason, which is direction, state and reason]
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
    Each(Rows<reset>),
    Sums(Sums),
}

struct Resets {
    shape: Shape,
    /// Doubtful rows, and those behind them.
    deferred: Deferred<reset>,
    hints: Hints,
}

/// How long after a record it can be retracted: the retraction follows in the same kernel call, within microseconds,
/// unless the machine was stopped.
const DOUBT_NS: u64 = 200_000_000;

impl Resets {
    /// A reset sent in answer to data after shutdown shows that no RST was received before.
    fn retract(&mut self, cookie: u64) {
        let is_it = |row: &reset| row.maybe_spurious != 0 && row.head.cookie == cookie;
        self.deferred.retract(is_it);
    }

    fn release(&mut self, out: &mut Printer, all: bool) {
        let now = boot_ns();
        while let Some(row) = self.deferred.pop_if(|row, age| {
            // After a late read, rows are old, and a retraction may come with the next turn.
            let fresh = now.saturating_sub(row.head.boot_ns) < DOUBT_NS || age.turns == 0;
            row.maybe_spurious == 0 || all || !fresh
        }) {
            self.show(&row, out);
        }
    }

    fn show(&mut self, body: &reset, out: &mut Printer) {
        match &mut self.shape {
            Shape::Each(rows) => {
                let body = reset {
                    hint: self.hints.of(body),
                    ..*body
                };
                out.row(|buf| rows.row(buf, "reset", &(&body).into()));
            }
            Shape::Sums(sums) => sums.add(body),
        }
    }

    fn print_sums(&mut self, out: &mut Printer) {
        if let Shape::Sums(sums) = &mut self.shape {
            sums.print(out);
        }
    }
}

impl Handler for Resets {
    fn header(&mut self, out: &mut Vec<u8>) {
        match &mut self.shape {
            Shape::Each(rows) => rows.header(out),
            Shape::Sums(sums) => sums.header(out),
        }
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(body) = decode_stack::<reset>(record, offset_of!(reset, stack)) else {
            return;
        };
        if body.retracts != 0 {
            self.retract(body.head.cookie);
        }
        if self.deferred.is_empty() && body.maybe_spurious == 0 {
            self.show(&body, out);
        } else {
            self.deferred.push(body);
        }
    }

    fn shows(&self) -> crate::session::Shows {
        match &self.shape {
            Shape::Each(_) => crate::session::Shows::Rows,
            Shape::Sums(sums) => sums.every.length().into(),
        }
    }

    fn resume(&mut self) {
        if let Shape::Each(rows) = &mut self.shape {
            rows.refresh_clock();
        }
    }

    fn due(&self) -> Option<Instant> {
        let shown = match &self.shape {
            Shape::Each(_) => None,
            Shape::Sums(sums) => sums.every.due(),
        };
        let doubtful = self.deferred.front().map(|row| {
            let age = boot_ns().saturating_sub(row.head.boot_ns);
            Instant::now() + Duration::from_nanos(DOUBT_NS.saturating_sub(age))
        });
        shown.into_iter().chain(doubtful).min()
    }

    fn tick(&mut self, out: &mut Printer) {
        self.release(out, false);
        self.deferred.end_turn();
        if let Shape::Sums(sums) = &mut self.shape
            && sums.every.is_due()
        {
            sums.print(out);
        }
    }

    fn uncounted(&self) -> u64 {
        match &self.shape {
            Shape::Each(_) => 0,
            Shape::Sums(sums) => sums.uncounted(),
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.release(out, true);
        self.print_sums(out);
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        match &mut self.shape {
            Shape::Each(rows) => rows.summary(out, fields),
            Shape::Sums(sums) => sums.summary(out, fields),
        }
    }
}

impl Shape {
    fn new(args: &Args, style: Style) -> Result<Self, Usage> {
        Ok(match args.summary {
            Some(_) => Self::Sums(Sums::new(args, style)?),
            None => Self::Each(Rows::new("tcpreset", style, columns(args.stack))?),
        })
    }
}

fn run(args: Args) -> Result<()> {
    if let Some(reason) = &args.explain {
        return explain(reason.as_deref());
    }
    let (filter, output, run) = args.common.parts();
    let mut resets = Resets {
        shape: Shape::new(&args, output.style())?,
        deferred: Deferred::default(),
        hints: Hints::default(),
    };
    let tracepoints = ["tcp:tcp_send_reset", "tcp:tcp_receive_reset"];
    let mut session = Session::new("tcpreset", run, &tracepoints)?;
    if args.stack {
        symbols::begin(run.asks_for_memory());
    }
    let mut storage = storage();
    let loaded = session.start::<bpf::TcpresetSkelBuilder>(&mut storage, filter, None, |open| {
        let rodata = constants(&mut open.maps.rodata_data)?;
        rodata.has_reason = arguments::arguments("tcp_send_reset") > 2;
        rodata.stacks = args.stack;
        Ok(())
    });
    let Some(mut skel) = loaded? else {
        let sockets = session.sockets().is_some();
        let records = fallback::Resets::new(&args, sockets, session.scans())?;
        return crate::fallback::run(&session, filter, records, &mut resets);
    };
    if args.stack && !symbols::load_symbols() {
        crate::message!(
            "tcpreset: the kernel hides its symbols (kernel.kptr_restrict), so stacks are shown as addresses"
        );
    }
    session.run(skel.object_mut(), &mut resets)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcpreset", kinds, run)
}
