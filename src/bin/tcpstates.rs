// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpstates: a row per change of a TCP socket's state, with the time it spent in the old one; or a summary of them.
//!
//! Traces `sock:inet_sock_set_state`, with `tcp:tcp_rcv_space_adjust` for the owner of an accepted socket and
//! `tcp:tcp_retransmit_skb` where a filter has to wait for a local port.

use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use libbpf_rs::skel::Skel;
use tcptools::cli::{self, Common, duration, milliseconds};
use tcptools::filter::States;
use tcptools::journal::{self, Journal};
use tcptools::names::tcp_state;
use tcptools::output::schema::{self, Kind};
use tcptools::output::{
    Column, Rows, Shown, comm, cookie, family, laddr, lport, pid, raddr, rport,
};
use tcptools::session::{Figures, Handler, Printer, Session};
use tcptools::types::{Record, decode};
use tcptools::value::Value;

#[path = "tcpstates/record.rs"]
mod record;
#[path = "tcpstates/summary.rs"]
mod summary;

tcptools::skeleton!("tcpstates");
use bpf::types::transition;
tcptools::record!(transition, bpf::types::head);

/// Show every change of a TCP socket's state, with the time spent in the old one.
///
/// MS is '-' where the entry into the old state was not seen. TIME_WAIT and half-open sockets make no rows: the kernel
/// keeps them in smaller sockets, and what enters TIME_WAIT shows as FIN_WAIT2 -> CLOSE.
#[derive(Parser)]
#[command(name = "tcpstates")]
struct Args {
    /// Only changes from these states: LISTEN,close_wait; '!' first to exclude
    #[arg(long, value_name = "STATES")]
    old: Option<States>,
    /// Only changes to these states
    #[arg(long, value_name = "STATES")]
    new: Option<States>,
    /// Only after so many milliseconds in the old state
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    min_ms: Option<Duration>,
    /// Instead of rows, show what happened in each state and who is in it: at the end, or at this interval
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, value_parser = duration)]
    summary: Option<Option<Duration>>,
    /// Log each row to the systemd journal, too
    #[arg(short = 'Y', long, conflicts_with = "summary")]
    journal: bool,
    /// Where the journal listens
    #[arg(long, hide = true, value_name = "PATH", default_value = journal::SOCKET)]
    journal_socket: PathBuf,
    /// Show the socket's address in the kernel
    #[arg(long, conflicts_with = "summary")]
    skaddr: bool,
    #[command(flatten)]
    common: Common,
}

/// `in_state_ns` when the entry into the old state was not seen.
const TIME_UNKNOWN: u64 = u64::MAX;

fn in_state_us(body: &transition) -> Option<u64> {
    (body.in_state_ns != TIME_UNKNOWN).then_some(body.in_state_ns / 1000)
}

fn columns(skaddr: bool) -> Vec<Column<transition>> {
    type C = Column<transition>;
    let text = Shown::TEXT;
    let roomy = Shown::WIDE;
    let mut columns = vec![
        C::new("cookie", "COOKIE", (8, 8), cookie).shown(roomy),
        C::new("pid", "PID", (7, 7), pid).shown(text),
        C::new("comm", "COMM", (10, 16), comm).shown(text),
        C::new("family", "IP", (2, 2), family).shown(roomy),
        C::new("laddr", "LADDR", (15, 39), laddr).shown(roomy),
        C::new("lport", "LPORT", (5, 5), lport).shown(text),
        C::new("raddr", "RADDR", (15, 39), raddr).shown(text),
        C::new("rport", "RPORT", (5, 5), rport).shown(text),
        C::new("old_state", "OLDSTATE", (11, 11), |r| {
            Value::Text(tcp_state(r.body.old_state))
        }),
        C::new("", "->", (2, 2), |_| Value::Text("->")).shown(text),
        C::new("new_state", "NEWSTATE", (11, 11), |r| {
            Value::Text(tcp_state(r.body.new_state))
        }),
        C::new("in_state_us", "MS", (5, 9), |r| {
            in_state_us(r.body).map_or(Value::Unknown, Value::Micros)
        }),
    ];
    if skaddr {
        let column = C::new("skaddr", "SKADDR", (16, 16), |r| Value::Hex(r.body.skaddr));
        columns.insert(0, column);
    }
    columns
}

struct Changes {
    rows: Rows<transition>,
    journal: Option<Journal>,
}

impl Handler for Changes {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        if let Some(body) = decode::<transition>(record) {
            out.row(|buf| {
                self.rows.row(buf, "state_change", &body.into());
                if let Some(journal) = &mut self.journal {
                    log(journal, body);
                }
            });
        }
    }

    fn tick(&mut self, _out: &mut Printer) {
        self.rows.refresh_clock();
    }

    fn finish(&mut self, _out: &mut Printer) {
        if let Some(lost) = self.journal.as_ref().map(Journal::lost).filter(|&n| n > 0) {
            tcptools::message!("tcpstates: the journal did not take {lost} entries");
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

/// An entry with the fields of bcc's tcpstates; what is not known is left out.
fn log(journal: &mut Journal, body: &transition) {
    let head = body.head();
    let (local, remote) = (head.local(), head.remote());
    let (lport, rport) = (head.flow.lport, head.flow.rport);
    let (old, new) = (tcp_state(body.old_state), tcp_state(body.new_state));
    let (from, to) = (local.with_port(lport), remote.with_port(rport));
    journal.begin();
    journal.text("SYSLOG_IDENTIFIER", "tcpstates");
    journal.text("PRIORITY", 5);
    journal.text("MESSAGE", format_args!("{from} {to} {old} -> {new}"));
    if let (Some(pid), Some(comm)) = (head.pid(), head.comm()) {
        journal.text("OBJECT_PID", pid);
        journal.field("OBJECT_COMM", comm);
    }
    let (source, destination) = match head.flow.family {
        4 => (
            "OBJECT_IPV4_SOURCE_ADDRESS",
            "OBJECT_IPV4_DESTINATION_ADDRESS",
        ),
        _ => (
            "OBJECT_IPV6_SOURCE_ADDRESS",
            "OBJECT_IPV6_DESTINATION_ADDRESS",
        ),
    };
    journal.text(source, local);
    journal.text("OBJECT_TCP_SOURCE_PORT", lport);
    journal.text(destination, remote);
    journal.text("OBJECT_TCP_DESTINATION_PORT", rport);
    journal.text("OBJECT_TCP_OLD_STATE", old);
    journal.text("OBJECT_TCP_NEW_STATE", new);
    if let Some(us) = in_state_us(body) {
        journal.text("OBJECT_TCP_SPAN_TIME", us);
    }
    if head.cookie != 0 {
        journal.text("OBJECT_TCP_COOKIE", head.cookie);
    }
    journal.send();
}

fn run(args: Args) -> Result<()> {
    let Common {
        filter,
        output,
        run,
    } = &args.common;
    let journal = match args.journal {
        true => Some(Journal::open(&args.journal_socket)?),
        false => None,
    };
    let session = Session::new("tcpstates", run, &["sock:inet_sock_set_state"]);
    if session.has_only_records() {
        let changes = record::Changes::new(&args)?;
        let rows = Rows::new("tcpstates", output.style(), columns(args.skaddr));
        return tcptools::record::run(&session, filter, changes, &mut Changes { rows, journal });
    }
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(bpf::TcpstatesSkelBuilder::default(), &mut storage, filter)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.old_states = args.old.map_or(u32::MAX, States::mask);
        rodata.new_states = args.new.map_or(u32::MAX, States::mask);
        rodata.min_ns = args.min_ms.map_or(0, |time| time.as_nanos() as u64);
        rodata.summary = args.summary.is_some();
        rodata.want_skaddr = args.skaddr;
    }
    let waits_for_port = filter.lport.is_some() || filter.port.is_some();
    open.progs.retransmit.set_autoload(waits_for_port);
    if args.summary.is_some() {
        session.enable(&mut open, "sockets_now");
    }
    let mut skel = session.load(open)?;
    let Some(interval) = args.summary else {
        let rows = Rows::new("tcpstates", output.style(), columns(args.skaddr));
        return session.run(skel.object_mut(), &mut Changes { rows, journal });
    };
    let sockets = session.each_socket(skel.object_mut(), "sockets_now")?;
    let mut summary = summary::Summary::new(&skel, sockets, output.style(), interval)?;
    session.run(skel.object_mut(), &mut summary)
}

/// Every kind of row, with its columns.
fn kinds() -> Vec<Kind> {
    vec![Kind::row("state_change", &columns(true)), summary::kind()]
}

fn main() -> ExitCode {
    schema::answer(kinds).unwrap_or_else(|| cli::main("tcpstates", run))
}
