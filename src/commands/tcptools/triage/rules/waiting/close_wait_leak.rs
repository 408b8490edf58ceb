// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that stay in CLOSE_WAIT: the other end has closed, and this program does not.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

const COUNT: Limit = Limit {
    name: "close_wait_leak_sockets",
    default: 10.0,
    unit: "sockets of a process",
    why: "A few wait for a thread that is busy.",
};

const SECONDS: Limit = Limit {
    name: "close_wait_leak_seconds",
    default: 2.0,
    unit: "s in CLOSE_WAIT",
    why: "A server that answers the last request of a client closes when it has.",
};

pub const KIND: Kind = Kind {
    name: "close_wait_leak",
    what: "A program keeps connections that the other end has closed.",
    explain: "The peer's FIN has come, and the program does not call close(). Each such socket holds \
a descriptor, until open() and accept() fail with EMFILE.\n\
It is always this program: the kernel has nothing more to wait for. It is told from a server that \
is slow to answer by the age of the sockets.\n\
Look for a code path that leaves without closing: an exception, a timeout of a pool, a response \
whose body is not read.",
    limits: &[COUNT, SECONDS],
    effect_of: &[],
};

#[derive(Default)]
struct Seen {
    /// In the look that is going on, and the time of that look.
    now: u64,
    look_ns: u64,
    most: u64,
    oldest_us: u64,
}

#[derive(Default)]
pub struct CloseWaitLeak(Subjects<Seen>);

impl Rule for CloseWaitLeak {
    fn see(&mut self, row: &Row, limits: &Limits) {
        if !row.is("tcpstates", "active") || row.text("state") != Some("CLOSE_WAIT") {
            return;
        }
        let since = row.number("in_state_us").unwrap_or_default();
        // One that nobody has accepted is the listener's trouble.
        let unaccepted = row.text("held_by") == Some("unaccepted");
        if unaccepted || (since as f64) < limits.of(&SECONDS) * 1e6 {
            return;
        }
        let Some(seen) = self.0.of(Subject::process(row)) else {
            return;
        };
        // The rows of one look have one time.
        if seen.look_ns != row.boot_ns() {
            (seen.now, seen.look_ns) = (0, row.boot_ns());
        }
        seen.now += 1;
        seen.most = seen.most.max(seen.now);
        seen.oldest_us = seen.oldest_us.max(since);
    }

    fn find(&self, limits: &Limits, _: f64) -> Vec<Finding> {
        let found = self
            .0
            .iter()
            .filter(|(_, seen)| seen.most as f64 >= limits.of(&COUNT));
        found
            .map(|(subject, seen)| Finding {
                kind: &KIND,
                severity: Severity::Critical,
                subject: subject.clone(),
                text: format!(
                    "{} sockets in CLOSE_WAIT, the oldest for {:.0} s",
                    seen.most,
                    seen.oldest_us as f64 / 1e6
                ),
                evidence: vec![
                    ("close_wait", Value::from(seen.most)),
                    ("in_state_us", seen.oldest_us.into()),
                ],
                next: match subject.pid {
                    Some(pid) => format!("tcpstates --active --state close_wait --pid {pid}"),
                    None => "tcpstates --active --state close_wait".into(),
                },
                weight: seen.most as f64,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn held(port: u64, us: u64) -> Row {
        let values = json!({
            "comm": "kestrel", "pid": 9, "state": "CLOSE_WAIT", "in_state_us": us, "rport": port,
        });
        row("tcpstates", "active", values)
    }

    #[test]
    fn many_old_ones_are_found() {
        let rows: Vec<_> = (0..40).map(|port| held(port, 9_000_000)).collect();
        let found = find::<CloseWaitLeak>(&rows);
        assert_eq!(
            found[0].text,
            "40 sockets in CLOSE_WAIT, the oldest for 9 s"
        );
    }

    #[test]
    fn young_or_few_are_not() {
        let young: Vec<_> = (0..40).map(|port| held(port, 9_000)).collect();
        assert!(find::<CloseWaitLeak>(&young).is_empty());
        assert!(find::<CloseWaitLeak>(&[held(1, 9_000_000)]).is_empty());
    }
}
