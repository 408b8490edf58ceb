// SPDX-License-Identifier: MIT OR Apache-2.0
//! What metrics there are, and what a scrape hands over of each.

use std::collections::BTreeMap;

/// The kind of a metric, as OpenMetrics has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    Gauge,
    Histogram,
    /// A gauge that is 1, whose labels tell something.
    Info,
}

/// A metric: its name, without the end that its kind gives it, and what it is.
#[derive(Debug)]
pub(super) struct Family {
    /// Behind `tcptools_`; with its unit at the end, if it has one.
    pub name: &'static str,
    pub unit: Option<&'static str>,
    pub kind: Kind,
    pub help: &'static str,
}

const fn family(
    name: &'static str,
    unit: Option<&'static str>,
    kind: Kind,
    help: &'static str,
) -> Family {
    Family {
        name,
        unit,
        kind,
        help,
    }
}

macro_rules! families {
    ($($id:ident = $name:literal, $unit:expr, $kind:ident, $help:literal;)*) => {
        /// Indices into [`FAMILIES`].
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Is { $($id),* }
        /// Every metric, in the order in which it is written.
        pub(super) const FAMILIES: &[Family] = &[$(family($name, $unit, Kind::$kind, $help)),*];
    };
}

const BYTES: Option<&str> = Some("bytes");
const SECONDS: Option<&str> = Some("seconds");

#[rustfmt::skip] // one line per metric
families! {
    Opened = "connections_opened", None, Counter, "Active opens (connect) that have ended, by outcome.";
    Accepted = "connections_accepted", None, Counter, "Passive opens: handshakes with a listener of this host that have ended, by outcome.";
    Closed = "connections_closed", None, Counter, "Connections that were established and have ended, by reason.";
    Handshake = "connect_duration_seconds", SECONDS, Histogram, "Time from connect() to an established connection, of active opens.";
    Session = "connection_duration_seconds", SECONDS, Histogram, "Time from an established connection to its end, of those that have ended.";
    Srtt = "connection_srtt_seconds", SECONDS, Histogram, "Smoothed round-trip time of connections when they end.";
    MinRtt = "connection_min_rtt_seconds", SECONDS, Histogram, "Lowest round-trip time of connections, as known when they end.";
    Sent = "sent_bytes", BYTES, Counter, "Bytes of applications that the other end has acknowledged, of open connections too.";
    Received = "received_bytes", BYTES, Counter, "Bytes received for applications, of open connections too.";
    Retransmitted = "retransmitted_segments", None, Counter, "Segments sent again, as RetransSegs counts them, by kind.";
    Spurious = "spurious_retransmissions", None, Counter, "Segments that the other end had already when they were sent again (DSACK).";
    Resets = "resets", None, Counter, "RSTs sent and received, by direction, and the kernel's reason of those sent.";
    Dropped = "dropped_segments", None, Counter, "TCP segments that this host threw away, by the kernel's reason, but for harmless ones.";
    Buffers = "buffer_overflows", None, Counter, "Packets or allocations that a socket buffer or a memory limit refused, of any protocol, by tracepoint.";
    Sockets = "sockets", None, Gauge, "TCP sockets, by state.";
    AcceptQueue = "listener_accept_queue", None, Gauge, "Connections that wait for accept(), by listener.";
    AcceptQueueMax = "listener_accept_queue_max", None, Gauge, "Limit of the accept queue, by listener.";
    SynQueue = "listener_syn_queue", None, Gauge, "Handshakes in progress, by listener.";
    ListenerDrops = "listener_drops", None, Counter, "What a listener has dropped: SYNs and ACKs that its queues had no room for.";
    Skipped = "events_skipped", None, Counter, "Events for which the kernel did not run a program, as it was running on that CPU; an upper bound.";
    Untracked = "events_untracked", None, Counter, "Events of connections for whose state there was no memory.";
    Series = "series", None, Gauge, "Series of this page.";
    Overflow = "series_overflow", None, Counter, "Events that were counted under the label other, as there were --max-series.";
    Expired = "series_expired", None, Counter, "Series whose numbers went to the label other, as nothing came for --expire.";
    Unvisited = "namespaces_unvisited", None, Gauge, "Network namespaces that could not be looked into: their open connections are missing.";
    Look = "look_seconds", SECONDS, Gauge, "Duration of the last look at all sockets.";
    ProgramRuns = "program_runs", None, Counter, "Runs of BPF programs, by program, while the kernel counts them (kernel.bpf_stats_enabled).";
    ProgramTime = "program_seconds", SECONDS, Counter, "Time of BPF programs, by program, while the kernel counts it.";
    Cpu = "process_cpu_seconds", SECONDS, Counter, "CPU time of this process.";
    Memory = "process_resident_memory_bytes", BYTES, Gauge, "Resident memory of this process.";
    Start = "start_time_seconds", SECONDS, Gauge, "When counting began, in seconds since 1970.";
    Build = "build", None, Info, "Version of tcptools.";
}

/// A histogram, as a scrape has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    /// Upper limits in nanoseconds, and how many are not above them.
    pub buckets: Vec<(u64, u64)>,
    pub count: u64,
    pub sum_ns: u64,
}

/// A number.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Number {
    Whole(u64),
    Nanoseconds(u64),
    Histogram(Box<Histogram>),
}

/// All numbers, by metric and by labels, as they are written: `comm="curl",lport="443"`.
#[derive(Clone, Debug, Default)]
pub(super) struct Page(BTreeMap<Is, BTreeMap<String, Number>>);

impl Page {
    /// Adds to what has the same labels: several keys of the kernel half may be one to the user.
    pub(super) fn add(&mut self, is: Is, labels: String, n: u64) {
        let all = self.0.entry(is).or_default();
        match all.entry(labels).or_insert(Number::Whole(0)) {
            Number::Whole(sum) => *sum = sum.wrapping_add(n),
            other => *other = Number::Whole(n),
        }
    }

    /// The same, of a duration.
    pub(super) fn add_ns(&mut self, is: Is, labels: String, ns: u64) {
        let all = self.0.entry(is).or_default();
        match all.entry(labels).or_insert(Number::Nanoseconds(0)) {
            Number::Nanoseconds(sum) => *sum = sum.wrapping_add(ns),
            other => *other = Number::Nanoseconds(ns),
        }
    }

    /// The same, of a histogram with the same limits.
    pub(super) fn add_histogram(&mut self, is: Is, labels: String, more: Histogram) {
        let all = self.0.entry(is).or_default();
        match all.entry(labels) {
            std::collections::btree_map::Entry::Vacant(empty) => {
                empty.insert(Number::Histogram(Box::new(more)));
            }
            std::collections::btree_map::Entry::Occupied(mut known) => {
                let Number::Histogram(sum) = known.get_mut() else {
                    return;
                };
                let buckets = sum.buckets.iter_mut().zip(&more.buckets);
                buckets.for_each(|(to, from)| to.1 += from.1);
                sum.count += more.count;
                sum.sum_ns = sum.sum_ns.wrapping_add(more.sum_ns);
            }
        }
    }

    /// Each metric that has a number, in its order.
    pub(super) fn metrics(
        &self,
    ) -> impl Iterator<Item = (&'static Family, &BTreeMap<String, Number>)> {
        let known = self.0.iter();
        known.filter_map(|(is, all)| Some((FAMILIES.get(*is as usize)?, all)))
    }

    /// How many lines it has with numbers.
    pub(super) fn series(&self) -> u64 {
        let of = |number: &Number| match number {
            Number::Histogram(histogram) => histogram.buckets.len() as u64 + 3,
            _ => 1,
        };
        self.0.values().flat_map(BTreeMap::values).map(of).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The conventions of OpenMetrics: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
    #[test]
    fn names_follow_the_conventions() {
        for family in FAMILIES {
            let (name, help) = (family.name, family.help);
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(
                name.chars().all(allowed) && !name.ends_with("_total"),
                "{name}"
            );
            if let Some(unit) = family.unit {
                assert!(name.ends_with(&format!("_{unit}")), "{name}");
            }
            assert!(
                help.ends_with('.') && !help.contains(['\n', '\\']),
                "{name}"
            );
            let names = FAMILIES.iter().filter(|other| other.name == name);
            assert_eq!(names.count(), 1, "{name}");
        }
    }

    #[test]
    fn same_labels_are_one_series() {
        let mut page = Page::default();
        for n in [1, 2] {
            page.add(Is::Sent, r#"lport="80""#.to_owned(), n);
            let one = Histogram {
                buckets: vec![(1000, n), (2000, n)],
                count: n,
                sum_ns: n,
            };
            page.add_histogram(Is::Session, String::new(), one);
        }
        assert_eq!(page.series(), 1 + 5);
        let sums: Vec<_> = page.metrics().flat_map(|(_, all)| all.values()).collect();
        assert_eq!(sums[1], &Number::Whole(3));
        let Number::Histogram(sum) = sums[0] else {
            panic!("{sums:?}");
        };
        assert_eq!((sum.buckets[1].1, sum.count), (3, 3));
    }
}
