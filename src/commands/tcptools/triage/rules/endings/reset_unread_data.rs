// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server closes connections before it has read all of the request.

use serde_json::Value;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::{Finding, Severity};
use crate::commands::tcptools::triage::kind::{Kind, Limit, Limits};
use crate::commands::tcptools::triage::rules::Rule;
use crate::commands::tcptools::triage::rules::endings::ends::{Ends, filter};
use crate::commands::tcptools::triage::rules::looks::count;

const COUNT: Limit = Limit {
    name: "reset_unread_data_resets",
    default: 3.0,
    unit: "resets of a server",
    why: "A worker that is stopped leaves a request unread.",
};

const SHARE: Limit = Limit {
    name: "reset_unread_data_percent",
    default: 5.0,
    unit: "% of its connections that ended",
    why: "A client may send more than it was asked for now and then.",
};

pub const KIND: Kind = Kind {
    name: "reset_unread_data",
    what: "A server closes connections with unread data in them, which resets them.",
    explain: "The server has answered, and calls close() while bytes of the request are in its \
receive buffer or on their way. The kernel then sends a reset instead of a FIN. When that arrives, \
the client's kernel throws away what the client has not read yet, the answer perhaps: it sees \
\"connection reset by peer\" instead of the error page (413, 401, 400), and its proxy says 502.\n\
It is told from other resets by the kernel's reason, TCP_ABORT_ON_CLOSE (since Linux 6.10), at the \
end that listens. A client that closes with unread data is mostly not interested in the rest, and \
is not found.\n\
Let the server read the rest of the request, or shutdown(SHUT_WR), read until the end with a \
limit, and close then (nginx: lingering_close).",
    limits: &[COUNT, SHARE],
    effect_of: &[],
};

#[derive(Default)]
struct Seen {
    resets: u64,
    sent: u64,
    received: u64,
}

#[derive(Default)]
pub struct ResetUnreadData(Ends<Seen>);

impl Rule for ResetUnreadData {
    fn see(&mut self, row: &Row, _: &Limits) {
        let Some(reset) = self.0.see(row) else { return };
        let unread = row.text("reason") == Some("TCP_ABORT_ON_CLOSE");
        if reset.sent && reset.served && unread {
            reset.seen.resets += 1;
            reset.seen.sent += row.number("tx_bytes").unwrap_or_default();
            reset.seen.received += row.number("rx_bytes").unwrap_or_default();
        }
    }

    fn find(&self, limits: &Limits, time: f64) -> Vec<Finding> {
        let all = self.0.iter().map(|(subject, ended)| {
            let resets = ended.seen.resets;
            (subject, ended, resets, ended.percent(resets))
        });
        let often = all.filter(|(_, _, resets, percent)| {
            *resets as f64 >= limits.of(&COUNT) && *percent >= limits.of(&SHARE)
        });
        often
            .map(|(subject, ended, resets, _)| Finding {
                kind: &KIND,
                severity: Severity::Critical,
                text: format!(
                    "closes with unread data: {} of {} that ended in {time:.0} s, after {} KiB of \
                     request and {} bytes of answer on average",
                    count(resets, "reset"),
                    count(ended.total(resets), "connection"),
                    (ended.seen.received / resets.max(1)).div_ceil(1024),
                    ended.seen.sent / resets.max(1)
                ),
                evidence: vec![
                    ("reason", Value::from("TCP_ABORT_ON_CLOSE")),
                    ("resets", resets.into()),
                    ("ended", ended.total(resets).into()),
                    ("rx_bytes", ended.seen.received.into()),
                    ("tx_bytes", ended.seen.sent.into()),
                ],
                next: format!("tcpreset -w{}", filter(&subject)),
                weight: resets as f64,
                subject,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::{find, row};

    fn reset(lport: u64, rport: u64, reason: &str) -> Row {
        let values = json!({
            "netns": 1, "comm": "gunicorn", "pid": 7, "laddr": "10.0.0.1", "lport": lport,
            "raddr": "10.0.0.2", "rport": rport, "direction": "sent", "reason": reason,
            "rx_bytes": 20_000, "tx_bytes": 26,
        });
        row("tcpreset", "reset", values)
    }

    fn session(rport: u64) -> Row {
        let values = json!({
            "netns": 1, "laddr": "10.0.0.1", "lport": 8000, "raddr": "10.0.0.2", "rport": 40_000 + rport,
            "state": "LAST_ACK",
        });
        row("tcplife", "session", values)
    }

    #[test]
    fn server_that_does_not_read_all_is_found() {
        let mut rows: Vec<_> = (0..5)
            .map(|n| reset(8000, 40_000 + n, "TCP_ABORT_ON_CLOSE"))
            .collect();
        rows.extend((0..10).map(session));
        let found = find::<ResetUnreadData>(&rows);
        assert_eq!(
            found[0].text,
            "closes with unread data: 5 resets of 10 connections that ended in 10 s, after 20 KiB \
             of request and 26 bytes of answer on average"
        );
        assert_eq!(
            found[0].subject.to_string(),
            "gunicorn (pid 7) on 10.0.0.1:8000"
        );
        assert_eq!(found[0].next, "tcpreset -w -L 8000");
    }

    #[test]
    fn few_rare_ones_other_reasons_and_clients_are_not() {
        let some = |n, reason| (0..n).map(move |n| reset(8000, 40_000 + n, reason));
        let few: Vec<_> = some(2, "TCP_ABORT_ON_CLOSE").collect();
        assert!(find::<ResetUnreadData>(&few).is_empty());
        let other: Vec<_> = some(9, "TCP_STATE").collect();
        assert!(find::<ResetUnreadData>(&other).is_empty());
        let rare = some(4, "TCP_ABORT_ON_CLOSE").chain((0..200).map(session));
        assert!(find::<ResetUnreadData>(&rare.collect::<Vec<_>>()).is_empty());
        let client = (0..9).map(|n| reset(40_000 + n, 8000, "TCP_ABORT_ON_CLOSE"));
        assert!(find::<ResetUnreadData>(&client.collect::<Vec<_>>()).is_empty());
    }
}
