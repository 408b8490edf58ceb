// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpaccept: a row per passive open: who listens, who came, and how full the accept queue is; or the listeners
//! themselves, with their queues.
//!
//! Traces `sock:inet_sock_set_state`.

mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod grouped;
mod inet_diag;
mod listener;
mod listeners;
mod summary;
mod verdict;

use std::process::ExitCode;
use std::time::Duration;

use crate::aggregate::counts::{Growth, MAX_COUNTS};
use crate::aggregate::keys::Keys;
use crate::aggregate::table::Table;
use crate::cli::{self, Common, PinnedMaps, Run, duration, filter::Filter, whole};
use crate::error::Usage;
use crate::fallback::inet_diag::NoRecords;
use crate::kernel::{clock, holders, iter};
use crate::output::{Rows, Sort, Style};
use crate::session::{EachRow, Session, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::accept;
use columns::{Which, columns, kinds, listener_columns};
use grouped::{columns_of, counts_opens};
use listeners::Listeners;
use summary::{Counts, Summary};

crate::skeleton!("tcpaccept");

crate::record!(accept, bpf::types::head);

/// Show passive TCP opens (accept): the process that listens, both addresses, and the accept queue.
///
/// Prints a line when the handshake completes, before the process calls accept(). QLEN is the length of the accept
/// queue, including this connection; QMAX is its limit. Flags and columns are those of bcc's tcpaccept.
#[derive(Parser)]
#[command(name = "tcpaccept")]
#[command(mut_arg("lport", |a| a.visible_short_alias('P').visible_alias("port")))]
#[command(mut_arg("port", |a| a.long("any-port")))]
struct Args {
    /// Print statistics of busy listeners (accepts, rate, longest accept queue, drops) on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    summary: Option<Option<Duration>>,
    /// Print every listener with its queues, drops and what is wrong, worst first: once, or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration, conflicts_with = "summary")]
    listeners: Option<Option<Duration>>,
    /// Print --summary by KEY instead of by listener: comm, or several as comm,raddr
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(&[]), requires = "summary")]
    by: Option<Keys>,
    /// Print only the N groups of --by with most opens; 0: all [default: 20 in a table, all in JSON and CSV]
    #[arg(long, value_name = "N", value_parser = whole(0..=u32::MAX), requires = "by")]
    top: Option<u32>,
    /// Sort listeners or groups by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    sort: Option<Sort>,
    #[command(flatten)]
    pinned: PinnedMaps,
    #[command(flatten)]
    common: Common,
}

impl Args {
    /// Which listeners are shown, and at which interval; `None`: opens are.
    fn which(&self) -> Option<(Which, Option<Duration>)> {
        let every = self.listeners.map(|interval| (Which::Every, interval));
        every.or(self.summary.map(|interval| (Which::Busy, interval)))
    }

    /// How it runs: without an interval, `--listeners` is one look.
    fn run(&self) -> Run {
        let mut run = self.common.run.clone();
        if self.listeners == Some(None) {
            run.duration.get_or_insert(LOOK);
        }
        run
    }

    /// A listener has no other end, and an MPTCP listener no queue of its own.
    fn refuse_what_has_no_effect(&self) -> Result<()> {
        if self.listeners.is_none() {
            return Ok(());
        }
        let remote = ["--rport", "--raddr"];
        let mut given = self.common.filter.given();
        let why = match given.find(|(flag, _)| remote.contains(flag)) {
            Some((flag, _)) => format!("{flag}: a listener has no remote end"),
            None if self.common.filter.mptcp => {
                "--mptcp: an MPTCP listener's queues are those of its TCP listener, which --listeners shows".into()
            }
            None => return Ok(()),
        };
        Err(Usage(why).into())
    }
}

/// How long a look at the listeners takes: rates, and whether a queue moves, take two readings.
const LOOK: Duration = Duration::from_secs(1);

/// Listeners whose opens are counted: opens of others are counted together, and reported.
const MAX_LISTENERS: u32 = 1 << 14;

fn opens(style: Style) -> Result<EachRow<accept>> {
    Ok(EachRow {
        rows: Rows::new("tcpaccept", style, columns())?,
        event: |_| "accept",
    })
}

/// Whether the columns exist, before anything is loaded.
fn check(args: &Args, style: &Style) -> Result<()> {
    match (args.which(), &args.by) {
        (Some(_), Some(by)) => {
            Rows::sums("tcpaccept", style.clone(), columns_of(by))?;
        }
        (Some((which, _)), None) => {
            Rows::sums("tcpaccept", style.clone(), listener_columns(which))?;
        }
        (None, _) if style.sort.is_some() => {
            return Err(Usage("--sort requires --listeners or --summary".into()).into());
        }
        (None, _) => drop(opens(style.clone())?),
    }
    Ok(())
}

/// Without programs of its own.
fn fall_back(session: &Session<'_>, args: &Args, style: Style) -> Result<()> {
    let filter = &args.common.filter;
    let Some(shown @ (Which::Every, _)) = args.which() else {
        let translate = fallback::Opens::new(args)?;
        return crate::fallback::run(session, filter, translate, &mut opens(style)?);
    };
    let listeners = Listeners::new(inet_diag::listeners(filter, session.scans())?);
    let find = Box::new(|| Ok(()));
    let mut summary = Summary::new(shown, style, (None, listeners), find, (None, None))?;
    // The filters are for listeners, and asked where those are found.
    let all = Filter::default();
    crate::fallback::run(session, &all, NoRecords(inet_diag::BLANK), &mut summary)
}

/// Finds the listeners that no process has open.
fn finder(skel: &bpf::TcpacceptSkel<'_>, wanted: bool) -> Result<Box<dyn Fn() -> Result<()>>> {
    if !wanted {
        return Ok(Box::new(|| Ok(())));
    }
    let link = iter::attach(&skel.progs.find_listeners, None)?;
    Ok(Box::new(move || holders::in_each_namespace(&link)))
}

fn run(args: Args) -> Result<()> {
    args.pinned.refuse()?;
    args.refuse_what_has_no_effect()?;
    let (which, run) = (args.which(), args.run());
    let (filter, output, _) = args.common.parts();
    let mut style = output.style();
    style.sort.clone_from(&args.sort);
    check(&args, &style)?;
    let mut session = Session::new("tcpaccept", &run, &["sock:inet_sock_set_state"])?;
    let finds = args.listeners.is_some() || which.is_some() && session.scans();
    let iterator = which.map(|_| "listeners_now");
    let mut storage = storage();
    let loaded =
        session.start::<bpf::TcpacceptSkelBuilder>(&mut storage, filter, iterator, |open| {
            let rodata = constants(&mut open.maps.rodata_data)?;
            rodata.summarise = which.is_some();
            rodata.every_listener = args.listeners.is_some();
            rodata.jiffy_us = clock::jiffy_us() as u32;
            if which.is_some() {
                open.maps.listeners.set_max_entries(MAX_LISTENERS)?;
                open.maps.listener_heads.set_max_entries(MAX_LISTENERS)?;
            }
            if let Some(by) = args.by.as_ref().filter(|by| counts_opens(by)) {
                rodata.group_by = by.bits();
                open.maps.counts.set_max_entries(MAX_COUNTS)?;
            }
            open.progs.find_listeners.set_autoload(finds);
            // A row is printed before any process reads.
            open.progs.note_reader.set_autoload(false);
            Ok(())
        });
    let Some(mut skel) = loaded? else {
        return fall_back(&session, &args, style);
    };
    let now = session.each_socket(skel.object_mut())?;
    let (Some(shown), Some(now)) = (which, now) else {
        return session.run(skel.object_mut(), &mut opens(style)?);
    };
    let counts = Counts::new(
        Table::new(&skel.maps.listeners)?,
        Table::new(&skel.maps.listener_heads)?,
        Table::new(&skel.maps.data_interval)?,
    );
    let listeners = (Some(counts), Listeners::new(now));
    let opens = args.by.as_ref().filter(|by| counts_opens(by));
    let opens = opens.map(|_| Table::new(&skel.maps.counts)).transpose()?;
    let again = args.summary.flatten().is_some();
    let how = (args.by, args.top);
    let mut summary = Summary::new(shown, style, listeners, finder(&skel, finds)?, how)?;
    if let Some(opens) = opens {
        summary.read_from(Growth::new(opens, again));
    }
    session.run(skel.object_mut(), &mut summary)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcpaccept", kinds, run)
}
