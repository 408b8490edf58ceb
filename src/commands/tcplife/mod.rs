// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcplife: a row per TCP session when it ends: who, with whom, how much, how long, and how it ended.
//!
//! Traces `sock:inet_sock_set_state`, with `tcp:tcp_send_reset` and `tcp:tcp_receive_reset` for the ending and
//! `tcp:tcp_rcv_space_adjust` for the owner of an accepted socket.

mod close_reason;
mod columns;
mod fallback;
#[cfg(any(test, fuzzing))]
pub(crate) mod golden;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::abi::known::KNOWN_ENDED;
use crate::abi::types::{decode, event_name};
use crate::cli::{self, Common, duration};
use crate::output::{Format, Rows, Sort, Style};
use crate::session::active::Active;
use crate::session::{Age, Deferred, Figures, Handler, Printer, Session, constants, storage};
use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;

use bpf::types::session;
use close_reason::{Ending, RST_SENT};
pub(super) use columns::reason_of;
use columns::{EVENTS, columns, kinds};

crate::skeleton!("tcplife");

crate::record!(session, bpf::types::head);

/// Show TCP sessions as they close: process, addresses, bytes, duration and how each ended.
///
/// E says how the session ended, in upper case if this end did it: F sent the first FIN, f received it, B both at
/// once, R sent an RST, r received one, x refused, t timed out, u unreachable, A aborted. Wide rows, CSV and JSON
/// spell it out.
#[derive(Parser)]
#[command(name = "tcplife")]
struct Args {
    /// Also print the sessions that are still open, on exit or every TIME
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    active: Option<Option<Duration>>,
    /// Sort the sessions that are still open by COLUMN: numbers from the largest, names from A; +COLUMN ascending, -COLUMN descending
    #[arg(
        long,
        value_name = "COLUMN",
        requires = "active",
        allow_hyphen_values = true
    )]
    sort: Option<Sort>,
    #[command(flatten)]
    common: Common,
}

crate::enumerators! { bpf::types::event_kind as u16:
    SESSION_CLOSED = SESSION_CLOSED,
    SESSION_AMENDED = SESSION_AMENDED,
}

/// How long a reset may explain a row. It follows within microseconds, unless the process is preempted in between.
const DOUBT: Duration = Duration::from_millis(50);

struct Sessions {
    rows: Rows<session>,
    /// Rows whose reason a later reset may change, and the rows behind them.
    deferred: Deferred<session>,
    active: Option<Active>,
}

impl Sessions {
    fn new(rows: Rows<session>) -> Self {
        Self {
            rows,
            deferred: Deferred::default(),
            active: None,
        }
    }

    fn print(&mut self, body: &session, out: &mut Printer) {
        let event = event_name(&EVENTS, body.head.event);
        out.row(|buf| self.rows.row(buf, event, &body.into()));
    }

    /// The reader may have read between a row and the reset that explains it.
    fn release(&mut self, all: bool, out: &mut Printer) {
        let is_due = |age: Age| all || age.turns > 0 && age.time >= DOUBT;
        while let Some(body) = self.deferred.pop_if(|_, age| is_due(age)) {
            self.print(&body, out);
        }
    }

    fn print_active(&mut self, out: &mut Printer) {
        let open = self.active.as_ref().map(Active::records);
        let mut open: Vec<session> = open.unwrap_or_default();
        self.rows.sort(&mut open, |body| body.into());
        for body in open {
            self.print(&body, out);
        }
    }
}

impl Handler for Sessions {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(body) = decode::<session>(record) else {
            return;
        };
        let body = &decided(body);
        if body.head.event == SESSION_AMENDED {
            let rows = self.deferred.iter_mut();
            rows.filter(|row| row.deferred != 0 && row.sock == body.sock)
                .for_each(|row| row.reason = RST_SENT);
        } else if body.head.event == SESSION_CLOSED
            && (body.deferred != 0 || !self.deferred.is_empty())
        {
            self.deferred.push(*body);
        } else {
            self.print(body, out);
        }
    }

    fn resume(&mut self) {
        self.rows.refresh_clock();
    }

    fn due(&self) -> Option<Instant> {
        let shown = self.active.as_ref().and_then(|active| active.every.due());
        shown.into_iter().chain(self.deferred.due(DOUBT)).min()
    }

    fn tick(&mut self, out: &mut Printer) {
        self.release(false, out);
        self.deferred.end_turn();
        if self.active.as_mut().is_some_and(|a| a.every.is_due()) {
            self.print_active(out);
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.release(true, out);
        self.print_active(out);
    }

    fn unvisited(&self) -> u64 {
        self.active.as_ref().map_or(0, Active::unvisited)
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

/// A session from the kernel with its reason decided here; the fallback has decided already.
fn decided(body: &session) -> session {
    if body.head.event != SESSION_CLOSED || body.head.known & KNOWN_ENDED == 0 {
        return *body;
    }
    let (reason, deferred) = Ending::from(body).reason();
    session {
        reason,
        deferred: deferred.into(),
        ..*body
    }
}

fn needs_detail(style: &Style) -> bool {
    style.wide || style.format != Format::Table || style.columns.is_some() || style.sort.is_some()
}

fn run(args: Args) -> Result<()> {
    let (filter, output, run) = args.common.parts();
    let mut style = output.style();
    style.sort.clone_from(&args.sort);
    let detail = needs_detail(&style);
    let mut sessions = Sessions::new(Rows::new("tcplife", style, columns())?);
    let mut session = Session::new("tcplife", run, &["sock:inet_sock_set_state"])?;
    let iterator = args.active.map(|_| "open_sessions");
    let mut storage = storage();
    let loaded = session.start::<bpf::TcplifeSkelBuilder>(&mut storage, filter, iterator, |open| {
        constants(&mut open.maps.rodata_data)?.detail = detail;
        Ok(())
    });
    let Some(mut skel) = loaded? else {
        let records = fallback::Sessions::new(&args, session.sockets().is_some())?;
        return crate::fallback::run(&session, filter, records, &mut sessions);
    };
    let sockets = session.each_socket(skel.object_mut())?;
    let active = sockets.zip(args.active);
    sessions.active = active.map(|(sockets, interval)| Active::new("tcplife", sockets, interval));
    session.run(skel.object_mut(), &mut sessions)
}

/// The whole life of the command.
pub fn main() -> ExitCode {
    cli::main("tcplife", kinds, run)
}
