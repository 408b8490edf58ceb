// SPDX-License-Identifier: MIT OR Apache-2.0
//! Histograms made in the kernel (`bpf/hist.bpf.h`): read at the end of a run or at an interval, shown in powers of two
//! with percentiles.

use std::collections::HashMap;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use crate::buckets::{self, lowest};
use crate::clock::boot_ns;
use crate::interval::Interval;
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
    /// What the values are of, where that is not always the same: `sample` in JSON and CSV.
    sample: Option<&'static str>,
    /// What the kernel half's table had the last time, if there is a next one.
    shown: HashMap<Vec<u8>, hist>,
    again: bool,
    every: Interval,
    stamp: Stamp,
}

/// `HIST_SUB_BITS` and `HIST_MAX_EXPONENT` of hist.bpf.h.
const SUB_BITS: u32 = 3;
const MAX_EXPONENT: usize = 34;

/// What is told of the distribution: its name, and how many of a hundred values are not higher.
const PERCENTILES: [(&str, u64); 3] = [("p50", 50), ("p90", 90), ("p99", 99)];

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
        self.hist.bucket.iter().sum()
    }

    /// Lowest and highest value of each power of two, and how many fell into it.
    fn slots(&self) -> Vec<(u64, u64, u64)> {
        let bounds = |n: usize| match n {
            0 => (0, 1),
            _ => (1 << n, (2 << n) - 1),
        };
        let mut slots = [0; MAX_EXPONENT];
        for (bucket, count) in self.hist.bucket.iter().enumerate() {
            slots[lowest(bucket, SUB_BITS).max(1).ilog2() as usize] += count;
        }
        let with_bounds = |(n, count)| (bounds(n).0, bounds(n).1, count);
        slots.into_iter().enumerate().map(with_bounds).collect()
    }

    fn max(&self) -> u64 {
        buckets::highest(&self.hist.bucket, SUB_BITS, self.hist.max).unwrap_or(0)
    }

    /// The percentiles and the highest value, with their names.
    fn figures(&self) -> [(&'static str, u64); 4] {
        let max = self.max();
        let of = |(name, percent)| {
            let value = buckets::percentile(&self.hist.bucket, SUB_BITS, percent);
            (name, value.unwrap_or(0).min(max))
        };
        let [p50, p90, p99] = PERCENTILES.map(of);
        [p50, p90, p99, ("max", max)]
    }
}

/// The bucket of a value: bucket_of() of buckets.bpf.h.
fn bucket_of(value: u64) -> usize {
    let octave = value.max(1).ilog2().saturating_sub(SUB_BITS);
    let bucket = ((octave as usize) << SUB_BITS) + (value >> octave) as usize;
    bucket.min(hist::default().bucket.len() - 1)
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
            sample: None,
            shown: HashMap::new(),
            again: interval.is_some(),
            every: Interval::new(interval),
        }
    }

    /// What `--describe-columns` says of one record, which may have more keys.
    pub fn kind(more: &[&'static str]) -> Kind {
        let keys = [
            "boot_ns", "raddr", "count", "sum_us", "p50_us", "p90_us", "p99_us", "max_us",
            "buckets", "lo_us", "hi_us",
        ];
        Kind::record("histogram", &[&keys, more].concat())
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
        self.table.change(key, 1, |hist: &mut hist| {
            hist.bucket[bucket_of(value)] += 1;
            hist.sum += value;
            hist.max = hist.max.max(value);
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

    /// Says what the values are of, where that is not always the same.
    pub fn sample(mut self, what: &'static str) -> Self {
        self.sample = Some(what);
        self
    }

    /// Only CSV has one: a line per bucket follows.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        if self.style.format == Format::Csv && self.style.header {
            let (key, unit) = (self.key, self.unit.1);
            self.stamp.csv_header(out);
            let _ = write!(out, ",boot_ns,{key},lo_{unit},hi_{unit},count");
            for name in PERCENTILES.map(|(name, _)| name).into_iter().chain(["max"]) {
                let _ = write!(out, ",{name}_{unit}");
            }
            let sample = self.sample.map_or("", |_| ",sample");
            let _ = writeln!(out, "{sample}");
        }
    }

    /// At which it prints, if at any.
    pub fn interval(&self) -> Option<Duration> {
        self.every.length()
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
        let again = self.again && !self.table.begins_anew();
        if let Some(before) = again.then(|| self.shown.insert(key, hist)).flatten() {
            let buckets = shown.hist.bucket.iter_mut().zip(before.bucket);
            // The kernel may have added to one while the whole was read.
            buckets.for_each(|(now, before)| *now = now.saturating_sub(before));
            shown.hist.sum = shown.hist.sum.saturating_sub(before.sum);
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
        let unit = self.unit.0;
        let _ = writeln!(out, "     {unit:<19} : count     distribution");
        let slots = shown.slots();
        let highest = slots.iter().map(|s| s.2).max().unwrap_or(0).max(1);
        let first = slots.iter().position(|s| s.2 != 0).unwrap_or(0);
        let last = slots.iter().rposition(|s| s.2 != 0).unwrap_or(0);
        for (lo, hi, n) in &slots[first..=last] {
            let stars = (*n as u128 * BAR as u128 / u128::from(highest)) as usize;
            // Few are not none.
            let bar = "*".repeat(stars.max(usize::from(*n != 0)));
            let _ = writeln!(out, "{lo:>10} -> {hi:<10} : {n:<8} |{bar:<BAR$}|");
        }
        let (count, sum) = (shown.count(), shown.hist.sum);
        let _ = write!(out, "{count} values, ");
        let _ = match sum / count.max(1) {
            0..10 => write!(out, "{:.1}", sum as f64 / count.max(1) as f64),
            mean => write!(out, "{mean}"),
        };
        let _ = write!(out, " {unit} on average");
        for (name, value) in shown.figures() {
            let _ = write!(out, ", {name} {value}");
        }
        out.extend_from_slice(b"\n\n");
    }

    /// A line per bucket, with the bucket's keys, and the same figures of the whole in each.
    fn csv(&mut self, out: &mut Vec<u8>, shown: &Shown) {
        let now = boot_ns();
        let of = shown.of().unwrap_or_default();
        let [p50, p90, p99, max] = shown.figures().map(|(_, value)| value);
        let sample = self.sample.map(|sample| format!(",{sample}"));
        let sample = sample.unwrap_or_default();
        for (lo, hi, count) in shown.slots().into_iter().filter(|slot| slot.2 != 0) {
            self.stamp.csv(out, "histogram", now);
            let _ = writeln!(
                out,
                ",{now},{of},{lo},{hi},{count},{p50},{p90},{p99},{max}{sample}"
            );
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
        let _ = write!(out, r#","count":{count},"sum_{unit}":{sum}"#);
        for (name, value) in shown.figures() {
            let _ = write!(out, r#","{name}_{unit}":{value}"#);
        }
        if let Some(sample) = self.sample {
            let _ = write!(out, r#","sample":"{sample}""#);
        }
        out.extend_from_slice(br#","buckets":["#);
        let full = shown.slots().into_iter().filter(|slot| slot.2 != 0);
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

    fn of(values: impl IntoIterator<Item = u64>) -> Shown {
        let mut hist = hist::default();
        for value in values {
            hist.bucket[bucket_of(value)] += 1;
            hist.sum += value;
            hist.max = hist.max.max(value);
        }
        Shown {
            addr: None,
            port: None,
            hist,
        }
    }

    fn hists(sample: bool) -> Hists {
        let unit = ("usecs", "us");
        let hists = Hists::new("tcpprobe", Style::default(), Table::own(9), unit, None);
        if sample { hists.sample("rtt") } else { hists }
    }

    #[test]
    fn slots_are_powers_of_two_without_a_gap() {
        let mut next = 0;
        for (lo, hi, _) in of([]).slots() {
            assert_eq!(lo, next);
            assert!(hi >= lo);
            next = hi + 1;
        }
        assert_eq!(next, 1 << MAX_EXPONENT);
    }

    #[test]
    fn every_value_lies_in_its_bucket_and_slot() {
        let values =
            (0..MAX_EXPONENT as u32).flat_map(|n| [1 << n, (1 << n) + (1 << n) / 3, (2 << n) - 1]);
        for value in values.chain([0]) {
            let bucket = bucket_of(value);
            assert!(lowest(bucket, SUB_BITS) <= value && value < lowest(bucket + 1, SUB_BITS));
            let inside =
                |(lo, hi, count): &(u64, u64, u64)| (*lo..=*hi).contains(&value) == (*count == 1);
            assert!(of([value]).slots().iter().all(inside), "{value}");
        }
        assert_eq!(bucket_of(u64::MAX), hist::default().bucket.len() - 1);
    }

    #[test]
    fn percentiles_are_within_a_sixteenth_and_the_highest_is_exact() {
        let shown = of((1..=1000).map(|n| n * 317));
        let want = [158_500u64, 285_300, 313_830];
        for ((name, told), want) in shown.figures().into_iter().zip(want) {
            assert!(told.abs_diff(want) * 16 <= want, "{name} is {told}");
        }
        assert_eq!(shown.figures()[3], ("max", 317_000));
        assert_eq!(of([302_017]).figures().map(|f| f.1), [302_017; 4]);
    }

    #[test]
    fn a_table_begins_with_its_first_value_and_no_value_is_without_a_mark() {
        let mut out = Vec::new();
        hists(false).bars(&mut out, &of((0..1000).map(|_| 70).chain([300_000])));
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].trim_start().starts_with("64 -> 127"), "{text}");
        let last = lines.iter().rposition(|line| line.contains("->")).unwrap();
        assert!(lines[last].contains(": 1        |* "), "{text}");
        let figures = ", p50 68, p90 68, p99 68, max 300000";
        assert!(lines[last + 1].ends_with(figures), "{text}");
    }

    #[test]
    fn json_and_csv_have_the_same_figures() {
        let (mut json, mut csv) = (Vec::new(), Vec::new());
        let shown = of([5, 5, 5, 900]);
        hists(true).json(&mut json, &shown);
        hists(true).csv(&mut csv, &shown);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        for (key, value) in [
            ("p50_us", 5),
            ("p90_us", 900),
            ("max_us", 900),
            ("count", 4),
        ] {
            let told = json[key].as_u64().unwrap();
            assert!(told.abs_diff(value) * 16 <= value, "{key} is {told}");
        }
        assert_eq!(json["sample"], "rtt");
        let csv = String::from_utf8(csv).unwrap();
        assert!(
            csv.lines().count() == 2 && csv.contains(",,4,7,3,5,"),
            "{csv}"
        );
        assert!(csv.lines().all(|line| line.ends_with(",900,rtt")), "{csv}");
    }
}
