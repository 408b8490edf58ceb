// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is compared: one line each.

use super::super::feed::Row;
use super::truth::Truth;

/// Rows of a command, and what they are to add up to.
pub(super) struct Check {
    /// The command.
    pub tool: &'static str,
    /// What its rows are, in words.
    pub what: &'static str,
    /// Where the right number comes from, in words.
    pub from: &'static str,
    /// What a row counts.
    rows: fn(&Row, &Truth) -> u64,
    /// What is right.
    right: fn(&Truth) -> Right,
}

/// What is right, or why it is not known.
type Right = Result<u64, String>;

/// Those of one command follow each other.
#[rustfmt::skip] // one line per comparison
pub(super) const CHECKS: &[Check] = &[
    check("tcpconnect", "active opens", "TcpActiveOpens", |r, _| is(r, "connect"), |t| Ok(t.counted("TcpActiveOpens"))),
    check("tcpconnect", "of the right process", "its PID", |r, t| of(r, t, "connect"), |t| Ok(t.counted("TcpActiveOpens"))),
    check("tcpaccept", "passive opens", "TcpPassiveOpens", |r, _| is(r, "accept"), |t| Ok(t.counted("TcpPassiveOpens"))),
    check("tcplife", "sessions", "Tcp*Opens", |r, _| is(r, "session"), opens),
    check("tcplife", "of the right process", "its PID", |r, t| of(r, t, "session"), opens),
    check("tcplife", "bytes sent", "what was sent", |r, _| number(r, "session", "tx_bytes"), |t| Ok(t.bytes)),
    check("tcplife", "bytes received", "what was received", |r, _| number(r, "session", "rx_bytes"), |t| Ok(t.bytes)),
    check("tcpstates", "first states", "Tcp*Opens", |r, _| first_state(r), opens),
    check("tcpretrans", "retransmissions", "TcpRetransSegs", |r, _| is(r, "retransmit"), |t| Ok(t.counted("TcpRetransSegs"))),
    check("tcpreset", "RSTs sent", "TcpOutRsts", |r, _| when(r, "reset", "direction", "sent"), |t| Ok(t.counted("TcpOutRsts"))),
    check("tcpdrop", "segments a filter dropped", "the sender's TCP_INFO", |r, _| when(r, "drop", "reason", "SOCKET_FILTER"), |t| t.filtered.clone()),
    check("tcpinfo", "segments sent again", "TcpRetransSegs", |r, _| r.number("total_retrans").unwrap_or_default(), |t| Ok(t.counted("TcpRetransSegs"))),
    check("tcplat", "answered requests", "the server's own count", turn, |t| Ok(t.turns)),
    check("tcptop", "bytes sent", "what was sent", |r, _| number(r, "connection", "tx_bytes"), |t| Ok(t.bytes)),
    check("sockbuf", "datagrams of a full buffer", "UdpRcvbufErrors", |r, _| is(r, "udp_fail_queue_rcv"), |t| Ok(t.counted("UdpRcvbufErrors"))),
];

const fn check(
    tool: &'static str,
    what: &'static str,
    from: &'static str,
    rows: fn(&Row, &Truth) -> u64,
    right: fn(&Truth) -> Right,
) -> Check {
    Check {
        tool,
        what,
        from,
        rows,
        right,
    }
}

fn opens(truth: &Truth) -> Right {
    Ok(truth.counted("TcpActiveOpens") + truth.counted("TcpPassiveOpens"))
}

fn is(row: &Row, event: &str) -> u64 {
    (row.event() == event).into()
}

fn of(row: &Row, truth: &Truth, event: &str) -> u64 {
    (row.event() == event && row.number("pid") == Some(truth.pid)).into()
}

fn when(row: &Row, event: &str, key: &str, value: &str) -> u64 {
    (row.event() == event && row.text(key) == Some(value)).into()
}

fn number(row: &Row, event: &str, key: &str) -> u64 {
    match row.event() == event {
        true => row.number(key).unwrap_or_default(),
        false => 0,
    }
}

/// How each socket begins that opens.
fn first_state(row: &Row) -> u64 {
    let changes = [("CLOSE", "SYN_SENT"), ("LISTEN", "SYN_RECV")];
    let change = (
        row.text("old_state").unwrap_or_default(),
        row.text("new_state").unwrap_or_default(),
    );
    (row.event() == "state_change" && changes.contains(&change)).into()
}

/// A request that the server has answered.
fn turn(row: &Row, truth: &Truth) -> u64 {
    (row.event() == "turn" && row.number("lport") == Some(truth.port)).into()
}

/// A comparison that was made.
pub(super) struct Tally {
    pub check: &'static Check,
    /// What the rows add up to.
    pub rows: u64,
    /// What they are to add up to.
    pub right: u64,
    /// Why there is nothing to compare: the command did not run, or the traffic could not be made.
    pub why_not: Option<String>,
}

impl Tally {
    pub(super) fn new(
        check: &'static Check,
        rows: &[Row],
        truth: &Truth,
        notes: &[String],
    ) -> Self {
        let own = || rows.iter().filter(|row| row.tool() == check.tool);
        let says = |note: &&String| note.starts_with(&format!("{}: ", check.tool));
        // It said why, and nothing else.
        let refused = notes.iter().find(says).filter(|_| own().next().is_none());
        let right = (check.right)(truth);
        Self {
            check,
            rows: own().map(|row| (check.rows)(row, truth)).sum(),
            right: right.clone().unwrap_or_default(),
            why_not: refused.cloned().or(right.err()),
        }
    }

    /// What did not run does not differ.
    pub(super) fn agrees(&self) -> bool {
        self.why_not.is_some() || self.rows == self.right
    }

    /// For scripts.
    pub(super) fn verdict(&self) -> &'static str {
        match (&self.why_not, self.agrees()) {
            (Some(_), _) => "not_run",
            (None, true) => "equal",
            (None, false) => "differs",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(rows: usize, notes: &[String]) -> Vec<&'static str> {
        let line = r#"{"tool":"tcpconnect","event":"connect","pid":7}"#;
        let row = || Row::parse(line.to_owned(), 0).unwrap();
        let rows: Vec<_> = (0..rows).map(|_| row()).collect();
        let truth = serde_json::json!({"counted": {"TcpActiveOpens": 2}, "pid": 7, "bytes": 0,
            "turns": 0, "port": 1, "unfiltered": "no filter"});
        let truth = Truth::from_json(&truth).unwrap();
        let tally = |check| Tally::new(check, &rows, &truth, notes).verdict();
        CHECKS.iter().map(tally).collect()
    }

    #[test]
    fn missing_row_differs() {
        assert_eq!(verdicts(2, &[])[..3], ["equal", "equal", "equal"]);
        assert_eq!(verdicts(1, &[])[..3], ["differs", "differs", "equal"]);
        assert_eq!(verdicts(3, &[])[..2], ["differs", "differs"]);
    }

    #[test]
    fn refusal_is_not_a_difference() {
        let notes = ["tcpconnect: permission denied".to_owned()];
        assert_eq!(verdicts(0, &notes)[0], "not_run");
        assert_eq!(verdicts(1, &notes)[0], "differs");
        let dropped = CHECKS.iter().position(|check| check.tool == "tcpdrop");
        assert_eq!(verdicts(2, &[])[dropped.unwrap()], "not_run");
    }
}
