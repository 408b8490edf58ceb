// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that stay in CLOSE_WAIT: the other end has closed, and this program does not.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::looks::{Same, seconds};
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "close_wait_leak_sockets",
    default: 10.0,
    unit: "sockets of a program",
    why: "A few wait for a thread that is busy.",
};

const SECONDS: Limit = Limit {
    name: "close_wait_leak_seconds",
    default: 2.0,
    unit: "s in CLOSE_WAIT without data",
    why: "A server that answers the last request of a client closes when it has.",
};

pub const KIND: Kind = Kind {
    name: "close_wait_leak",
    what: "A program keeps connections that the other end has closed.",
    explain: "The peer's FIN has come, and the program does not call close(). Each such socket holds \
a descriptor, until open() and accept() fail with EMFILE.\n\
It is always this program: the kernel has nothing more to wait for. It is told from a server that \
is slow to answer, or that still sends to a client which has closed its side only, by the time for \
which no data has come or gone. Connections that nobody has accepted are not counted: they are \
their listener's. Sockets that were there before triage are: their age is a lower bound.\n\
Look for a code path that leaves without closing: an exception, a timeout of a pool, a response \
whose body is not read.",
    limits: &[COUNT, SECONDS],
    effect_of: &[],
};

#[derive(Default)]
struct Seen {
    /// When the last look began, and how many it had.
    look_ns: u64,
    now: u64,
    /// In the first look that had any, and the longest time in the last one.
    first: u64,
    looks: u64,
    oldest_us: u64,
    pid: Same<u64>,
    local: Same<(Option<IpAddr>, u64)>,
    remote: Same<(Option<IpAddr>, u64)>,
}

impl Seen {
    fn see(&mut self, row: &Row, since: u64) {
        if row.boot_ns() > self.look_ns + ONE_LOOK_NS {
            self.look_ns = row.boot_ns();
            self.looks += 1;
            (self.now, self.oldest_us) = (0, 0);
        }
        self.now += 1;
        if self.looks == 1 {
            self.first = self.now;
        }
        self.oldest_us = self.oldest_us.max(since);
        self.pid.see(row.number("pid"));
        let end = |addr, port| Some((row.addr(addr), row.number(port)?));
        self.local.see(end("laddr", "lport"));
        self.remote.see(end("raddr", "rport"));
    }

    /// With the listener or the server, if all are of one.
    fn subject(&self, program: &Subject) -> Subject {
        let end = |same: &Same<(Option<IpAddr>, u64)>| {
            let (addr, port) = same.one()?;
            Some(SocketAddr::new(addr?, u16::try_from(port).ok()?))
        };
        let listener = end(&self.local);
        Subject {
            pid: self.pid.one(),
            listener,
            destination: end(&self.remote).filter(|_| listener.is_none()),
            ..program.clone()
        }
    }

    fn finding(&self, program: &Subject) -> Finding {
        let grown = match self.now.saturating_sub(self.first) {
            0 => String::new(),
            more => format!(", {more} more than at first"),
        };
        let subject = self.subject(program);
        Finding {
            kind: &KIND,
            severity: Severity::Critical,
            text: format!(
                "{} sockets in CLOSE_WAIT, the oldest for {}{grown}",
                self.now,
                seconds(self.oldest_us)
            ),
            evidence: vec![
                ("close_wait", Value::from(self.now)),
                ("close_wait_first", self.first.into()),
                ("in_state_us", self.oldest_us.into()),
            ],
            next: match (subject.pid, subject.listener, subject.destination) {
                (Some(pid), _, _) => format!("{NEXT} --pid {pid}"),
                (_, Some(at), _) => format!("{NEXT} -L {}", at.port()),
                (_, _, Some(to)) => format!("{NEXT} -D {}", to.port()),
                _ => NEXT.into(),
            },
            weight: self.now as f64,
            subject,
        }
    }
}

/// A look takes a while, and there is a second between two.
const ONE_LOOK_NS: u64 = 500_000_000;

const NEXT: &str = "tcpstates --active --state close_wait";

#[derive(Default)]
pub struct CloseWaitLeak {
    of: Subjects<Seen>,
    /// The last row of tcpstates.
    newest_ns: u64,
}

impl Rule for CloseWaitLeak {
    fn see(&mut self, row: &Row, limits: &Limits) {
        if row.tool() != "tcpstates" {
            return;
        }
        self.newest_ns = self.newest_ns.max(row.boot_ns());
        if row.event() != "active" || row.text("state") != Some("CLOSE_WAIT") {
            return;
        }
        let since = row.number("in_state_us").unwrap_or_default();
        // To a client that has closed its side only, data may still be sent.
        let quiet = row.number("idle_us").unwrap_or(since).min(since);
        let unaccepted = row.text("held_by") == Some("accept_queue");
        if unaccepted || (quiet as f64) < limits.of(&SECONDS) * 1e6 {
            return;
        }
        // A server may have a process for each connection.
        if let Some(seen) = self.of.of(Subject::process(row).any_pid()) {
            seen.see(row, since);
        }
    }

    fn find(&self, limits: &Limits, time: f64) -> Vec<Finding> {
        // What the last look lacks was closed. There are five looks, ten seconds apart at most.
        let apart_ns = (time / 5.0).clamp(2.0, 10.0) * 1.5e9;
        let leaks = |seen: &Seen| {
            let now = (self.newest_ns.saturating_sub(seen.look_ns) as f64) < apart_ns;
            now && seen.now as f64 >= limits.of(&COUNT)
        };
        let found = self.of.iter().filter(|(_, seen)| leaks(seen));
        found.map(|(program, seen)| seen.finding(program)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{at, find};

    const MS: u64 = 1000;

    fn held(second: f64, port: u64, us: u64) -> Row {
        held_by("process", second, port, us, us)
    }

    fn held_by(who: &str, second: f64, port: u64, us: u64, idle: u64) -> Row {
        let values = json!({
            "netns": 1, "comm": "kestrel", "pid": 9, "state": "CLOSE_WAIT", "in_state_us": us,
            "idle_us": idle, "held_by": who, "laddr": "10.0.0.1", "lport": 8080,
            "raddr": "10.0.0.2", "rport": 40_000 + port,
        });
        at(second, "tcpstates", "active", values)
    }

    #[test]
    fn many_old_ones_are_found() {
        // Each row of a look has its own time.
        let look = |second: f64, sockets: u64, us| {
            (0..sockets).map(move |port| held(second + port as f64 / 1e3, port, us))
        };
        let rows = look(1.0, 30, 7000 * MS).chain(look(3.0, 40, 9000 * MS));
        let rows: Vec<_> = rows.collect();
        let found = find::<CloseWaitLeak>(&rows);
        let [one] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(
            one.text,
            "40 sockets in CLOSE_WAIT, the oldest for 9 s, 10 more than at first"
        );
        assert_eq!(one.subject.to_string(), "kestrel (pid 9) on 10.0.0.1:8080");
        assert_eq!(one.next, "tcpstates --active --state close_wait --pid 9");
    }

    #[test]
    fn young_or_few_are_not() {
        let young: Vec<_> = (0..40).map(|port| held(1.0, port, 9 * MS)).collect();
        assert!(find::<CloseWaitLeak>(&young).is_empty());
        assert!(find::<CloseWaitLeak>(&[held(1.0, 1, 9000 * MS)]).is_empty());
    }

    #[test]
    fn half_closed_ones_that_are_sent_to_are_not() {
        let rows = (0..40).map(|port| held_by("process", 1.0, port, 9000 * MS, 10 * MS));
        assert!(find::<CloseWaitLeak>(&rows.collect::<Vec<_>>()).is_empty());
    }

    #[test]
    fn ones_that_nobody_has_accepted_are_not() {
        let rows = (0..40).map(|port| held_by("accept_queue", 1.0, port, 9000 * MS, 9000 * MS));
        assert!(find::<CloseWaitLeak>(&rows.collect::<Vec<_>>()).is_empty());
    }

    #[test]
    fn ones_that_were_closed_meanwhile_are_not() {
        let mut rows: Vec<_> = (0..40).map(|port| held(1.0, port, 9000 * MS)).collect();
        let values = json!({ "state": "ESTABLISHED", "now": 3 });
        rows.push(at(9.0, "tcpstates", "state", values));
        assert!(find::<CloseWaitLeak>(&rows).is_empty());
    }
}
