// SPDX-License-Identifier: MIT OR Apache-2.0
//! The values of rows, compared with TCP_INFO, `ss`, and the kernel's own record of the same event.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::scene::{HOSTS, Scene, Talk, of};
use crate::{
    peer::Agent,
    trace::Trace,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpprobe::values::tcp_info_and_ss", sockets),
        trial("tcpprobe::values::trace_record", trace_record),
    ]
}

const CA_STATES: [&str; 5] = ["open", "disorder", "cwr", "recovery", "loss"];

/// The expected row of the next segment: an idle socket does not change.
fn expected(agent: &mut Agent, fd: u64) -> Result<Value> {
    let info = agent.info(fd)?;
    let finite = Some(info["snd_ssthresh"]).filter(|&s| s < 0x7fff_ffff);
    let known = |rate: u64| Some(rate).filter(|&r| r != 0);
    let mut row = json!({
        "snd_cwnd": info["snd_cwnd"], "ssthresh": finite, "srtt_us": info["srtt_us"], "snd_wnd_bytes": info["snd_wnd"],
        "mss": info["snd_mss"], "total_retrans": info["total_retrans"],
        "ca_state": CA_STATES[info["ca_state"] as usize],
        "packets_out": info["unacked"], "sacked_out": info["sacked"], "lost_out": info["lost"],
        "retrans_out": info["retrans"],
        "packets_in_flight": info["unacked"] - info["sacked"] - info["lost"] + info["retrans"],
        "pacing_rate_bytes_per_s": Some(info["pacing_rate"]).filter(|&r| r != u64::MAX),
        "delivery_rate_bytes_per_s": known(info["delivery_rate"]),
    });
    if let Some(&window) = info.get("rcv_wnd") {
        row["rcv_wnd_bytes"] = json!(window);
    }
    Ok(row)
}

/// Without an answer until the timer has fired: then the threshold is finite.
fn lose(scene: &mut Scene, talk: Talk) -> Result<()> {
    scene.s.run(&format!("drop {}", talk.s))?;
    scene.c.run(&format!("send {} 5000", talk.c))?;
    wait::until("two retransmissions", PATIENCE, || {
        Ok((scene.c.info(talk.c)?["total_retrans"] > 1).then_some(()))
    })?;
    scene.s.run(&format!("undrop {}", talk.s))?;
    scene.s.run(&format!("recv {} 5000", talk.s))?;
    scene.c.run(&format!("drained {}", talk.c)).map(drop)
}

/// The row of the last segment of a socket must say all this.
fn check(rows: &[Value], cookie: u64, want: &Value) -> Result<()> {
    let rows = of(rows, cookie);
    let row = rows.last().context("no row")?;
    for (key, value) in want.as_object().context("an object")? {
        ensure!(
            row[key] == *value,
            "{key} is {}, not {value}: {row}",
            row[key]
        );
    }
    Ok(())
}

fn sockets() -> Result<()> {
    for host in HOSTS {
        let mut scene = Scene::new()?;
        let talk = scene.connect(host)?;
        let tool = scene.watch(&[])?;
        scene.exchange(talk, 300_000, 1000)?;
        lose(&mut scene, talk)?;
        let client = expected(&mut scene.c, talk.c)?;
        let ss = scene.net.a.feed(&["ss", "-tinemOH"], "")?;
        ensure!(client["ssthresh"].is_u64(), "{client}");
        // One byte to the client: its last row. Its acknowledgement may have come with it.
        scene.s.run(&format!("send {} 1", talk.s))?;
        scene.c.run(&format!("recv {} 1", talk.c))?;
        scene.s.run(&format!("drained {}", talk.s))?;
        let server = expected(&mut scene.s, talk.s)?;
        scene.c.run(&format!("send {} 7", talk.c))?;
        scene.s.run(&format!("recv {} 7", talk.s))?;
        let rows = tool.stop()?.rows()?;
        let client_rows: Vec<_> = rows
            .iter()
            .filter(|r| r["len_bytes"] == 1)
            .cloned()
            .collect();
        check(&client_rows, talk.c_cookie, &client).with_context(|| host.to_owned())?;
        let server_rows: Vec<_> = rows
            .iter()
            .filter(|r| r["len_bytes"] == 7)
            .cloned()
            .collect();
        check(&server_rows, talk.s_cookie, &server).with_context(|| host.to_owned())?;
        check_ss(&ss, client_rows.last().context("no row")?)?;
        let family = if host.starts_with("[fd") { 6 } else { 4 };
        ensure!(
            rows.iter().all(|row| row["family"] == family),
            "not family {family}"
        );
        let owners = [
            (talk.c_cookie, scene.c.pid()),
            (talk.s_cookie, scene.s.pid()),
        ];
        for (cookie, pid) in owners {
            let wrong = of(&rows, cookie).into_iter().find(|r| r["pid"] != pid);
            ensure!(wrong.is_none(), "not of {pid}: {wrong:?}");
        }
    }
    Ok(())
}

/// The line of `ss -tinem` (`-O`: one for each socket) with this row's cookie says the same in its own words.
fn check_ss(ss: &str, row: &Value) -> Result<()> {
    let number = |key: &str| row[key].as_u64().with_context(|| key.to_owned());
    let cookie = format!(" sk:{:x} ", number("cookie")?);
    let line = ss.lines().find(|line| format!("{line} ").contains(&cookie));
    let words: Vec<&str> = line
        .context("ss does not show it")?
        .split_whitespace()
        .collect();
    let value = |name: &str| {
        let word = words.iter().find_map(|word| word.strip_prefix(name));
        word.with_context(|| format!("ss says no {name}: {words:?}"))
    };
    ensure!(
        words.contains(&row["ca_name"].as_str().context("ca_name")?),
        "{words:?}: {row}"
    );
    for (name, key) in [
        ("cwnd:", "snd_cwnd"),
        ("ssthresh:", "ssthresh"),
        ("mss:", "mss"),
    ] {
        ensure!(
            value(name)?.parse() == Ok(number(key)?),
            "{name} {words:?}: {row}"
        );
    }
    let rtt: f64 = value("rtt:")?.split('/').next().context("rtt")?.parse()?;
    ensure!(
        (rtt * 1e3 - number("srtt_us")? as f64).abs() < 1.0,
        "{words:?}: {row}"
    );
    Ok(())
}

// ---------------------------------------------------------------- the kernel's own record

/// The records of sessions with a port, as `key=value` words.
fn of_port(port: u64) -> Result<Trace> {
    Trace::of(
        "tcp/tcp_probe",
        &format!("sport == {port} || dport == {port}"),
    )
}

fn records(trace: &Trace) -> Result<Vec<HashMap<String, String>>> {
    let pairs = |line: &String| {
        let words = line
            .split_whitespace()
            .filter_map(|word| word.split_once('='));
        words.map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    };
    Ok(trace.lines()?.iter().map(pairs).collect())
}

/// The record's numbers are decimal or hexadecimal.
fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// The record has `tcp_current_ssthresh()`: outside of a reduction at least three quarters of the window.
fn current_ssthresh(row: &Value) -> u64 {
    let ssthresh = row["ssthresh"].as_u64().unwrap_or(0x7fff_ffff);
    let cwnd = row["snd_cwnd"].as_u64().unwrap_or(0);
    match row["ca_state"].as_str() {
        Some("cwr" | "recovery") => ssthresh,
        _ => ssthresh.max(cwnd / 2 + cwnd / 4),
    }
}

/// Every segment has a row and a record, in the same order for each socket, and they say the same.
fn trace_record() -> Result<()> {
    for host in HOSTS {
        let mut scene = Scene::new()?;
        let talk = scene.connect(host)?;
        let trace = of_port(talk.port)?;
        let tool = scene.watch(&[])?;
        scene.exchange(talk, 400_000, 200_000)?;
        lose(&mut scene, talk)?;
        let rows = tool.stop()?.rows()?;
        let records = records(&trace)?;
        for cookie in [talk.c_cookie, talk.s_cookie] {
            let rows = of(&rows, cookie);
            let of_socket = |r: &&HashMap<_, _>| {
                r.get("sock_cookie")
                    .and_then(|c: &String| u64::from_str_radix(c, 16).ok())
                    == Some(cookie)
            };
            let mut records: Vec<_> = records.iter().filter(of_socket).collect();
            // The trace began before the command and ends after it.
            records.truncate(rows.len());
            ensure!(
                records.len() == rows.len() && rows.len() > 3,
                "{} records, {} rows",
                records.len(),
                rows.len()
            );
            for (row, record) in rows.iter().zip(records) {
                compare(row, record).with_context(|| format!("{host}: {row}\n{record:?}"))?;
            }
        }
    }
    Ok(())
}

fn compare(row: &Value, record: &HashMap<String, String>) -> Result<()> {
    let field = |name: &str| {
        record
            .get(name)
            .and_then(|text| parse(text))
            .with_context(|| name.to_owned())
    };
    for (key, name) in [
        ("len_bytes", "data_len"),
        ("snd_nxt", "snd_nxt"),
        ("snd_una", "snd_una"),
        ("snd_cwnd", "snd_cwnd"),
        ("snd_wnd_bytes", "snd_wnd"),
        ("rcv_wnd_bytes", "rcv_wnd"),
        ("srtt_us", "srtt"),
    ] {
        ensure!(row[key] == field(name)?, "{key}");
    }
    ensure!(current_ssthresh(row) == field("ssthresh")?, "ssthresh");
    let unacked = (field("snd_nxt")? as u32).wrapping_sub(field("snd_una")? as u32);
    ensure!(row["in_flight_bytes"] == unacked, "in_flight_bytes");
    Ok(())
}
