// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--active`: the sockets that are in a state now, those that have been there longest first.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::abi::known::PROGRAMS;
use crate::abi::names::state::LISTEN;
use crate::abi::names::tcp_state;
use crate::aggregate::top::{self, First, Rank};
use crate::by_number;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::*;
use crate::output::{Column, Format, Rows, Style, Value};
use crate::session::{Figures, Handler, Interval, Printer, Shows};

use super::STATE_NOW;
use super::bpf::types::{active, keeper};
use super::look::Look;

/// Rows of a look that are kept to be sorted: 36 MiB.
const MAX_ROWS: usize = 256 * 1024;

/// `AGE_UNKNOWN` of active.bpf.h.
pub(super) const AGE_UNKNOWN: u32 = u32::MAX;

const KEEPERS: [&str; 5] = by_number! { keeper:
    KEPT_BY_PROCESS => "process",
    KEPT_IN_ACCEPT_QUEUE => "accept_queue",
    KEPT_AS_ORPHAN => "orphan",
    KEPT_AS_REQUEST => "request",
    KEPT_IN_TIMEWAIT => "timewait",
};

impl Rank<()> for active {
    /// A listener is no worse for having been one for long. Each socket was visited at a time of its own.
    type Rank = (bool, u64, u64, u64);

    fn rank(&self, _by: ()) -> Self::Rank {
        let since_ns = self.head.boot_ns.saturating_sub(self.in_state_ns);
        (
            self.state == LISTEN,
            since_ns,
            self.head.cookie,
            self.skaddr,
        )
    }
}

fn ago(age_ms: u32) -> Option<u64> {
    unless(age_ms, AGE_UNKNOWN).map(|ms| u64::from(ms) * 1000)
}

/// Since the last data in either direction.
fn idle(s: &active) -> Option<u64> {
    ago(s.last_data_sent_ms.min(s.last_data_recv_ms))
}

fn of_connection<T>(s: &active, value: T) -> Option<T> {
    (s.state != LISTEN).then_some(value)
}

fn of_listener<T>(s: &active, value: T) -> Option<T> {
    (s.state == LISTEN).then_some(value)
}

pub(super) fn columns(skaddr: bool) -> Vec<Column<active>> {
    let mut columns = columns! { |row, s: active|
        "skaddr"        ALL    "SKADDR"  (16, 16)        => Value::Hex(s.skaddr);
    };
    columns.truncate(usize::from(skaddr));
    columns.extend(columns! { |row, s: active|
        "pid"           TEXT   "PID"     (7, 7)          => pid(row);
        "comm"          TEXT   "COMM"    (10, 16)        => comm(row);
        "family"        WIDE   "IP"      (2, 2)          => family(row);
        "laddr"         WIDE   "LADDR"   (15, 39)        => laddr(row);
        "lport"         TEXT   "LPORT"   (5, 5)          => lport(row);
        "raddr"         TEXT   "RADDR"   (15, 39)        => raddr(row);
        "rport"         TEXT   "RPORT"   (5, 5)          => rport(row);
        "state"         ALL    "STATE"   (11, 11)        => tcp_state(s.state);
        "in_state_us"   ALL    "MS"      (8, 10).right   => micros_since(s.in_state_ns / 1000, s.at_least != 0);
        "in_state_at_least" JSON                         => s.at_least != 0;
        "idle_us"       ALL    "IDLE_MS" (8, 10).right   => micros(idle(s));
        "rqueue_bytes"  DETAIL "RCVQ"    (7, 7).right    => of_connection(s, bytes(s.rqueue));
        "wqueue_bytes"  DETAIL "SNDQ"    (7, 7).right    => of_connection(s, bytes(s.wqueue));
        "held_by"       DETAIL "HELD_BY" (12, 12)        => KEEPERS.get(usize::from(s.keeper)).copied();
        "accept_queue"  JSON                             => of_listener(s, s.rqueue);
        "accept_queue_max"  JSON                         => of_listener(s, s.wqueue);
        "last_data_sent_us" JSON                         => micros(ago(s.last_data_sent_ms));
        "last_data_recv_us" JSON                         => micros(ago(s.last_data_recv_ms));
        "last_ack_recv_us"  JSON                         => micros(ago(s.last_ack_recv_ms));
    });
    columns
}

/// What `--describe-columns` says of its rows.
pub(super) fn kind() -> Kind {
    Kind::row("active", &columns(true)).known(&[PROGRAMS])
}

/// Prints the sockets once, or at an interval.
pub(super) struct Active {
    look: Look,
    rows: Rows<active>,
    first: First<active, ()>,
    /// As many as the user wants.
    top: usize,
    every: Interval,
    /// A table has a header each time.
    again: bool,
    printed: bool,
    uncounted: u64,
}

impl Active {
    /// Looks at once and then at each interval, or at the end.
    ///
    /// # Errors
    /// For a column that there is not.
    pub(super) fn new(
        look: Look,
        style: Style,
        interval: Option<Duration>,
        (top, skaddr): (usize, bool),
    ) -> Result<Self> {
        // What another order puts first may be last in this one.
        let kept = match style.sort {
            Some(_) => MAX_ROWS,
            None => top.min(MAX_ROWS),
        };
        Ok(Self {
            look,
            again: style.format == Format::Table,
            rows: Rows::new("tcpstates", style, columns(skaddr))?,
            first: First::new((), kept),
            top,
            every: interval.map_or(Interval::new(None), Interval::at_once),
            printed: false,
            uncounted: 0,
        })
    }

    fn print(&mut self, out: &mut Printer) {
        let first = &mut self.first;
        let looked = self.look.each(|one| {
            if one.head.event == STATE_NOW {
                first.add(*one);
            }
        });
        if let Err(error) = looked {
            crate::message!("tcpstates: cannot show all sockets: {error:#}");
        }
        let (mut first, all) = self.first.take();
        self.rows.refresh_clock();
        self.rows.sort(&mut first, |one| one.into());
        if self.again && self.printed {
            out.heading(|buf| self.rows.header(buf));
        }
        for one in first.iter().take(self.top) {
            out.row(|buf| self.rows.row(buf, "active", &one.into()));
        }
        if self.top < MAX_ROWS && !self.printed {
            top::report("tcpstates", ("socket", "sockets"), all, self.top);
        } else if self.top >= MAX_ROWS {
            self.uncounted += all.saturating_sub(MAX_ROWS) as u64;
        }
        self.printed = true;
    }
}

impl Handler for Active {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn attached(&mut self) {
        self.look.begin();
    }

    fn record(&mut self, _record: &[u8], _out: &mut Printer) {}

    fn shows(&self) -> Shows {
        self.every.length().into()
    }

    fn has_ends(&self) -> bool {
        true
    }

    fn due(&self) -> Option<Instant> {
        self.every.due()
    }

    fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.print(out);
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        // At an interval, what is now was shown.
        if !self.printed {
            self.print(out);
        }
    }

    fn uncounted(&self) -> u64 {
        self.uncounted
    }

    fn unvisited(&self) -> u64 {
        self.look.unvisited()
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_been_there_longest_comes_first_and_listeners_last() {
        let socket = |state, boot_ns, in_state_ns, cookie| {
            let mut one = active {
                state,
                in_state_ns,
                ..active::default()
            };
            (one.head.boot_ns, one.head.cookie) = (boot_ns, cookie);
            one
        };
        let mut first = First::new((), 10);
        [
            socket(1, 900, 100, 1),
            socket(LISTEN, 900, 900, 2),
            socket(8, 950, 200, 3),
            // As long, and looked at later.
            socket(8, 999, 199, 4),
            socket(6, 900, 0, 5),
        ]
        .into_iter()
        .for_each(|one| first.add(one));
        let order: Vec<_> = first.take().0.iter().map(|one| one.head.cookie).collect();
        assert_eq!(order, [3, 1, 4, 5, 2]);
    }

    #[test]
    fn idle_since_the_later_of_both_directions() {
        let mut one = active {
            last_data_sent_ms: AGE_UNKNOWN,
            last_data_recv_ms: 7,
            ..active::default()
        };
        assert_eq!(idle(&one), Some(7000));
        one.last_data_sent_ms = 3;
        assert_eq!(idle(&one), Some(3000));
        (one.last_data_sent_ms, one.last_data_recv_ms) = (AGE_UNKNOWN, AGE_UNKNOWN);
        assert_eq!(idle(&one), None);
    }
}
