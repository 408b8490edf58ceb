// SPDX-License-Identifier: MIT OR Apache-2.0
//! A path that loses segments: the share of data that had to be sent again, per destination.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Value;

use super::streaks::Streaks;
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::server::{ByServer, flag};
use crate::commands::tcptools::triage::subject::Subject;

const SEGMENTS: Limit = Limit {
    name: "path_loss_segments",
    default: 5.0,
    unit: "segments lost",
    why: "A few are lost on every path.",
};

const PERCENT: Limit = Limit {
    name: "path_loss_percent",
    default: 0.5,
    unit: "% of the data segments",
    why: "From here on loss limits what a connection over some distance can reach; within a site it is 0.",
};

pub const KIND: Kind = Kind {
    name: "path_loss",
    what: "Segments are lost on the way to an address, and sent again.",
    explain: "The share is of the segments with data that this host has sent to that address: those that \
were sent again, less those that the other end had already, by its own account (DSACK). Losses in \
the middle of a transfer cost little (fast). If the last segment of a message is lost, or its answer, \
a timer must fire, after 200 ms or more (tlp, rto): requests are slow now and then, and ss shows \
nothing. If many had arrived, acknowledgements are lost on the way back.\n\
It is told from dropped_here, qdisc_drops and receive_buffer_pruned, where a host throws them away; \
from mtu_black_hole, where only large ones are lost; from a queue that is full (bufferbloat), by the \
round trips; from an end that is gone (no_answer), where nothing is acknowledged any more; and from \
reordering, where what was sent again had arrived.\n\
Look for the hop: ip -s link and ethtool -S on both hosts (errors, drops), mtr to the address, the \
switch's counters. If only some flows suffer, one of several parallel links is bad.",
    limits: &[SEGMENTS, PERCENT],
    effect_of: &[
        "mtu_black_hole",
        "listener_overflow",
        "listener_not_accepting",
        "dropped_here",
        "qdisc_drops",
        "receive_buffer_pruned",
        "bufferbloat",
    ],
};

/// Of which the totals are: network namespace, process name, other host.
type Path = (Option<u64>, Option<String>, IpAddr);

fn path(row: &Row) -> Option<Path> {
    let comm = row.text("comm").map(str::to_owned);
    Some((row.number("netns"), comm, row.addr("raddr")?))
}

#[derive(Clone, Copy, Default)]
struct Total {
    again: u64,
    data: u64,
    in_vain: u64,
}

/// What was sent again, by the reason for which.
#[derive(Clone, Copy, Default)]
struct Again {
    tlp: u64,
    rto: u64,
    fast: u64,
    rto_us: u64,
}

impl Again {
    fn all(&self) -> u64 {
        self.tlp + self.rto + self.fast
    }

    fn add(&mut self, more: &Self) {
        self.tlp += more.tlp;
        self.rto += more.rto;
        self.fast += more.fast;
        self.rto_us = self.rto_us.max(more.rto_us);
    }
}

#[derive(Default)]
pub struct PathLoss {
    totals: BTreeMap<Path, Total>,
    again: ByServer<Path, Again>,
    silent: Streaks<Path>,
    /// Segments that were built, counted, and did not leave this host.
    failed: BTreeMap<Path, u64>,
    now_ns: u64,
}

const MOST: usize = 8192;

impl PathLoss {
    fn add_total(&mut self, row: &Row) {
        let Some(path) = path(row) else { return };
        if self.totals.len() >= MOST && !self.totals.contains_key(&path) {
            return;
        }
        let number = |key| row.number(key).unwrap_or_default();
        let handshakes = number("syn") + number("synack");
        let total = self.totals.entry(path).or_default();
        total.again += number("retrans_segs").saturating_sub(handshakes);
        total.data += number("data_segs_out");
        total.in_vain += number("dsack_dups");
    }

    fn add_segment(&mut self, row: &Row) {
        let Some(path) = path(row) else { return };
        let segs = row.number("segs").unwrap_or(1);
        let kind = row.text("kind").unwrap_or_default();
        if matches!(kind, "syn" | "synack") || row.flag("counted") == Some(false) {
            return;
        }
        if row.text("error").is_some() {
            if self.failed.len() < MOST || self.failed.contains_key(&path) {
                *self.failed.entry(path).or_default() += segs;
            }
            return;
        }
        self.silent.see(row, &path);
        let rto_us = row.number("rto_us").unwrap_or_default();
        self.again.add(row, &path, None, |again| {
            match kind {
                "tlp" => again.tlp += segs,
                "rto" => again.rto += segs,
                _ => again.fast += segs,
            }
            if kind == "rto" {
                again.rto_us = again.rto_us.max(rto_us);
            }
        });
    }

    /// Of each server: what was sent again, and the totals of the paths to it, on which it is the one with most.
    fn servers(&self) -> BTreeMap<Subject, (Again, Total, Vec<IpAddr>)> {
        let silent = self.silent.silent(self.now_ns);
        let mut most: BTreeMap<&Path, (Subject, Again)> = BTreeMap::new();
        for of in self.again.each() {
            let entry = most.entry(of.what);
            let best = entry.or_insert_with(|| (of.subject.clone(), Again::default()));
            if of.sum.all() > best.1.all() {
                *best = (of.subject, *of.sum);
            }
        }
        let mut servers: BTreeMap<Subject, (Again, Total, Vec<IpAddr>)> = BTreeMap::new();
        for (path, (subject, again)) in most {
            let Some(total) = self.totals.get(path) else {
                continue;
            };
            let of = |sums: &BTreeMap<Path, u64>| sums.get(path).copied().unwrap_or_default();
            let without = of(&silent) + of(&self.failed);
            let (all, sum, peers) = servers.entry(subject).or_default();
            all.add(&again);
            sum.again += total.again.saturating_sub(without);
            sum.data += total.data.saturating_sub(without);
            sum.in_vain += total.in_vain;
            peers.push(path.2);
        }
        servers
    }
}

impl Rule for PathLoss {
    fn see(&mut self, row: &Row, _: &Limits) {
        self.now_ns = self.now_ns.max(row.boot_ns());
        self.again.servers.see(row);
        if row.is("tcpretrans", "total") {
            self.add_total(row);
        } else if row.is("tcpretrans", "retransmit") {
            self.add_segment(row);
        }
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let mut found = Vec::new();
        for (subject, (again, total, peers)) in self.servers() {
            let in_vain = total.in_vain.min(total.again);
            let lost = total.again - in_vain;
            let counts = match acks_are_lost(&again, total.again, in_vain) {
                true => total.again,
                false => lost,
            };
            let percent = |segments: u64| 100.0 * segments as f64 / total.data.max(1) as f64;
            let few = (counts as f64) < limits.of(&SEGMENTS);
            if few || percent(counts) < limits.of(&PERCENT) {
                continue;
            }
            let to = match &peers[..] {
                [one] => one.to_string(),
                several => format!("{} addresses", several.len()),
            };
            let mut text = format!(
                "{} of {} data segments to {to} sent again ({:.1} %)",
                total.again,
                total.data,
                percent(total.again)
            );
            text += &sentence(&again, total.again, in_vain);
            found.push(Finding {
                kind: &KIND,
                severity: Severity::Warning,
                text,
                evidence: vec![
                    ("retrans_segs", Value::from(total.again)),
                    ("dsack_dups", in_vain.into()),
                    ("data_segs_out", total.data.into()),
                    ("lost_percent", percent(lost).into()),
                    ("tlp", again.tlp.into()),
                    ("rto", again.rto.into()),
                    ("fast", again.fast.into()),
                    ("raddr", to.into()),
                ],
                next: format!("tcpretrans -w{}", flag(&subject)),
                weight: counts as f64,
                subject,
            });
        }
        found
    }
}

/// Whether what was sent again had arrived, and the answers to it, which tell so, are lost for a part. One that delays its
/// acknowledgements has a probe sent, too, but says each time that it was in vain.
fn acks_are_lost(again: &Again, all: u64, in_vain: u64) -> bool {
    let unsaid = all - in_vain;
    again.tlp + again.rto > again.fast && in_vain >= 2 && unsaid >= 2 && unsaid * 8 >= all
}

/// What was lost: the middle or the end of messages, or their acknowledgements.
fn sentence(again: &Again, all: u64, in_vain: u64) -> String {
    let mut text = String::new();
    let timed = again.tlp + again.rto;
    if acks_are_lost(again, all, in_vain) {
        text += &format!(
            ", {in_vain} of which had arrived (DSACK): ACKs or answers are lost on the way back"
        );
    } else if in_vain > 0 {
        text += &format!(", {in_vain} in vain (DSACK)");
    }
    if timed > again.fast {
        text += &format!(
            "; tail losses: TLP {}, RTO {} after a timer",
            again.tlp, again.rto
        );
        if again.rto_us > 0 {
            text += &format!(" of up to {} ms", again.rto_us / 1000);
        }
        text += &format!(", fast {}", again.fast);
    } else {
        text += &format!(
            "; fast {}, TLP {}, RTO {}",
            again.fast, again.tlp, again.rto
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn with(more: Value) -> Value {
        let mut values = json!({
            "netns": 1, "comm": "api", "pid": 5, "laddr": "10.77.1.1", "lport": 40000,
            "raddr": "10.77.2.2", "rport": 6379, "cookie": 9, "segs": 1, "rto_us": 204_000,
        });
        let object = values.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        values
    }

    fn again(kind: &str, count: usize) -> Vec<Row> {
        let values = with(json!({ "kind": kind, "attempt": null, "by_timer": false }));
        vec![row("tcpretrans", "retransmit", values); count]
    }

    fn total(again: u64, data: u64, in_vain: u64) -> Row {
        let values = json!({
            "netns": 1, "comm": "api", "raddr": "10.77.2.2", "retrans_segs": again, "segs_out": 2 * data,
            "data_segs_out": data, "dsack_dups": in_vain, "syn": 0, "synack": 0,
        });
        row("tcpretrans", "total", values)
    }

    /// Something that happens later.
    fn end() -> Row {
        row(
            "tcplife",
            "session",
            json!({ "boot_ns": 20_000_000_000u64 }),
        )
    }

    fn found(rows: &[&[Row]]) -> Vec<Finding> {
        find::<PathLoss>(&rows.concat())
    }

    #[test]
    fn tail_losses_are_told() {
        let rows = [
            &again("tlp", 16)[..],
            &again("fast", 2),
            &[total(30, 830, 12), end()],
        ];
        let found = found(&rows);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(one.subject.to_string(), "api (pid 5) to 10.77.2.2:6379");
        assert_eq!(
            one.text,
            "30 of 830 data segments to 10.77.2.2 sent again (3.6 %), 12 of which had arrived (DSACK): ACKs or \
             answers are lost on the way back; tail losses: TLP 16, RTO 0 after a timer, fast 2"
        );
        assert_eq!(one.next, "tcpretrans -w -D 6379");
    }

    #[test]
    fn losses_of_a_bulk_transfer_are_told() {
        let rows = [
            &again("fast", 90)[..],
            &again("rto", 3),
            &[total(93, 4000, 1), end()],
        ];
        let found = found(&rows);
        assert_eq!(
            found[0].text,
            "93 of 4000 data segments to 10.77.2.2 sent again (2.3 %), 1 in vain (DSACK); fast 90, TLP 0, RTO 3"
        );
    }

    #[test]
    fn few_rare_and_reordered_segments_are_not() {
        assert!(found(&[&again("fast", 4), &[total(4, 100, 0), end()]]).is_empty());
        assert!(found(&[&again("fast", 20), &[total(20, 200_000, 0), end()]]).is_empty());
        assert!(found(&[&again("fast", 50), &[total(50, 4000, 48), end()]]).is_empty());
    }

    #[test]
    fn lost_acks_are_told_by_what_had_arrived() {
        let found = found(&[&again("tlp", 7), &[total(7, 360, 4), end()]]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].text.contains("4 of which had arrived (DSACK)"),
            "{}",
            found[0].text
        );
    }

    #[test]
    fn a_delayed_ack_is_no_loss() {
        assert!(found(&[&again("tlp", 60), &[total(60, 200, 59), end()]]).is_empty());
    }

    #[test]
    fn an_end_that_is_gone_is_no_loss() {
        let mut rows = Vec::new();
        for cookie in 0..20 {
            let mut one = |kind: &str, attempt: u64| {
                let values = with(json!({
                    "cookie": cookie, "kind": kind, "attempt": attempt, "by_timer": kind == "rto",
                }));
                rows.push(row("tcpretrans", "retransmit", values));
            };
            one("tlp", 0);
            (1..=4).for_each(|attempt| one("rto", attempt));
        }
        assert!(found(&[&rows, &[total(100, 130, 0), end()]]).is_empty());
        // Nor is it at its first timeouts, when the look ends.
        let few: Vec<_> = rows.chunks(5).flat_map(|one| one[..2].to_vec()).collect();
        assert!(found(&[&few, &[total(40, 70, 0)]]).is_empty());
        // If what comes later is acknowledged, it was loss.
        assert_eq!(found(&[&few, &[total(40, 70, 0), end()]]).len(), 1);
    }

    #[test]
    fn what_does_not_leave_this_host_is_not_the_paths() {
        let values = with(json!({ "kind": "fast", "error": "EPERM", "counted": true }));
        let rows = vec![row("tcpretrans", "retransmit", values); 50];
        assert!(found(&[&rows, &again("fast", 1), &[total(51, 1000, 0), end()]]).is_empty());
    }
}
