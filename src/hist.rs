// SPDX-License-Identifier: MIT OR Apache-2.0
//! Histograms in powers of two, made in the kernel (`bpf/hist.bpf.h`): read at the end of a run or at an interval.

use std::collections::HashMap;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use crate::clock::boot_ns;
use crate::count::Every;
use crate::output::schema::Kind;
use crate::output::{Format, Stamp, Style};
use crate::session::Printer;
use crate::table::Table;
use crate::types::{flow, hist, hist_key};

/// How many histograms a run may have: what is beyond is counted, and told.
pub const MAX_HISTS: u32 = 10_240;

/// Characters of the longest bar.
const BAR: usize = 40;

/// Shows what histograms have gained since the last time, the fullest first.
pub struct Hists {
    tool: &'static str,
    table: Table,
    style: Style,
    /// What the values are: `usecs`, and its suffix in JSON: `us`.
    unit: (&'static str, &'static str),
    /// What there is one histogram for each of: `raddr`, `laddr`, `rport`, `lport`.
    key: &'static str,
    shown: HashMap<Vec<u8>, hist>,
    every: Every,
    stamp: Stamp,
}

/// One histogram, and the address or port that it is of.
struct Shown {
    addr: Option<IpAddr>,
    port: Option<u32>,
    hist: hist,
}

impl Shown {
    fn of(&self) -> Option<String> {
        let port = || self.port.map(|port| port.to_string());
        self.addr.map(|addr| addr.to_string()).or_else(port)
    }

    fn count(&self) -> u64 {
        self.hist.slot.iter().sum()
    }

    /// Lowest and highest value of a slot, and how many fell into it.
    fn slots(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        let bounds = |n: usize| {
            if n == 0 {
                (0, 1)
            } else {
                (1 << n, (2 << n) - 1)
            }
        };
        let slots = self.hist.slot.iter().enumerate();
        slots.map(move |(n, &count)| (bounds(n).0, bounds(n).1, count))
    }
}

impl Hists {
    /// Shown at every `interval`, if there is one; [`Hists::print`] is for the end.
    pub fn new(
        tool: &'static str,
        style: Style,
        table: Table,
        unit: (&'static str, &'static str),
        interval: Option<Duration>,
    ) -> Self {
        Self {
            tool,
            table,
            stamp: Stamp::new(tool, &style),
            style,
            unit,
            key: "raddr",
            shown: HashMap::new(),
            every: Every::new(interval),
        }
    }

    /// What `--describe-columns` says of one record.
    pub fn kind() -> Kind {
        let keys = [
            "boot_ns", "raddr", "count", "sum_us", "buckets", "lo_us", "hi_us",
        ];
        Kind::record("histogram", &keys)
    }

    /// hist_add() of hist.bpf.h, on this side. `flow`: of its remote address, if there is not one for all.
    pub fn add(&mut self, flow: Option<&flow>, kind: u32, value: u64) {
        let key = hist_key {
            raddr: flow.map_or([0; 16], |flow| flow.raddr),
            family: flow.map_or(0, |flow| flow.family.into()),
            kind,
        };
        // SAFETY: integers only, without padding, so all its bytes have values.
        let key = unsafe { plain::as_bytes(&key) };
        self.table.change(key, |hist: &mut hist| {
            let slot = value.max(1).ilog2() as usize;
            hist.slot[slot.min(hist.slot.len() - 1)] += 1;
            hist.sum += value;
        });
    }

    /// See [`Table::uncounted`].
    pub fn uncounted(&self) -> u64 {
        self.table.uncounted()
    }

    /// One for each `laddr`, `rport` or `lport` instead of each `raddr`: the kernel half puts a local address where the
    /// remote one belongs, and a port into the key's kind.
    pub fn by(mut self, key: &'static str) -> Self {
        self.key = key;
        self
    }

    /// Only CSV has one: a line per bucket follows.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        if self.style.format == Format::Csv && self.style.header {
            let (key, unit) = (self.key, self.unit.1);
            self.stamp.csv_header(out);
            let _ = writeln!(out, ",boot_ns,{key},lo_{unit},hi_{unit},count");
        }
    }

    /// Prints if the interval is over.
    pub fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.print(out);
        }
    }

    /// Prints what came since the last time.
    pub fn print(&mut self, out: &mut Printer) {
        match self.table.read() {
            Ok(entries) => self.show(entries, out),
            Err(error) => crate::message!("{}: histograms are not shown: {error:#}", self.tool),
        }
    }

    fn show(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>, out: &mut Printer) {
        self.stamp.refresh_clock();
        let mut gained: Vec<_> = entries
            .into_iter()
            .filter_map(|(key, value)| self.gained(key, &value))
            .filter(|shown| shown.count() != 0)
            .collect();
        gained.sort_by_key(|shown| (std::cmp::Reverse(shown.count()), shown.addr, shown.port));
        for shown in &gained {
            out.row(|buf| match self.style.format {
                Format::Table => self.bars(buf, shown),
                Format::Csv => self.csv(buf, shown),
                Format::Json => self.json(buf, shown),
            });
        }
    }

    fn gained(&mut self, key: Vec<u8>, value: &[u8]) -> Option<Shown> {
        let (mut of, mut hist) = (hist_key::default(), hist::default());
        plain::copy_from_bytes(&mut of, &key).ok()?;
        plain::copy_from_bytes(&mut hist, value).ok()?;
        let by_port = self.key.ends_with("port");
        let mut shown = Shown {
            addr: None,
            port: by_port.then_some(of.kind),
            hist,
        };
        if let Some(before) = self.shown.insert(key, hist) {
            let slots = shown.hist.slot.iter_mut().zip(before.slot);
            slots.for_each(|(now, before)| *now -= before);
            shown.hist.sum -= before.sum;
        }
        if of.family != 0 {
            let flow = flow {
                raddr: of.raddr,
                family: of.family as u8,
                ..flow::default()
            };
            shown.addr = Some(flow.remote());
        }
        Some(shown)
    }

    fn bars(&mut self, out: &mut Vec<u8>, shown: &Shown) {
        if self.style.time {
            let _ = writeln!(out, "{}", self.stamp.local_time(boot_ns()));
        }
        if let Some(of) = shown.of() {
            let _ = writeln!(out, "{} = {of}", self.key);
        }
        let (count, unit) = (shown.count(), self.unit);
        let _ = writeln!(out, "     {:<19} : count     distribution", unit.0);
        let slots: Vec<_> = shown.slots().collect();
        let highest = slots.iter().map(|s| s.2).max().unwrap_or(0).max(1);
        let last = slots.iter().rposition(|s| s.2 != 0).unwrap_or(0);
        for (lo, hi, n) in &slots[..=last] {
            let stars = (*n as u128 * BAR as u128 / u128::from(highest)) as usize;
            let bar = "*".repeat(stars);
            let _ = writeln!(out, "{lo:>10} -> {hi:<10} : {n:<8} |{bar:<BAR$}|");
        }
        let mean = shown.hist.sum / count;
        let _ = writeln!(out, "{count} values, {mean} {} on average\n", unit.0);
    }

    /// A line per bucket, with the bucket's keys.
    fn csv(&mut self, out: &mut Vec<u8>, shown: &Shown) {
        let now = boot_ns();
        let of = shown.of().unwrap_or_default();
        for (lo, hi, count) in shown.slots().filter(|slot| slot.2 != 0) {
            self.stamp.csv(out, "histogram", now);
            let _ = writeln!(out, ",{now},{of},{lo},{hi},{count}");
        }
    }

    fn json(&mut self, out: &mut Vec<u8>, shown: &Shown) {
        let now = boot_ns();
        let (key, unit) = (self.key, self.unit.1);
        self.stamp.json(out, "histogram", now);
        let _ = write!(out, r#","boot_ns":{now},"{key}":"#);
        let _ = match (shown.addr, shown.port) {
            (Some(addr), _) => write!(out, "\"{addr}\""),
            (None, Some(port)) => write!(out, "{port}"),
            (None, None) => write!(out, "null"),
        };
        let (count, sum) = (shown.count(), shown.hist.sum);
        let _ = write!(out, r#","count":{count},"sum_{unit}":{sum},"buckets":["#);
        let full = shown.slots().filter(|slot| slot.2 != 0);
        for (n, (lo, hi, count)) in full.enumerate() {
            let comma = if n == 0 { "" } else { "," };
            let _ = write!(
                out,
                r#"{comma}{{"lo_{unit}":{lo},"hi_{unit}":{hi},"count":{count}}}"#
            );
        }
        out.extend_from_slice(b"]}\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_powers_of_two_without_a_gap() {
        let shown = Shown {
            addr: None,
            port: None,
            hist: hist::default(),
        };
        let mut next = 0;
        for (lo, hi, _) in shown.slots() {
            assert_eq!(lo, next);
            assert!(hi >= lo);
            next = hi + 1;
        }
        assert_eq!(next, 1 << shown.hist.slot.len());
    }
}
