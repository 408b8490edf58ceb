// SPDX-License-Identifier: MIT OR Apache-2.0
//! A listener with more half-open connections than it has room for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::look::{Look, watch};
use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const LOOKS: Limit = Limit {
    name: "syn_flood_looks",
    default: 2.0,
    unit: "looks with a full SYN queue, or SYN cookies",
    why: "A burst of clients from afar fills it for a moment.",
};

const QUEUE: Limit = Limit {
    name: "syn_flood_half_open",
    default: 20.0,
    unit: "half-open connections",
    why: "So many whose SYN/ACK is sent again, and more than complete, are a flood before the queue \
is full.",
};

pub const KIND: Kind = Kind {
    name: "syn_flood",
    what: "A listener's SYN queue is full: more handshakes begin than end.",
    explain: "SYNs come whose SYN/ACK is not answered: their addresses are forged, or the way back to \
the clients is broken. With SYN cookies (net.ipv4.tcp_syncookies) new clients still get in, with \
fewer TCP options; without, their SYNs are dropped.\n\
It is told from an overflow (listener_overflow) by the accept queue, which has room, and from a \
small backlog under many honest clients by the handshakes that complete: these are then as many as \
those that begin. One path that loses SYN/ACKs (slow_handshake) has few clients.\n\
Look at who sends the SYNs (tcpstates --active --state syn_recv). If they are honest, raise the \
backlog of listen(), net.core.somaxconn and net.ipv4.tcp_max_syn_backlog; if not, keep SYN cookies \
on, and filter before this host.",
    limits: &[LOOKS, QUEUE],
    effect_of: &[],
};

#[derive(Default)]
struct Seen {
    /// Looks with cookies, with a full queue, and with many half-open connections.
    cookies: u64,
    full: u64,
    crowded: u64,
    half_open: u64,
    half_open_max: u64,
    drops: u64,
    opens: u64,
}

/// Of one port: SYN/ACKs have the address that the client has chosen.
#[derive(Default)]
struct Unanswered {
    synacks: u64,
    clients: BTreeSet<IpAddr>,
}

/// Ports, and clients of one, that are kept.
const MOST: usize = 1024;

#[derive(Default)]
pub struct SynFlood {
    listeners: Subjects<Seen>,
    unanswered: BTreeMap<(Option<u64>, u64), Unanswered>,
}

impl Rule for SynFlood {
    fn see(&mut self, row: &Row, limits: &Limits) {
        if row.is("tcpretrans", "retransmit") {
            self.resent(row);
        }
        let Some(look) = Look::of(row) else {
            return;
        };
        let cookie_us = row.number("syn_cookie_us");
        let cookies = cookie_us.is_some_and(|us| us <= look.interval_us)
            && row.text("verdict") == Some("SYN cookies");
        // A queue of a few is full of a few.
        let full = look.half_open >= look.half_open_max.unwrap_or(u64::MAX).max(FEW);
        let crowded = look.half_open as f64 >= limits.of(&QUEUE) && look.half_open >= look.opens;
        // Then SYNs are dropped for want of room in the other queue.
        if look.was_full() || !(cookies || full || crowded) {
            return;
        }
        let Some(seen) = self.listeners.of(Subject::listener(row)) else {
            return;
        };
        seen.cookies += u64::from(cookies);
        seen.full += u64::from(full);
        seen.crowded += u64::from(crowded);
        seen.half_open = seen.half_open.max(look.half_open);
        seen.half_open_max = look.half_open_max.unwrap_or_default();
        seen.drops += look.drops;
        seen.opens += look.opens;
    }

    fn find(&self, limits: &Limits, seconds: f64) -> Vec<Finding> {
        let mut found = Vec::new();
        for (subject, seen) in self.listeners.iter() {
            let port = subject.listener.map(|at| at.port().into());
            let unanswered = self
                .unanswered
                .get(&(subject.netns, port.unwrap_or_default()));
            let resent = unanswered.map_or(0, |unanswered| unanswered.synacks);
            let least = limits.of(&LOOKS);
            let no_room = (seen.cookies.max(seen.full)) as f64 >= least;
            let crowded = seen.crowded as f64 >= least && resent as f64 >= limits.of(&QUEUE);
            if no_room || crowded {
                found.push(seen.finding(subject, unanswered, seconds));
            }
        }
        found
    }
}

/// Fewer half-open connections are no flood, however small the queue.
const FEW: u64 = 5;

impl SynFlood {
    /// A SYN/ACK that nobody has answered.
    fn resent(&mut self, row: &Row) {
        if row.text("kind") != Some("synack") || row.text("hint").is_some() {
            return;
        }
        let key = (row.number("netns"), row.number("lport").unwrap_or_default());
        if self.unanswered.len() >= MOST && !self.unanswered.contains_key(&key) {
            return;
        }
        let unanswered = self.unanswered.entry(key).or_default();
        unanswered.synacks += row.number("segs").unwrap_or(1);
        if unanswered.clients.len() < MOST {
            unanswered.clients.extend(row.addr("raddr"));
        }
    }
}

impl Seen {
    fn finding(&self, subject: &Subject, unanswered: Option<&Unanswered>, seconds: f64) -> Finding {
        // With cookies the rest still gets in.
        let severity = match self.drops > 0 && self.cookies == 0 {
            true => Severity::Critical,
            false => Severity::Warning,
        };
        let mut text = format!(
            "{} half-open connections (of {})",
            self.half_open, self.half_open_max
        );
        if let Some(unanswered) = unanswered {
            text += &format!(
                ", {} SYN/ACKs sent again (client addresses: {})",
                unanswered.synacks,
                unanswered.clients.len()
            );
        }
        text += match self.cookies {
            0 => "",
            _ => ", SYN cookies sent",
        };
        text += &format!(
            ", {} SYNs dropped, {} handshakes completed in {seconds:.0} s",
            self.drops, self.opens
        );
        let resent = unanswered.map_or(0, |unanswered| unanswered.synacks);
        Finding {
            kind: &KIND,
            severity,
            subject: subject.clone(),
            text,
            evidence: vec![
                ("syn_queue", Value::from(self.half_open)),
                ("syn_queue_max", self.half_open_max.into()),
                ("syn_cookies", (self.cookies > 0).into()),
                ("drops", self.drops.into()),
                ("accepts", self.opens.into()),
                ("synack_retrans", resent.into()),
                (
                    "clients",
                    unanswered
                        .map_or(0, |unanswered| unanswered.clients.len())
                        .into(),
                ),
            ],
            next: match subject.listener {
                Some(at) => format!("tcpstates --active --state syn_recv -L {}", at.port()),
                None => watch(subject),
            },
            weight: (self.half_open + self.drops) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn look(half_open: u64, max: u64, opens: u64, more: Value) -> Row {
        let mut values = json!({
            "interval_us": 2_000_000, "netns": 1, "comm": "web", "pid": 9, "laddr": "0.0.0.0",
            "lport": 80, "syn_queue": half_open, "syn_queue_max": max, "accepts": opens,
            "accept_queue": 0, "accept_queue_max": max, "drops_per_s": 0.0,
        });
        values
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        row("tcpaccept", "listener", values)
    }

    fn resent(client: u64) -> Row {
        let values = json!({
            "netns": 1, "laddr": "10.0.0.1", "lport": 80, "kind": "synack", "hint": null,
            "raddr": format!("10.9.0.{client}"), "rport": 999, "segs": 1,
        });
        row("tcpretrans", "retransmit", values)
    }

    #[test]
    fn cookies_at_two_looks_are_found() {
        let cookies = json!({ "syn_cookie_us": 500_000, "verdict": "SYN cookies" });
        let look = look(9, 8, 0, cookies);
        let found = find::<SynFlood>(&[look.clone(), look.clone()]);
        assert_eq!(found[0].severity, Severity::Warning);
        assert_eq!(
            found[0].text,
            "9 half-open connections (of 8), SYN cookies sent, 0 SYNs dropped, 0 handshakes \
             completed in 10 s"
        );
        assert!(find::<SynFlood>(&[look]).is_empty());
    }

    #[test]
    fn a_full_queue_without_cookies_is_critical() {
        let look = look(128, 128, 3, json!({ "drops_per_s": 40.0 }));
        let found = find::<SynFlood>(&[look.clone(), look]);
        assert_eq!(found[0].severity, Severity::Critical);
    }

    #[test]
    fn many_unanswered_are_found_before_the_queue_is_full() {
        let looks = [look(300, 4096, 2, json!({})), look(400, 4096, 2, json!({}))];
        assert!(find::<SynFlood>(&looks).is_empty());
        let rows: Vec<_> = looks.into_iter().chain((0..30).map(resent)).collect();
        let found = find::<SynFlood>(&rows);
        assert!(
            found[0]
                .text
                .contains("30 SYN/ACKs sent again (client addresses: 30)")
        );
    }

    #[test]
    fn a_full_accept_queue_and_clients_from_afar_are_not() {
        let full = json!({ "accept_queue": 129, "drops_per_s": 40.0 });
        let look_full = look(128, 128, 3, full);
        assert!(find::<SynFlood>(&[look_full.clone(), look_full]).is_empty());
        let busy = look(100, 511, 2000, json!({}));
        assert!(find::<SynFlood>(&[busy.clone(), busy]).is_empty());
    }
}
