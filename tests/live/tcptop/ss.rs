// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows against what ss says.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    net::Netns,
    pair::Pair,
    wait::{self, PATIENCE},
};

/// What `ss -tinomH` says of the socket with this local port, as `name:value`; queues by the names of the columns.
fn ss(ns: &Netns, lport: u64) -> Result<HashMap<String, String>> {
    let text = ns.feed(
        &[
            "ss",
            "-tinomOH",
            "state",
            "all",
            "sport",
            &format!("= {lport}"),
        ],
        "",
    )?;
    let line = text
        .lines()
        .find(|line| !line.starts_with("LISTEN"))
        .context("ss has no row")?;
    let mut words = line.split_whitespace();
    let mut found = HashMap::new();
    for name in ["state", "rqueue", "wqueue"] {
        found.insert(name.into(), words.next().context("a column")?.to_owned());
    }
    for word in words {
        if let Some((name, value)) = word.split_once(':') {
            found.entry(name.to_owned()).or_insert(value.to_owned());
        }
    }
    // skmem:(r0,rb131072,t0,tb87040,...)
    let memory = found.remove("skmem").unwrap_or_default();
    for word in memory.trim_matches(['(', ')']).split(',') {
        let digits = word
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(word.len());
        let (name, value) = word.split_at(digits);
        found.insert(format!("mem_{name}"), value.to_owned());
    }
    Ok(found)
}

/// A row against what ss says, where that is the same before the row and after it.
fn equals_ss(row: &Value, said: &HashMap<String, String>) -> Result<()> {
    let number = |name: &str| -> Result<f64> {
        match said.get(name) {
            Some(text) => Ok(text.trim_end_matches("ms").parse()?),
            None => Ok(0.0), // ss leaves out what is 0
        }
    };
    for (key, name) in [
        ("rqueue_bytes", "rqueue"),
        ("wqueue_bytes", "wqueue"),
        ("notsent_bytes", "notsent"),
        ("packets_out", "unacked"),
        ("lost_out", "lost"),
        ("bytes_sent", "bytes_sent"),
        ("bytes_retrans", "bytes_retrans"),
        ("bytes_acked", "bytes_acked"),
        ("bytes_received", "bytes_received"),
        ("snd_cwnd", "cwnd"),
        ("mss", "mss"),
        ("backoff", "backoff"),
        ("rmem_alloc_bytes", "mem_r"),
        ("rcvbuf_bytes", "mem_rb"),
        ("wmem_queued_bytes", "mem_w"),
        ("sndbuf_bytes", "mem_tb"),
        ("drops", "mem_d"),
    ] {
        let shown = row[key].as_f64().with_context(|| format!("{key}: {row}"))?;
        ensure!(
            shown == number(name)?,
            "{key} is {shown}, ss says {name}:{:?}; {row}",
            said.get(name)
        );
    }
    // Milliseconds with a fraction that ss rounds.
    for (key, part, name) in [
        ("srtt_us", 0, "rtt"),
        ("rttvar_us", 1, "rtt"),
        ("rto_us", 0, "rto"),
        ("min_rtt_us", 0, "minrtt"),
    ] {
        let Some(text) = said.get(name) else { continue };
        let ms: f64 = text.split('/').nth(part).context("two times")?.parse()?;
        let shown = row[key].as_f64().context("a number")? / 1000.0;
        ensure!(
            (shown - ms).abs() < 1.0,
            "{key} is {shown} ms, ss says {name}:{text}; {row}"
        );
    }
    let retrans = said.get("retrans").map_or("0/0", String::as_str);
    let (now, total) = retrans.split_once('/').context("two numbers")?;
    for (key, text) in [("retrans_out", now), ("total_retrans", total)] {
        let same = row[key].as_u64() == text.parse().ok();
        ensure!(same, "{key}, ss says retrans:{retrans}; {row}");
    }
    let timer = said.get("timer").map_or("off", |timer| {
        timer
            .trim_matches('(')
            .split(',')
            .next()
            .unwrap_or_default()
    });
    let shown = row["timer"].as_str().context("a timer")?;
    let same = match timer {
        "on" => ["retransmit", "loss_probe", "reorder"].contains(&shown),
        timer => timer == shown,
    };
    ensure!(same, "timer is {shown}, ss says {timer}; {row}");
    let state = row["state"].as_str().context("a state")?.replace('_', "-");
    let said_state = said["state"]
        .replace("ESTAB", "ESTABLISHED")
        .replace("WAIT-1", "WAIT1");
    ensure!(state == said_state, "{state}, ss says {said_state}");
    Ok(())
}

/// What of ss stands still.
fn still(said: &HashMap<String, String>) -> HashMap<String, String> {
    let moves = [
        "lastsnd",
        "lastrcv",
        "lastack",
        "busy",
        "rwnd_limited",
        "sndbuf_limited",
        "timer",
        "mem_f",
        "mem_bl",
    ];
    let kept = said
        .iter()
        .filter(|(name, _)| !moves.contains(&name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A row of a socket that ss has seen before and after it in the same way: they must agree.
pub fn compare(pair: &Pair, ns: &Netns, lport: u64) -> Result<()> {
    wait::until("a row while nothing changes", PATIENCE, || {
        let before = ss(ns, lport)?;
        let known = pair.tool.seen()?.len();
        let own = |row: &&Value| row["lport"] == lport && row["netns"] == ns.inode;
        let row = wait::until("one more row", PATIENCE, || {
            Ok(pair.tool.seen()?[known..]
                .iter()
                .filter(own)
                .nth(1)
                .cloned())
        })?;
        let after = ss(ns, lport)?;
        if still(&before) != still(&after) {
            return Ok(None);
        }
        equals_ss(&row, &after)?;
        Ok(Some(()))
    })
}
