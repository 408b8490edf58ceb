// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpstates: a row per change of a TCP socket's state, with the time it spent in the old one; or a summary of them; or the
//! sockets that are in a state now.
//!
//! Traces `sock:inet_sock_set_state`, with `tcp:tcp_rcv_space_adjust` for the owner of an accepted socket and
//! `tcp:tcp_retransmit_skb` where a filter has to wait for a local port.

mod active;
mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;
mod inet_diag;
mod log;
mod look;
mod now;
mod ports;
mod summary;
mod times;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::abi::types::decode;
use crate::aggregate::{keys::Keys, top};
use crate::cli::filter::{Filter, Part, States, StatesNow};
use crate::cli::{self, Common, Run, duration, milliseconds, whole};
use crate::error::Usage;
use crate::fallback::inet_diag::NoRecords;
use crate::kernel::clock;
use crate::output::{Rows, Sort, Style};
use crate::session::{Figures, Handler, Printer, Session, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use active::Active;
use bpf::types::transition;
use look::Look;
use summary::{How, MAX_GROUPS, Summary};

use columns::{columns, kinds};
use log::Log;

crate::skeleton!("tcpstates");

crate::record!(transition, bpf::types::head);

crate::enumerators! { bpf::types::event_kind as u16:
    STATE_NOW = STATE_NOW,
    PORT_RANGE = PORT_RANGE,
    PORT_RESERVED = PORT_RESERVED,
}

/// Show TCP state changes, with the time spent in the old state.
///
/// MS is '-' if the entry into the old state was not seen. TIME_WAIT and half-open connections change without a row: they
/// are not full sockets in the kernel. A socket that enters TIME_WAIT shows FIN_WAIT2 -> CLOSE. --active and --summary
/// show them.
#[derive(Parser)]
#[command(name = "tcpstates")]
struct Args {
    /// Show only changes from these states: LISTEN,close_wait; start the list with '!' to negate it
    #[arg(long, value_name = "STATES")]
    old: Option<States>,
    /// Show only changes to these states
    #[arg(long, value_name = "STATES")]
    new: Option<States>,
    /// Show only changes after at least MS milliseconds in the old state; with --active, sockets that long in their state
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    min_ms: Option<Duration>,
    /// Print statistics and current owners per state instead of events, on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    summary: Option<Option<Duration>>,
    /// Print the sockets that are in a state now, and for how long, instead of events: once, or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration, conflicts_with_all = ["summary", "journal", "old", "new"])]
    active: Option<Option<Duration>>,
    /// With --active, show only sockets in these states: CLOSE_WAIT,time_wait
    #[arg(long, value_name = "STATES", requires = "active")]
    state: Option<StatesNow>,
    /// Print --summary by KEY, too: comm, or several as comm,rport
    #[arg(long, value_name = "KEY", value_parser = Keys::parser(&[]), requires = "summary")]
    by: Option<Keys>,
    /// Sort --summary or --active by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    sort: Option<Sort>,
    /// With --active or --by, show only the first N rows; 0: all [default: 20 in a table with --by, otherwise 0]
    #[arg(long, value_name = "N", value_parser = whole(0..=u32::MAX))]
    top: Option<u32>,
    /// Log each row to the systemd journal, too: -o journal logs it there alone
    #[arg(short = 'Y', long, conflicts_with = "summary")]
    journal: bool,
    /// Print the kernel address of the socket
    #[arg(long, conflicts_with = "summary")]
    skaddr: bool,
    #[command(flatten)]
    common: Common,
}

impl Args {
    /// Whether it looks at the sockets that are there.
    fn looks(&self) -> bool {
        self.summary.is_some() || self.active.is_some()
    }

    /// How it runs: without an interval, `--active` is one look, at once.
    fn run(&self) -> Run {
        let mut run = self.common.run.clone();
        if self.active == Some(None) {
            run.duration.get_or_insert(Duration::ZERO);
        }
        run
    }

    /// How rows are shown, unless what is asked for them has no effect.
    fn style(&self) -> Result<Style> {
        let mut style = self.common.output.style();
        style.sort.clone_from(&self.sort);
        let why = match (&self.sort, self.top) {
            (Some(_), _) if !self.looks() => "--sort requires --summary or --active",
            (_, Some(_)) if self.active.is_none() && self.by.is_none() => {
                "--top requires --active, or --by"
            }
            _ => return Ok(style),
        };
        Err(Usage(why.into()).into())
    }

    /// The states that are shown, or from which changes are, as bits.
    fn states(&self) -> u32 {
        let old = self.old.map(States::mask);
        let now = self.state.map(StatesNow::mask);
        old.or(now).unwrap_or(u32::MAX)
    }

    /// Whether no socket is left out that may take a port.
    fn sees_all_ports(&self, filter: &Filter) -> bool {
        let whose = |(flag, part)| part == Part::owner || part == Part::socket && flag != "--netns";
        let ports = |flag| ["--lport", "--port"].contains(&flag);
        let mut given = filter.given();
        let leaves_out = given.any(|(flag, part)| whose((flag, part)) || ports(flag));
        !leaves_out && self.old.is_none() && self.min_ms.is_none()
    }
}

struct Changes {
    rows: Rows<transition>,
    log: Option<Log>,
}

impl Handler for Changes {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        if let Some(body) = decode::<transition>(record) {
            out.row(|buf| {
                self.rows.row(buf, "state_change", &body.into());
                if let Some(log) = &mut self.log {
                    log.row(body);
                }
            });
        }
    }

    fn resume(&mut self) {
        self.rows.refresh_clock();
        self.log.iter_mut().for_each(Log::refresh_clock);
    }

    fn tick(&mut self, _out: &mut Printer) {
        self.log.iter_mut().for_each(|log| log.say_lost(false));
    }

    fn due(&self) -> Option<Instant> {
        self.log.as_ref().and_then(Log::due)
    }

    fn finish(&mut self, _out: &mut Printer) {
        self.log.iter_mut().for_each(|log| log.say_lost(true));
    }

    fn figures(&self) -> Vec<(&'static str, Option<u64>)> {
        let lost = self
            .log
            .as_ref()
            .map(|log| ("journal_lost", Some(log.lost())));
        lost.into_iter().collect()
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

fn run(args: Args) -> Result<()> {
    let run = args.run();
    let (filter, _, _) = args.common.parts();
    let style = args.style()?;
    let log = args.journal.then(|| Log::open(&args));
    // A look has columns of its own.
    let mut changes_style = style.clone();
    if args.looks() {
        (changes_style.columns, changes_style.sort) = (None, None);
    }
    let mut changes = Changes {
        rows: Rows::new("tcpstates", changes_style, columns(args.skaddr))?,
        log: log.transpose()?,
    };
    let mut session = Session::new("tcpstates", &run, &["sock:inet_sock_set_state"])?;
    let iterator = args.looks().then_some("sockets_now");
    let mut storage = storage();
    let loaded =
        session.start::<bpf::TcpstatesSkelBuilder>(&mut storage, filter, iterator, |open| {
            let rodata = constants(&mut open.maps.rodata_data)?;
            rodata.old_states = args.states();
            rodata.new_states = args.new.map_or(u32::MAX, States::mask);
            rodata.min_ns = args.min_ms.map_or(0, |time| time.as_nanos() as u64);
            rodata.looks = args.looks();
            rodata.summary = args.summary.is_some();
            if let Some(keys) = &args.by {
                rodata.group_by = keys.bits();
                open.maps.group_histograms.set_max_entries(MAX_GROUPS)?;
            }
            rodata.want_skaddr = args.skaddr;
            rodata.jiffy_us = clock::jiffy_us() as u32;
            let waits_for_port = filter.lport.is_some() || filter.port.is_some();
            open.progs.retransmit.set_autoload(waits_for_port);
            open.progs.sockets_here.set_autoload(args.looks());
            Ok(())
        });
    let shown = (top::limit(args.top, usize::MAX), args.skaddr);
    let Some(mut skel) = loaded? else {
        let records = fallback::Changes::new(&args)?;
        let Some(interval) = args.active else {
            return crate::fallback::run(&session, filter, records, &mut changes);
        };
        let look = inet_diag::sockets(filter, records.now(), session.scans())?;
        let mut active = Active::new(look.into(), style, interval, shown)?;
        let no_records = NoRecords(inet_diag::BLANK);
        return crate::fallback::run(&session, &Filter::default(), no_records, &mut active);
    };
    let Some(sockets) = session.each_socket(skel.object_mut())? else {
        return session.run(skel.object_mut(), &mut changes);
    };
    let look = Look::new(&skel, sockets)?;
    if let Some(interval) = args.summary {
        let how = How {
            ports: args.sees_all_ports(filter),
            by: args.by,
            top: args.top,
        };
        let mut summary = Summary::new(&skel, look, style, interval, how)?;
        return session.run(skel.object_mut(), &mut summary);
    }
    let mut active = Active::new(look, style, args.active.flatten(), shown)?;
    session.run(skel.object_mut(), &mut active)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcpstates", kinds, run)
}
