// SPDX-License-Identifier: MIT OR Apache-2.0
//! Histograms made in the kernel (`bpf/common/hist.bpf.h`): read at the end of a run or at an interval, shown in powers of two
//! with percentiles.

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::abi::types::{flow, hist, hist_key};
use crate::aggregate::distribution::{PERCENTILES, Shown, bucket_of};
use crate::aggregate::table::Table;
use crate::error::Usage;
use crate::output::{Figures, Format, Stamp, Style, schema::Kind};
use crate::session::{Printer, interval::Interval};

/// Maximum number of histograms in a run; the excess is counted and reported.
pub const MAX_HISTS: u32 = 10_240;

/// Characters of the longest bar.
const BAR: usize = 40;

/// Shows the increase of histograms since the last time, the fullest first.
pub struct Hists {
    tool: &'static str,
    table: Table,
    style: Style,
    /// What the values are: `usecs`, and its suffix in JSON: `us`.
    unit: (&'static str, &'static str),
    /// What there is one histogram for each of: `raddr`, `laddr`, `rport`, `lport`.
    key: &'static str,
    /// What the values are of, where that is not always the same, by the upper half of a key's kind: `sample` in JSON
    /// and CSV.
    samples: Vec<&'static str>,
    /// What the kernel half's table had the last time, if there is a next one.
    shown: HashMap<Vec<u8>, hist>,
    again: bool,
    every: Interval,
    stamp: Stamp,
}

impl Hists {
    /// Shown at every `interval`, if there is one; [`Hists::print`] is for the end.
    ///
    /// # Errors
    /// When columns were named: a histogram has none.
    pub fn new(
        tool: &'static str,
        style: Style,
        unit: (&'static str, &'static str),
        interval: Option<Duration>,
    ) -> Result<Self, Usage> {
        if style.columns.is_some() {
            return Err(Usage("--columns: a histogram has no columns".into()));
        }
        Ok(Self {
            tool,
            table: Table::own(MAX_HISTS),
            stamp: Stamp::of_sums(tool, &style),
            style,
            unit,
            key: "raddr",
            samples: Vec::new(),
            shown: HashMap::new(),
            again: interval.is_some(),
            every: Interval::new(interval),
        })
    }

    /// Reads the kernel half's table instead of one of its own.
    pub fn read_from(&mut self, table: Table) {
        self.table = table;
    }

    /// The last record of a JSON run.
    pub fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        if self.style.format == Format::Json {
            self.stamp.summary(out, fields);
        }
    }

    /// What `--describe-columns` says of a record: what there is one for each of, and more keys.
    pub fn kind(of: &'static str, more: &[&'static str]) -> Kind {
        let keys = [
            of, "count", "sum_us", "p50_us", "p90_us", "p99_us", "max_us", "buckets", "lo_us",
            "hi_us",
        ];
        Kind::sum_record("histogram", &[&keys, more].concat())
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
    pub fn sample(&mut self, what: &'static str) {
        self.samples = vec![what];
    }

    /// The same where there are histograms of several values at once, by the upper half of the key's kind.
    pub fn samples(&mut self, what: &[&'static str]) {
        self.samples = what.to_vec();
    }

    /// Only CSV has one: a line per bucket follows.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        if self.style.format == Format::Csv && self.style.header {
            let (key, unit) = (self.key, self.unit.1);
            self.stamp.csv_header(out);
            let _ = write!(out, ",{key},lo_{unit},hi_{unit},count");
            for name in PERCENTILES.map(|(name, _)| name).into_iter().chain(["max"]) {
                let _ = write!(out, ",{name}_{unit}");
            }
            let sample = if self.samples.is_empty() {
                ""
            } else {
                ",sample"
            };
            let _ = writeln!(out, "{sample}");
        }
    }

    /// At which it prints, if at any.
    pub fn interval(&self) -> Option<Duration> {
        self.every.length()
    }

    /// When the interval is over.
    pub fn due(&self) -> Option<Instant> {
        self.every.due()
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
            Err(error) => crate::message!("{}: cannot show histograms: {error:#}", self.tool),
        }
    }

    fn show(&mut self, entries: Vec<(Vec<u8>, Vec<u8>)>, out: &mut Printer) {
        let now = self.stamp.next_period().boot_ns;
        let mut gained: Vec<_> = entries
            .into_iter()
            .filter_map(|(key, value)| self.gained(key, &value))
            .filter(|shown| shown.count() != 0)
            .collect();
        gained.sort_by_key(|shown| (std::cmp::Reverse(shown.count()), shown.addr, shown.port));
        for shown in &gained {
            out.row(|buf| match self.style.format {
                Format::Table => self.bars(buf, now, shown),
                Format::Csv => self.csv(buf, now, shown),
                Format::Json => self.json(buf, now, shown),
            });
        }
    }

    fn gained(&mut self, key: Vec<u8>, value: &[u8]) -> Option<Shown> {
        let (mut of, mut hist) = (hist_key::default(), hist::default());
        plain::copy_from_bytes(&mut of, &key).ok()?;
        plain::copy_from_bytes(&mut hist, value).ok()?;
        let by_port = self.key.ends_with("port");
        let mut shown = Shown {
            sample: self.samples.get((of.kind >> 16) as usize).copied(),
            addr: None,
            port: by_port.then_some(of.kind & 0xffff),
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

    fn bars(&mut self, out: &mut Vec<u8>, now: u64, shown: &Shown) {
        if self.style.time {
            let _ = writeln!(out, "{}", self.stamp.local_time(now));
        }
        if let Some(of) = shown.of() {
            let _ = writeln!(out, "{} = {of}", self.key);
        }
        if let (Some(sample), 2..) = (shown.sample, self.samples.len()) {
            let _ = writeln!(out, "sample = {sample}");
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
    fn csv(&mut self, out: &mut Vec<u8>, now: u64, shown: &Shown) {
        let of = shown.of().unwrap_or_default();
        let [p50, p90, p99, max] = shown.figures().map(|(_, value)| value);
        let sample = shown.sample.map(|sample| format!(",{sample}"));
        let sample = sample.unwrap_or_default();
        for (lo, hi, count) in shown.slots().into_iter().filter(|slot| slot.2 != 0) {
            self.stamp.csv(out, "histogram", now);
            let _ = writeln!(
                out,
                ",{of},{lo},{hi},{count},{p50},{p90},{p99},{max}{sample}"
            );
        }
    }

    fn json(&mut self, out: &mut Vec<u8>, now: u64, shown: &Shown) {
        let (key, unit) = (self.key, self.unit.1);
        self.stamp.json(out, "histogram", now);
        let _ = write!(out, r#","{key}":"#);
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
        if let Some(sample) = shown.sample {
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
    use crate::aggregate::distribution::tests::of;

    fn hists(sample: bool) -> Hists {
        let unit = ("usecs", "us");
        let mut hists = Hists::new("tcpprobe", Style::default(), unit, None).unwrap();
        if sample {
            hists.sample("rtt");
        }
        hists
    }

    #[test]
    fn table_starts_at_first_value_and_marks_each() {
        let mut out = Vec::new();
        hists(false).bars(&mut out, 0, &of((0..1000).map(|_| 70).chain([300_000])));
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].trim_start().starts_with("64 -> 127"), "{text}");
        let last = lines.iter().rposition(|line| line.contains("->")).unwrap();
        assert!(lines[last].contains(": 1        |* "), "{text}");
        let figures = ", p50 68, p90 68, p99 68, max 300000";
        assert!(lines[last + 1].ends_with(figures), "{text}");
    }

    #[test]
    fn json_and_csv_agree() {
        let (mut json, mut csv) = (Vec::new(), Vec::new());
        let mut shown = of([5, 5, 5, 900]);
        shown.sample = Some("rtt");
        hists(true).json(&mut json, 0, &shown);
        hists(true).csv(&mut csv, 0, &shown);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        for (key, value) in [
            ("p50_us", 5),
            ("p90_us", 900),
            ("max_us", 900),
            ("count", 4),
        ] {
            let actual = json[key].as_u64().unwrap();
            assert!(actual.abs_diff(value) * 16 <= value, "{key} is {actual}");
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
