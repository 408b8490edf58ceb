// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is written, by the format's own rules.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn row(tool: &str, event: &str, ms: u64, cookie: u64, values: Value) -> Row {
    let mut row = json!({
        "tool": tool, "event": event, "boot_ns": ms * 1_000_000, "netns": 1, "cookie": cookie,
        "laddr": "10.0.0.1", "lport": 1000 + cookie, "raddr": "10.0.0.2", "rport": 80,
        "pid": 10 + cookie % 3, "comm": "app",
    });
    let object = row.as_object_mut().unwrap();
    object.extend(values.as_object().unwrap().clone());
    Row::parse(row.to_string(), 0).unwrap()
}

fn change(ms: u64, cookie: u64, old: &str, new: &str) -> Row {
    let values = json!({ "old_state": old, "new_state": new, "in_state_us": null });
    row("tcpstates", "state_change", ms, cookie, values)
}

fn sample(ms: u64, cookie: u64, cwnd: u64) -> Row {
    let values = json!({ "snd_cwnd": cwnd, "srtt_us": 300, "in_flight_bytes": 1000 });
    row("tcpprobe", "sample", ms, cookie, values)
}

fn stall(ms: u64, cookie: u64, why: &str, us: u64) -> Row {
    row(
        "tcptop",
        "stalled",
        ms,
        cookie,
        json!({ "why": why, "why_us": us, "state": "ESTABLISHED" }),
    )
}

fn retransmit(ms: u64, cookie: u64) -> Row {
    row(
        "tcpretrans",
        "retransmit",
        ms,
        cookie,
        json!({ "kind": "rto", "state": "ESTABLISHED" }),
    )
}

fn written(rows: &[Row]) -> Vec<Value> {
    let mut bytes = Vec::new();
    let mut tracks = Tracks::new(Trace::begin(&mut bytes).unwrap());
    rows.iter().for_each(|row| tracks.put(row).unwrap());
    tracks.end().unwrap();
    let whole: Value = serde_json::from_slice(&bytes).unwrap();
    whole["traceEvents"].as_array().unwrap().clone()
}

/// The rules: names for every process and thread; times that do not go back on a track; each B has its E, and no E is
/// without its B; counters have numbers.
fn check(events: &[Value]) {
    let key = |event: &Value| (event["pid"].as_u64().unwrap(), event["tid"].as_u64());
    let names = events.iter().filter(|event| event["ph"] == "M");
    let names: HashMap<_, _> = names
        .map(|event| {
            (
                (event["name"].as_str().unwrap(), key(event)),
                &event["args"]["name"],
            )
        })
        .collect();
    assert!(names.values().all(|name| name.is_string()));
    let mut open: HashMap<_, Vec<&str>> = HashMap::new();
    let mut last: HashMap<_, f64> = HashMap::new();
    for event in events {
        let phase = event["ph"].as_str().unwrap();
        if phase == "M" {
            continue;
        }
        let ts = event["ts"].as_f64().unwrap();
        let track = match phase {
            "C" => format!("{} {}", event["pid"], event["name"]),
            _ => format!("{:?}", key(event)),
        };
        let before = last.insert(track, ts).unwrap_or(0.0);
        assert!(ts >= before, "back from {before}: {event}");
        match phase {
            "B" => open
                .entry(key(event))
                .or_default()
                .push(event["name"].as_str().unwrap()),
            "E" => assert!(
                open.entry(key(event)).or_default().pop().is_some(),
                "{event}"
            ),
            "i" => assert_eq!(event["s"], "t"),
            "C" => {
                let values = event["args"].as_object().unwrap();
                assert!(
                    !values.is_empty() && values.values().all(Value::is_number),
                    "{event}"
                );
                continue;
            }
            _ => panic!("no such phase: {event}"),
        }
        assert!(names.contains_key(&("thread_name", key(event))), "{event}");
        let process = names
            .keys()
            .any(|(what, (pid, _))| *what == "process_name" && Some(*pid) == event["pid"].as_u64());
        assert!(process, "{event}");
    }
    assert!(open.values().all(Vec::is_empty), "{open:?}");
}

fn of(events: &[Value], phase: &str) -> Vec<(String, f64)> {
    let those = events.iter().filter(|event| event["ph"] == phase);
    those
        .map(|event| {
            let name = event["name"].as_str().unwrap_or_default().to_owned();
            (name, event["ts"].as_f64().unwrap_or_default())
        })
        .collect()
}

#[test]
fn a_connection_is_a_track() {
    let events = written(&[
        change(10, 1, "CLOSE", "SYN_SENT"),
        change(11, 1, "SYN_SENT", "ESTABLISHED"),
        sample(12, 1, 10),
        retransmit(300, 1),
        stall(2000, 1, "no_ack", 1_500_000),
        stall(3000, 1, "no_ack", 2_500_000),
        change(3500, 1, "ESTABLISHED", "CLOSE"),
        retransmit(3600, 1),
    ]);
    check(&events);
    let slices = [("SYN_SENT", 10e3), ("ESTABLISHED", 11e3), ("no_ack", 500e3)];
    let slices = slices.map(|(name, ts)| (name.to_owned(), ts));
    assert_eq!(of(&events, "B"), slices);
    let moments = [300e3, 3600e3].map(|ts| ("retransmit rto".to_owned(), ts));
    assert_eq!(of(&events, "i"), moments);
    let counters: Vec<_> = of(&events, "C").into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        counters,
        ["#1 cwnd (segments)", "#1 srtt (us)", "#1 in flight (bytes)"]
    );
    let ends: Vec<_> = of(&events, "E").into_iter().map(|(_, ts)| ts).collect();
    assert_eq!(ends, [11e3, 3500e3, 3000e3]);
}

#[test]
fn one_that_was_there_before_begins_with_its_first_row() {
    let mut known = change(50, 2, "ESTABLISHED", "FIN_WAIT1");
    let events = written(&[sample(5, 1, 10), known.clone()]);
    check(&events);
    assert_eq!(of(&events, "B")[0], ("ESTABLISHED".to_owned(), 5e3));
    assert_eq!(of(&events, "B")[1], ("ESTABLISHED".to_owned(), 50e3));
    known = row(
        "tcpstates",
        "state_change",
        50,
        2,
        json!({ "old_state": "CLOSE_WAIT", "new_state": "CLOSE", "in_state_us": 20_000 }),
    );
    let events = written(&[known]);
    check(&events);
    assert_eq!(of(&events, "B"), [("CLOSE_WAIT".to_owned(), 30e3)]);
}

#[test]
fn many_connections_are_closed_as_they_are_forgotten() {
    let rows: Vec<_> = (0..2 * MOST as u64).map(|n| sample(n, n, 1)).collect();
    let events = written(&rows);
    check(&events);
    assert_eq!(of(&events, "B").len(), 2 * MOST);
}

proptest! {
    /// Whatever rows come, in whatever order.
    #[test]
    fn rules_hold_for_any_rows(rows in prop::collection::vec((0..5u8, 0..50u64, 0..4u64, 0..6usize), 0..60)) {
        let states = ["CLOSE", "SYN_SENT", "ESTABLISHED", "FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT"];
        let made = rows.into_iter().map(|(kind, ms, cookie, n)| match kind {
            0 => change(ms, cookie, states[n], states[(n + 1) % 6]),
            1 => sample(ms, cookie, n as u64),
            2 => stall(ms, cookie, states[n], ms * 1000),
            3 => retransmit(ms, cookie),
            _ => row("tcplife", "session", ms, cookie, json!({ "close_reason": "fin_local", "state": "LAST_ACK" })),
        });
        check(&written(&made.collect::<Vec<_>>()));
    }
}
