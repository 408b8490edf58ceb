// SPDX-License-Identifier: MIT OR Apache-2.0
//! Histograms made in the kernel (`bpf/common/hist.bpf.h`): read at the end of a run or at an interval, shown in powers of two
//! with percentiles.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::abi::types::{head, hist};
use crate::aggregate::distribution::{self, PERCENTILES, Shown, bucket_of};
use crate::aggregate::group::Group;
use crate::aggregate::hist_keys::columns;
use crate::aggregate::keys::Keys;
use crate::aggregate::table::Table;
use crate::error::Usage;
use crate::output::logs::{Logs, convert};
use crate::output::{Column, Figures, Format, Row, Stamp, Style, Value};
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
    /// What there is one histogram for each of; `None`: one for all.
    keys: Option<Keys>,
    columns: Vec<Column<()>>,
    /// What the values are of, where that is not always the same: `sample` in JSON and CSV.
    sample: Option<&'static str>,
    /// What else there is one histogram for each of, and the names of its kinds.
    kinds: Option<(&'static str, &'static [&'static str])>,
    /// What the kernel half's table had the last time, if there is a next one.
    shown: HashMap<Group, hist>,
    again: bool,
    every: Interval,
    stamp: Stamp,
}

impl Hists {
    /// Shown at every `interval`, if there is one; [`Hists::print`] is for the end. `keys`: see
    /// [`per`](crate::aggregate::hist_keys::per).
    ///
    /// # Errors
    /// When columns were named: a histogram has none.
    pub fn new(
        tool: &'static str,
        style: Style,
        unit: (&'static str, &'static str),
        keys: Option<Keys>,
        interval: Option<Duration>,
    ) -> Result<Self, Usage> {
        if style.columns.is_some() {
            return Err(Usage("--columns: a histogram has no columns".into()));
        }
        let mut stamp = Stamp::of_sums(tool, &style);
        if let Some(keys) = &keys {
            stamp.by(&keys.name());
        }
        let mut columns = columns(keys.as_ref());
        columns.retain(|column| column.shown.has(style.layout()));
        Ok(Self {
            tool,
            table: Table::own(MAX_HISTS),
            stamp,
            style,
            unit,
            keys,
            columns,
            sample: None,
            kinds: None,
            shown: HashMap::new(),
            again: interval.is_some(),
            every: Interval::new(interval),
        })
    }

    /// Reads the kernel half's table instead of one of its own.
    pub fn read_from(&mut self, table: Table) {
        self.table = table;
    }

    /// For `group_by` of the kernel half.
    pub fn bits(&self) -> u32 {
        self.keys.as_ref().map_or(0, Keys::bits)
    }

    /// The last record of a run, in JSON or for logs.
    pub fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        if self.style.format == Format::Json || self.style.format.is_logs() {
            self.stamp.summary(out, fields);
        }
    }

    /// hist_add() of hist.bpf.h, on this side.
    pub fn add(&mut self, head: &head, value: u64) {
        let keys = self.keys.as_ref();
        let group = keys.map_or(Group::default(), |keys| keys.group(head, 0));
        self.table.change(group.bytes(), 1, |hist: &mut hist| {
            hist.bucket[bucket_of(value)] += 1;
            hist.sum += value;
            hist.max = hist.max.max(value);
        });
    }

    /// See [`Table::uncounted`].
    pub fn uncounted(&self) -> u64 {
        self.table.uncounted()
    }

    /// Says what the values are of, where that is not always the same.
    pub fn sample(&mut self, what: &'static str) {
        self.sample = Some(what);
    }

    /// One for each kind of the tool's own, too, by its name under this key.
    pub fn kinds(mut self, key: &'static str, names: &'static [&'static str]) -> Self {
        self.kinds = Some((key, names));
        self
    }

    /// The key and the name of its kind.
    fn kind_of(&self, shown: &Shown) -> Option<(&'static str, &'static str)> {
        let (key, names) = self.kinds?;
        names
            .get(shown.group.kind() as usize)
            .map(|name| (key, *name))
    }

    /// Only CSV has one: a line per bucket follows.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        if self.style.format == Format::Csv && self.style.header {
            let unit = self.unit.1;
            self.stamp.csv_header(out);
            for column in &self.columns {
                let _ = write!(out, ",{}", column.key);
            }
            let _ = write!(out, ",lo_{unit},hi_{unit},count");
            for name in PERCENTILES.map(|(name, _)| name).into_iter().chain(["max"]) {
                let _ = write!(out, ",{name}_{unit}");
            }
            let sample = self.sample.map_or("", |_| ",sample");
            let _ = write!(out, "{sample}");
            let _ = match self.kinds {
                Some((key, _)) => writeln!(out, ",{key}"),
                None => writeln!(out),
            };
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
        let gained = entries.into_iter();
        let gained = gained.filter_map(|(key, value)| self.gained(&key, &value));
        let gained: Vec<_> = gained.collect();
        let merged = match &self.keys {
            Some(keys) => keys.merged(gained, |to, more| distribution::add(to, &more)),
            None => gained,
        };
        let shown = merged.into_iter();
        let shown = shown.map(|(group, hist)| Shown { group, hist });
        let mut shown: Vec<_> = shown.filter(|shown| shown.count() != 0).collect();
        shown.sort_by_key(|shown| (Reverse(shown.count()), shown.group));
        for shown in &shown {
            out.row(|buf| match self.style.format {
                Format::Table => self.bars(buf, now, shown),
                Format::Csv => self.csv(buf, now, shown),
                Format::Json => self.json(buf, now, shown),
                Format::Journal | Format::Otlp => self.log(buf, now, shown),
            });
        }
    }

    fn gained(&mut self, key: &[u8], value: &[u8]) -> Option<(Group, hist)> {
        let group = Group::from_bytes(key)?;
        let mut hist = hist::default();
        plain::copy_from_bytes(&mut hist, value).ok()?;
        let again = self.again && !self.table.begins_anew();
        if let Some(before) = again.then(|| self.shown.insert(group, hist)).flatten() {
            let buckets = hist.bucket.iter_mut().zip(before.bucket);
            // The kernel may have added to one while the whole was read.
            buckets.for_each(|(now, before)| *now = now.saturating_sub(before));
            hist.sum = hist.sum.saturating_sub(before.sum);
        }
        Some((group, hist))
    }

    /// Hands each key on with its value.
    fn each_key(&self, shown: &Shown, now: u64, mut each: impl FnMut(&Column<()>, Value<'_>)) {
        let head = shown.group.head(now);
        let row = Row {
            head: &head,
            body: &(),
        };
        self.columns
            .iter()
            .for_each(|column| each(column, column.value(&row)));
    }

    /// What it is of, as `comm = curl, rport = 443`.
    fn name(&self, out: &mut Vec<u8>, now: u64, shown: &Shown) {
        let mut before = "";
        self.each_key(shown, now, |column, value| {
            let name = match column.key {
                "" => column.heading.to_lowercase(),
                key => key.to_owned(),
            };
            let _ = write!(out, "{before}{name} = ");
            value.table(out);
            before = ", ";
        });
        if !before.is_empty() {
            out.push(b'\n');
        }
    }

    fn bars(&mut self, out: &mut Vec<u8>, now: u64, shown: &Shown) {
        if self.style.time {
            let _ = writeln!(out, "{}", self.stamp.local_time(now));
        }
        self.name(out, now, shown);
        if let Some((key, name)) = self.kind_of(shown) {
            let _ = writeln!(out, "{key} = {name}");
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
        let line = out.len();
        let _ = write!(out, "{count} values, ");
        let _ = match sum / count.max(1) {
            0..10 => write!(out, "{:.1}", sum as f64 / count.max(1) as f64),
            mean => write!(out, "{mean}"),
        };
        let _ = write!(out, " {unit} on average");
        let figures = shown
            .figures()
            .map(|(name, value)| format!("{name} {value}"));
        let figures = figures.join(", ");
        // Long numbers take a line of their own.
        let fits = out.len() - line + figures.len() + 2 <= 80;
        let _ = write!(out, ",{}{figures}\n\n", if fits { ' ' } else { '\n' });
    }

    /// A line per bucket, with the bucket's keys, and the same figures of the whole in each.
    fn csv(&mut self, out: &mut Vec<u8>, now: u64, shown: &Shown) {
        let mut of = Vec::new();
        self.each_key(shown, now, |_, value| {
            of.push(b',');
            value.csv(&mut of);
        });
        let [p50, p90, p99, max] = shown.figures().map(|(_, value)| value);
        let named = self.kind_of(shown).map(|(_, name)| name);
        let more = self.sample.into_iter().chain(named);
        let more: String = more.map(|text| format!(",{text}")).collect();
        for (lo, hi, count) in shown.slots().into_iter().filter(|slot| slot.2 != 0) {
            self.stamp.csv(out, "histogram", now);
            out.extend_from_slice(&of);
            let _ = writeln!(out, ",{lo},{hi},{count},{p50},{p90},{p99},{max}{more}");
        }
    }

    fn log(&mut self, out: &mut Vec<u8>, now: u64, shown: &Shown) {
        let logs = Logs::new(self.style.format, self.tool, self.style.host.as_ref());
        if let Some(logs) = logs {
            convert(&logs, out, |line| self.json(line, now, shown));
        }
    }

    fn json(&mut self, out: &mut Vec<u8>, now: u64, shown: &Shown) {
        let unit = self.unit.1;
        self.stamp.json(out, "histogram", now);
        self.each_key(shown, now, |column, value| {
            let _ = write!(out, r#","{}":"#, column.key);
            value.json(out);
        });
        let (count, sum) = (shown.count(), shown.hist.sum);
        let _ = write!(out, r#","count":{count},"sum_{unit}":{sum}"#);
        for (name, value) in shown.figures() {
            let _ = write!(out, r#","{name}_{unit}":{value}"#);
        }
        if let Some(sample) = self.sample {
            let _ = write!(out, r#","sample":"{sample}""#);
        }
        if let Some((key, name)) = self.kind_of(shown) {
            let _ = write!(out, r#","{key}":"{name}""#);
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
