// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: per state, how many sockets left it and after how long, and who is in it now.
//!
//! The kernel half counts; the sockets of this moment come from an iterator over the storage of all sockets.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use tcptools::buckets;
use tcptools::clock::boot_ns;
use tcptools::holders::Holders;
use tcptools::interval::Interval;
use tcptools::names::tcp_state;
use tcptools::output::schema::Kind;
use tcptools::output::{Column, Format, Row, Rows, Shown, Style};
use tcptools::session::{Figures, Handler, Printer, Unseen};
use tcptools::types::{Record, head};
use tcptools::value::Value;

use super::bpf::TcpstatesSkel;
use super::bpf::types::{histogram, transition};

// SAFETY: generated from C, a `repr(C)` struct of integers without padding: every bit pattern is a value.
unsafe impl plain::Plain for histogram {}

/// States in the order of a connection's life, by their numbers in `include/net/tcp_states.h`.
const ORDER: [u8; 10] = [10, 2, 3, 1, 4, 5, 11, 8, 9, 7];
const STATES: usize = 13;
/// As in tcpstates.bpf.c: 16 buckets for each power of two.
const SUB_BITS: u32 = 4;

/// The times in one state that were counted in an interval, or since the start.
#[derive(Clone, Default)]
struct Times {
    buckets: Vec<u32>,
    unknown: u64,
    /// The longest since the start, exactly.
    max_ns: u64,
}

impl Times {
    /// Adds up what each CPU counted.
    fn of(cpus: &[Vec<u8>]) -> Self {
        let mut sum = Self::default();
        for bytes in cpus {
            let mut h = histogram::default();
            if plain::copy_from_bytes(&mut h, bytes).is_err() {
                continue;
            }
            sum.buckets.resize(h.bucket.len(), 0);
            for (to, n) in sum.buckets.iter_mut().zip(h.bucket) {
                *to = to.wrapping_add(n);
            }
            sum.unknown += h.unknown;
            sum.max_ns = sum.max_ns.max(h.max_ns);
        }
        sum
    }

    fn since(&self, before: &Self) -> Self {
        let mut change = self.clone();
        for (now, then) in change.buckets.iter_mut().zip(&before.buckets) {
            *now = now.wrapping_sub(*then);
        }
        change.unknown -= before.unknown;
        change
    }

    fn timed(&self) -> u64 {
        self.buckets.iter().map(|&n| u64::from(n)).sum()
    }

    /// The time that `percent` of the sockets did not exceed: the middle of its bucket, 1/32 off at most.
    fn percentile(&self, percent: u64) -> Option<u64> {
        let time = buckets::percentile(&self.buckets, SUB_BITS, percent);
        time.map(|time| time.min(self.max_ns))
    }

    /// The longest time: exact if it is the longest since the start, otherwise the middle of its bucket.
    fn longest(&self) -> Option<u64> {
        buckets::highest(&self.buckets, SUB_BITS, self.max_ns)
    }
}

/// An owner, as far as it is known.
type Owner = Option<(u32, [u8; 16])>;

fn owner(head: &head) -> Owner {
    head.pid().map(|pid| (pid, head.owner.comm))
}

fn comm(owner: &Owner) -> Value<'_> {
    let Some((_, comm)) = owner else {
        return Value::Unknown;
    };
    let end = comm.iter().position(|&b| b == 0).unwrap_or(comm.len());
    Value::Comm(&comm[..end])
}

fn pid(owner: &Owner) -> Value<'static> {
    owner.map_or(Value::Unknown, |(pid, _)| Value::Int(pid.into()))
}

/// The sockets that are in one state.
#[derive(Default)]
struct Now {
    sockets: u64,
    owners: HashMap<Owner, u64>,
    oldest: Option<transition>,
}

impl Now {
    fn add(&mut self, socket: &transition) {
        self.sockets += 1;
        *self.owners.entry(owner(socket.head())).or_default() += 1;
        // By when they entered it: each was visited at a time of its own.
        let since = |s: &transition| s.head.boot_ns.saturating_sub(s.in_state_ns);
        let older = |than: &transition| since(socket) < since(than);
        if self.oldest.as_ref().is_none_or(older) {
            self.oldest = Some(*socket);
        }
    }

    /// The owner of most of them; of two with as many, the one with the lower process id.
    fn most(&self) -> Option<(Owner, u64)> {
        let most = self
            .owners
            .iter()
            .max_by_key(|(owner, n)| (**n, std::cmp::Reverse(**owner)));
        most.map(|(owner, n)| (*owner, *n))
    }
}

/// One row.
struct State {
    state: u8,
    times: Times,
    now: Now,
    most: Option<(Owner, u64)>,
    oldest_owner: Owner,
}

fn micros(ns: Option<u64>) -> Value<'static> {
    ns.map_or(Value::Unknown, |ns| Value::Micros(ns / 1000))
}

/// A column about the oldest socket.
macro_rules! oldest {
    ($key:literal, $heading:literal, $width:expr, $value:expr) => {
        Column::new($key, $heading, $width, |r: &Row<'_, State>| {
            r.body.now.oldest.as_ref().map_or(Value::Unknown, $value)
        })
    };
}

fn columns() -> Vec<Column<State>> {
    type C = Column<State>;
    let text = Shown::TEXT;
    vec![
        C::new("boot_ns", "", (0, 0), |r| Value::Int(r.head.boot_ns)).shown(Shown::JSON),
        C::new("state", "STATE", (11, 11), |r| {
            Value::Text(tcp_state(r.body.state))
        }),
        C::new("left", "LEFT", (6, 8), |r| {
            Value::Int(r.body.times.timed() + r.body.times.unknown)
        })
        .right(),
        C::new("timed", "TIMED", (6, 8), |r| {
            Value::Int(r.body.times.timed())
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("p50_us", "P50_MS", (6, 8), |r| {
            micros(r.body.times.percentile(50))
        })
        .right(),
        C::new("p99_us", "P99_MS", (6, 8), |r| {
            micros(r.body.times.percentile(99))
        })
        .right(),
        C::new("max_us", "MAX_MS", (6, 8), |r| {
            micros(r.body.times.longest())
        })
        .right(),
        C::new("now", "NOW", (5, 7), |r| Value::Int(r.body.now.sockets)).right(),
        C::new("most_sockets", "TOP", (5, 7), |r| {
            r.body.most.map_or(Value::Unknown, |(_, n)| Value::Int(n))
        })
        .right()
        .shown(Shown::DETAIL),
        C::new("most_pid", "TOP_PID", (7, 7), |r| {
            r.body.most.map_or(Value::Unknown, |(owner, _)| pid(&owner))
        }),
        C::new("most_comm", "TOP_COMM", (10, 16), |r| {
            r.body
                .most
                .as_ref()
                .map_or(Value::Unknown, |(owner, _)| comm(owner))
        }),
        oldest!("oldest_us", "OLD_MS", (7, 10), |o| match o.at_least {
            0 => Value::Micros(o.in_state_ns / 1000),
            _ => Value::MicrosAtLeast(o.in_state_ns / 1000),
        })
        .right(),
        oldest!("oldest_at_least", "", (0, 0), |o| Value::Bool(
            o.at_least != 0
        ))
        .shown(Shown::JSON),
        C::new("oldest_pid", "OLD_PID", (7, 7), |r| {
            pid(&r.body.oldest_owner)
        }),
        C::new("oldest_comm", "OLD_COMM", (16, 16), |r| {
            comm(&r.body.oldest_owner)
        })
        .shown(Shown::DETAIL),
        oldest!("oldest_laddr", "LADDR", (15, 39), |o| Value::Addr(
            o.head().local()
        ))
        .shown(Shown::DETAIL),
        oldest!("oldest_lport", "LPORT", (5, 5), |o| Value::Int(
            o.head().flow.lport.into()
        ))
        .shown(Shown::DETAIL),
        oldest!("oldest_raddr", "RADDR", (15, 39), |o| Value::Addr(
            o.head().remote()
        ))
        .shown(Shown::DETAIL),
        oldest!("oldest_rport", "RPORT", (5, 5), |o| Value::Int(
            o.head().flow.rport.into()
        ))
        .shown(Shown::DETAIL),
        oldest!("oldest_netns", "NETNS", (10, 10), |o| Value::Int(
            o.head().netns.into()
        ))
        .shown(Shown::DETAIL),
        oldest!("oldest_cookie", "COOKIE", (8, 8), |o| Value::Int(
            o.head().cookie
        ))
        .shown(Shown::DETAIL),
    ]
    .into_iter()
    .map(|c| {
        if c.shown == Shown::ALL {
            c.shown(text.or(Shown::JSON))
        } else {
            c
        }
    })
    .collect()
}

/// What `--describe-columns` says of its rows.
pub fn kind() -> Kind {
    Kind::aggregate("state_summary", &columns())
}

/// Prints the table at the end, or at an interval.
pub struct Summary {
    rows: Rows<State>,
    again: bool,
    histograms: MapHandle,
    sockets: Holders,
    before: Vec<Times>,
    every: Interval,
}

impl Summary {
    /// Takes what the summary is made of from the loaded programs.
    ///
    /// # Errors
    /// When the map of histograms cannot be used.
    pub fn new(
        skel: &TcpstatesSkel<'_>,
        sockets: Holders,
        style: Style,
        interval: Option<Duration>,
    ) -> Result<Self> {
        Ok(Self {
            again: style.format == Format::Table,
            rows: Rows::aggregate("tcpstates", style, columns()),
            histograms: MapHandle::try_from(&skel.maps.histograms)?,
            sockets,
            before: vec![Times::default(); STATES],
            every: Interval::new(interval),
        })
    }

    /// What was counted since the last call, by state.
    fn times(&mut self) -> Result<Vec<Times>> {
        let mut changes = Vec::with_capacity(STATES);
        for (state, before) in self.before.iter_mut().enumerate() {
            let key = (state as u32).to_ne_bytes();
            let cpus = self.histograms.lookup_percpu(&key, MapFlags::ANY)?;
            let times = Times::of(&cpus.unwrap_or_default());
            changes.push(times.since(before));
            *before = times;
        }
        Ok(changes)
    }

    fn now(&self) -> Result<Vec<Now>> {
        let mut now: Vec<_> = (0..STATES).map(|_| Now::default()).collect();
        for chunk in self.sockets.run()?.chunks_exact(size_of::<transition>()) {
            let mut socket = transition::default();
            if plain::copy_from_bytes(&mut socket, chunk).is_ok()
                && let Some(state) = now.get_mut(usize::from(socket.old_state))
            {
                state.add(&socket);
            }
        }
        Ok(now)
    }

    fn print(&mut self, out: &mut Printer) -> Result<()> {
        let (mut times, mut now) = (self.times()?, self.now()?);
        let head = head {
            boot_ns: boot_ns(),
            ..head::default()
        };
        if self.again {
            out.heading(|buf| self.rows.header(buf));
        }
        for state in ORDER {
            let times = std::mem::take(&mut times[usize::from(state)]);
            let now = std::mem::take(&mut now[usize::from(state)]);
            if times.timed() + times.unknown + now.sockets == 0 {
                continue;
            }
            let body = State {
                state,
                times,
                most: now.most(),
                oldest_owner: now.oldest.as_ref().and_then(|o| owner(o.head())),
                now,
            };
            let (head, body) = (&head, &body);
            out.row(|buf| self.rows.row(buf, "state_summary", &Row { head, body }));
        }
        Ok(())
    }

    fn try_print(&mut self, out: &mut Printer) {
        if let Err(error) = self.print(out) {
            tcptools::message!("tcpstates: no summary: {error:#}");
        }
    }
}

impl Handler for Summary {
    fn header(&mut self, out: &mut Vec<u8>) {
        if !self.again {
            self.rows.header(out);
        }
    }

    fn record(&mut self, _record: &[u8], _out: &mut Printer) {}

    fn tick(&mut self, out: &mut Printer) {
        self.rows.refresh_clock();
        if self.every.is_due() {
            self.try_print(out);
        }
    }

    fn shows(&self) -> tcptools::session::Shows {
        self.every.length().into()
    }

    fn finish(&mut self, out: &mut Printer) {
        self.try_print(out);
    }

    fn unseen(&self) -> Unseen {
        Unseen {
            unvisited: self.sockets.unvisited(),
            ..Unseen::default()
        }
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ns: &[u64]) -> Times {
        let mut buckets = vec![0; 784];
        for &ns in ns {
            let bucket = (0..784)
                .rposition(|b| buckets::lowest(b, SUB_BITS) <= ns)
                .unwrap();
            buckets[bucket] += 1;
        }
        Times {
            buckets,
            unknown: 0,
            max_ns: ns.iter().copied().max().unwrap_or(0),
        }
    }

    #[test]
    fn percentiles_are_within_their_error() {
        let ns: Vec<u64> = (1..=1000).map(|n| n * 1_000_003).collect();
        let times = times(&ns);
        for (percent, exact) in [(50, 500_001_500u64), (99, 990_002_970), (1, 10_000_030)] {
            let told = times.percentile(percent).unwrap();
            assert!(
                told.abs_diff(exact) * 32 <= exact,
                "p{percent}: {told} for {exact}"
            );
        }
        assert_eq!(times.longest(), Some(1_000_003_000));
    }

    #[test]
    fn nothing_has_no_percentile_and_one_socket_is_all_of_them() {
        assert_eq!(
            (times(&[]).percentile(50), times(&[]).longest()),
            (None, None)
        );
        let one = times(&[1_000_000]);
        assert_eq!(one.longest(), Some(1_000_000));
        assert!(one.percentile(99).unwrap() <= 1_000_000);
    }

    #[test]
    fn an_interval_forgets_what_was_before() {
        let (before, after) = (times(&[5_000_000_000]), times(&[5_000_000_000, 1000]));
        let change = after.since(&before);
        assert_eq!(change.timed(), 1);
        let longest = change.longest().unwrap();
        assert!(longest.abs_diff(1000) * 32 <= 1000, "{longest}");
    }
}
