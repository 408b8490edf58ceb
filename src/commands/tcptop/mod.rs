// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptop: connections, or groups of them, by what they move; and why those that do not move do not.
//!
//! Traces `sock:inet_sock_set_state` for connections that end within an interval, with `tcp:tcp_rcv_space_adjust` for the
//! owner of an accepted socket; everything else is looked up at each interval.

mod batch;
mod choice;
mod columns;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod groups;
mod inet_diag;
mod look;
mod recorded;
mod screen;
mod sort;
mod traffic;
mod why;
#[cfg(test)]
mod why_tests;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use libbpf_rs::skel::Skel;
use libbpf_rs::{Link, Object};

use crate::abi::known::{PROGRAMS, inet_diag as diag};
use crate::aggregate::{keys::Keys, top};
use crate::cli::filter::Filter;
use crate::cli::{self, Common, duration, whole};
use crate::error::Usage;
use crate::fallback::inet_diag::NoRecords;
use crate::kernel::{clock, iter};
use crate::output::schema::Kind;
use crate::output::{self, Format, Rows};
use crate::session::{Session, constants, storage};

use batch::{Batch, Kinds};
use bpf::types::conn;
use choice::Choice;
use columns::columns;
use inet_diag::KNOWN;
use look::Look;
use sort::Sort;

crate::skeleton!("tcptop");

crate::record!(conn, bpf::types::head);

crate::enumerators! { bpf::types::event_kind as u16: CLOSED = CONN_CLOSED }

/// Bits of `flags` in tcptop.bpf.c.
mod flag {
    crate::enumerators! { super::bpf::types::conn_flag as u8:
        pub(super) ACTIVE_OPEN = CONN_ACTIVE_OPEN,
        pub(super) OPENED_BEFORE = CONN_OPENED_BEFORE,
        pub(super) ORPHAN = CONN_ORPHAN,
        pub(super) KEEPALIVE = CONN_KEEPALIVE,
        pub(super) NODELAY = CONN_NODELAY,
        pub(super) CORK = CONN_CORK,
        pub(super) UNACCEPTED = CONN_UNACCEPTED,
    }
}

/// Pending timers.
mod timer {
    crate::enumerators! { super::bpf::types::timer as u8:
        pub(super) KEEPALIVE = TIMER_KEEPALIVE,
        #[cfg(test)]
        pub(super) PERSIST = TIMER_PERSIST,
        #[cfg(test)]
        pub(super) RETRANSMIT = TIMER_RETRANSMIT,
    }
}

/// Show TCP connections by the bytes they move, or why they do not move.
///
/// Prints the connections that moved most in each interval, those that came and went within it included. On a terminal
/// the rows are redrawn in place, and keys sort, group and filter them (h shows all keys).
#[derive(Parser)]
#[command(name = "tcptop")]
#[command(mut_arg("buffer", |a| a.default_value("8192")))] // it fills while all sockets are visited
struct Args {
    /// Show only connections that do not move (for TIME at least), and WHY, the longest first
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration, conflicts_with_all = ["sort", "all"])]
    stalled: Option<Option<Duration>>,
    /// Add connections up by KEY: comm, or several as comm,rport
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(&[]))]
    by: Option<Keys>,
    /// Sort by bytes (rate, sent, received), retransmissions (retrans), round-trip time (rtt), time without progress (stalled), or rows by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending [default: rate]
    #[arg(long, value_name = "KEY", value_parser = sort::Parser, allow_hyphen_values = true, hide_possible_values = true)]
    sort: Option<sort::By>,
    /// Show every TIME
    #[arg(short, long, value_name = "TIME", default_value = "1", value_parser = duration)]
    interval: Duration,
    /// Limit rows to the first N of each interval; 0: all [default: 20 in a table, all otherwise]
    #[arg(long, value_name = "N", value_parser = whole(0..=u32::MAX))]
    top: Option<u32>,
    /// Show those too that moved nothing, or whatever it is that rows are sorted by
    #[arg(long)]
    all: bool,
    /// Show the rows that `tcptools record` or triage --record has kept, of each interval, instead of this host's
    #[arg(long, value_name = "FILE", conflicts_with_all = ["interval", "duration", "count_events", "buffer", "sockets", "no_scan", "btf", "ready_file", "ready_fd", "stats", "peer"])]
    from: Option<PathBuf>,
    /// Print rows, even on a terminal
    #[arg(short, long, visible_short_alias = 'C')]
    batch: bool,
    #[command(flatten)]
    common: Common,
}

/// Rows of a table, unless --top says another number.
const TOP: usize = 20;

impl Args {
    fn choice(&self) -> Choice {
        let usual = match self.common.output.style().format {
            Format::Table => TOP,
            _ => usize::MAX,
        };
        let sort = match (self.stalled, &self.sort) {
            (Some(_), _) => Sort::Stalled,
            (None, Some(sort::By::Own(sort))) => *sort,
            (None, _) => Sort::default(),
        };
        let least = |time: Option<Duration>| time.unwrap_or_default().as_micros() as u64;
        Choice {
            sort,
            by: self.by.clone(),
            top: top::limit(self.top, usual),
            by_columns: self.columns().is_some(),
            all: self.all,
            stalled_us: self.stalled.map(least),
        }
    }
}

impl Args {
    /// The columns that rows are sorted by.
    fn columns(&self) -> Option<&output::Sort> {
        match &self.sort {
            Some(sort::By::Columns(columns)) => Some(columns),
            _ => None,
        }
    }

    /// Whether nothing is asked for that is about rows.
    fn is_live(&self) -> bool {
        let (_, output, run) = self.common.parts();
        let rows = self.batch
            || self.common.output.columns.is_some()
            || self.top.is_some()
            || self.columns().is_some();
        let written = output.wide || output.time || output.timestamp || output.no_header;
        let table = output.style().format == Format::Table;
        table && !rows && !written && run.count_events.is_none()
    }
}

/// The connections that exist at the start, in every network namespace: those without a file too.
fn find_sessions(object: &mut Object) -> Result<Link> {
    let mut programs = object.progs_mut();
    let program = programs.find(|p| p.name() == "find_sessions");
    iter::attach(&program.context("no iterator")?, None)
}

fn run(args: Args) -> Result<()> {
    let (filter, output, run) = args.common.parts();
    if filter.mptcp {
        let reason = "--mptcp: only TCP connections, subflows included, are shown";
        return Err(Usage(reason.into()).into());
    }
    let (mut style, choice) = (output.style(), args.choice());
    style.sort = args.columns().cloned();
    let live = args.is_live() && screen::is_there() && args.from.is_none();
    let kinds = match &args.by {
        Some(by) => Kinds::groups(style.clone(), by.clone())?,
        None => {
            let columns = columns(args.stalled.is_some());
            let rows = Rows::new("tcptop", style.clone(), columns)?;
            Kinds::connections(rows, &choice)
        }
    };
    if let Some(path) = &args.from {
        return recorded::run(path, filter, &style, choice, kinds);
    }
    let mut session = Session::new("tcptop", run, &["sock:inet_sock_set_state"])?;
    let mut storage = storage();
    let iterator = Some("open_sessions");
    let loaded = session.start::<bpf::TcptopSkelBuilder>(&mut storage, filter, iterator, |open| {
        let rodata = constants(&mut open.maps.rodata_data)?;
        rodata.jiffy_us = clock::jiffy_us() as u32;
        Ok(())
    });
    let Some(mut skel) = loaded? else {
        let sockets = inet_diag::connections(filter, session.scans())?;
        let (look, blank) = (Look::by_diag(sockets), NoRecords(inet_diag::BLANK));
        // The filters are asked where connections are found.
        let all = Filter::default();
        if live {
            let mut screen = screen::Live::new(look, choice, args.interval, style.colour)?;
            return crate::fallback::run(&session, &all, blank, &mut screen);
        }
        let mut batch = Batch::new(look, &style, choice, kinds, args.interval);
        return crate::fallback::run(&session, &all, blank, &mut batch);
    };
    let sockets = session.each_socket(skel.object_mut())?;
    let look = Look::new(
        sockets.context("no iterator")?,
        find_sessions(skel.object_mut())?,
    );
    if live {
        let mut screen = screen::Live::new(look, choice, args.interval, style.colour)?;
        return session.run(skel.object_mut(), &mut screen);
    }
    let mut batch = Batch::new(look, &style, choice, kinds, args.interval);
    session.run(skel.object_mut(), &mut batch)
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    let modes = [PROGRAMS, diag(KNOWN)];
    let row = |event, stalled| Kind::row(event, &columns(stalled)).known(&modes);
    let rows = [row("connection", false), row("stalled", true)];
    rows.into_iter().chain(groups::kinds()).collect()
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcptop", kinds, run)
}
