// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a row says, in a line for a person.

use crate::commands::tcptools::feed::Row;

/// A word for what it is, and the rest of the line. `None`: it tells nothing about a connection.
pub fn of(row: &Row) -> Option<(&'static str, String)> {
    let said = match (row.tool(), row.event()) {
        ("tcpstates", "state_change") => ("state", state(row)),
        ("tcpconnect", "connect" | "pending") => ("open", open(row)),
        ("tcpaccept", "accept") => ("accept", accept(row)),
        ("tcpretrans", "retransmit") => ("retransmit", retransmit(row)),
        ("tcpreset", "reset") => ("reset", reset(row)),
        ("tcpdrop", "drop") => ("drop", drop(row)),
        ("tcpprobe", "sample") | ("tcptop", "connection") => ("sample", sample(row)),
        ("tcpcong", "ca_state_change" | "closed") => ("congestion", congestion(row)),
        ("tcprcvspace", "adjust") => ("buffer", buffer(row)),
        ("sockbuf", "rcvqueue_full" | "exceed_buf_limit" | "udp_fail_queue_rcv") => {
            ("buffer", full(row))
        }
        ("tcptop", "stalled") => ("stalled", stalled(row)),
        ("tcplat", "turn") => ("turn", turn(row)),
        ("tcplife", "session") => ("end", end(row)),
        ("tcpinfo", "connection" | "attempt") => ("statistics", statistics(row)),
        _ => return None,
    };
    Some(said)
}

/// `0.333 ms`, `12.3 ms`, `4.56 s`
pub fn time(us: u64) -> String {
    match us {
        0..10_000 => format!("{:.3} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// Parts of a sentence, without those that are not known.
fn list<const N: usize>(parts: [Option<String>; N]) -> String {
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    parts.join(", ")
}

fn counted(row: &Row, key: &str, what: &str) -> Option<String> {
    let number = row.number(key).filter(|n| *n > 0)?;
    let s = if number == 1 { "" } else { "s" };
    Some(format!("{number} {what}{s}"))
}

fn named(row: &Row, key: &str, name: &str) -> Option<String> {
    row.number(key).map(|number| format!("{name} {number}"))
}

fn timed(row: &Row, key: &str, name: &str) -> Option<String> {
    row.number(key).map(|us| format!("{name} {}", time(us)))
}

fn text<'a>(row: &'a Row, key: &str) -> &'a str {
    row.text(key).unwrap_or("?")
}

fn state(row: &Row) -> String {
    let (old, new) = (text(row, "old_state"), text(row, "new_state"));
    let after = timed(row, "in_state_us", "after");
    list([Some(format!("{old} -> {new}")), after])
}

fn open(row: &Row) -> String {
    let outcome = match row.event() {
        "pending" => "no answer yet",
        _ => text(row, "outcome"),
    };
    let after = timed(row, "latency_us", "after");
    let again = row.number("syn_retrans").filter(|n| *n > 0);
    let again = again.map(|n| format!("SYN sent {} times", n + 1));
    list([
        Some(outcome.to_owned()),
        after,
        row.text("error").map(str::to_owned),
        again,
    ])
}

fn accept(row: &Row) -> String {
    match row
        .number("accept_queue")
        .zip(row.number("accept_queue_max"))
    {
        Some((queue, most)) => format!("into the accept queue, {queue} of {most}"),
        None => "into the accept queue".into(),
    }
}

fn retransmit(row: &Row) -> String {
    let attempt = row.number("attempt").filter(|n| *n > 0);
    let failed = row.text("error").map(|error| format!("failed: {error}"));
    list([
        Some(text(row, "kind").to_owned()),
        row.text("tcp_flags").map(str::to_owned),
        counted(row, "len_bytes", "byte"),
        attempt.map(|n| format!("attempt {n}")),
        timed(row, "rto_us", "RTO"),
        row.text("hint").map(str::to_owned),
        failed,
    ])
}

fn reset(row: &Row) -> String {
    list([
        Some(text(row, "direction").to_owned()),
        row.text("state").map(|state| format!("in {state}")),
        row.text("reason").map(str::to_owned),
        row.text("hint").map(str::to_owned),
    ])
}

fn drop(row: &Row) -> String {
    list([
        Some(text(row, "direction").to_owned()),
        row.text("flags").map(str::to_owned),
        counted(row, "len_bytes", "byte"),
        row.text("reason").map(str::to_owned),
        row.text("where").map(|place| format!("at {place}")),
    ])
}

fn sample(row: &Row) -> String {
    let lost = row.text("ca_state").filter(|state| *state != "open");
    let flight = row.number("in_flight_bytes");
    let flight = flight.or_else(|| {
        let segments = row.number("packets_out")?;
        Some(segments * row.number("mss")?)
    });
    list([
        named(row, "snd_cwnd", "cwnd"),
        timed(row, "srtt_us", "srtt"),
        flight.map(|bytes| format!("in flight {bytes}")),
        named(row, "snd_wnd_bytes", "window"),
        lost.map(str::to_owned),
    ])
}

fn congestion(row: &Row) -> String {
    let old = text(row, "old_ca_state");
    let new = row.text("new_ca_state").unwrap_or("closed");
    list([
        Some(format!("{old} -> {new}")),
        timed(row, "in_state_us", "after"),
        named(row, "snd_cwnd", "cwnd"),
    ])
}

fn buffer(row: &Row) -> String {
    list([
        named(row, "copied_bytes", "read"),
        named(row, "rcvbuf_bytes", "rcvbuf"),
        named(row, "rcv_wnd_bytes", "our window"),
        row.text("growth").map(|growth| format!("growth {growth}")),
    ])
}

fn full(row: &Row) -> String {
    list([
        Some(row.event().to_owned()),
        row.text("cause").map(str::to_owned),
        named(row, "used_bytes", "used"),
        named(row, "limit_bytes", "limit"),
    ])
}

fn stalled(row: &Row) -> String {
    let least = if row.flag("why_at_least") == Some(true) {
        "at least "
    } else {
        ""
    };
    let since = row.number("why_us").map(time);
    list([
        Some(text(row, "why").to_owned()),
        since.map(|time| format!("for {least}{time}")),
        counted(row, "wqueue_bytes", "byte").map(|n| format!("{n} not acknowledged")),
        counted(row, "rqueue_bytes", "byte").map(|n| format!("{n} not read")),
    ])
}

fn turn(row: &Row) -> String {
    list([
        Some(format!(
            "{} after {}",
            match text(row, "role") {
                "server" => "answered",
                _ => "answer came",
            },
            row.number("turn_us").map_or("?".into(), time)
        )),
        row.text("where").map(|place| format!("mostly {place}")),
    ])
}

fn end(row: &Row) -> String {
    list([
        Some(text(row, "close_reason").to_owned()),
        timed(row, "duration_us", "after"),
        row.text("error").map(str::to_owned),
        named(row, "tx_bytes", "sent"),
        named(row, "rx_bytes", "received"),
    ])
}

fn statistics(row: &Row) -> String {
    let again = row.number("total_retrans").unwrap_or_default();
    let sent = row.number("data_segs_out").or(row.number("segs_out"));
    let limited = |key: &str, by: &str| {
        let us = row.number(key).filter(|us| *us > 0)?;
        Some(format!("limited by {by} for {}", time(us)))
    };
    list([
        sent.map(|sent| format!("{sent} data segments, {again} sent again")),
        timed(row, "min_rtt_us", "min RTT"),
        timed(row, "srtt_us", "srtt"),
        timed(row, "busy_time_us", "busy"),
        limited("rwnd_limited_us", "the window"),
        limited("sndbuf_limited_us", "the send buffer"),
    ])
}
