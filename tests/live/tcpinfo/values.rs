// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every value of a row against TCP_INFO and ss.

use std::{collections::HashMap, fs};

use anyhow::{Context, Result, ensure};
use nix::libc::ECONNRESET;
use serde_json::{Value, json};

use super::{Pair, agrees, row_of};
use crate::{
    net::Net,
    wait::{self, PATIENCE},
};

/// TCP_INFO by the names of the row.
fn expected(info: &HashMap<String, u64>) -> Value {
    let ca_state = ["open", "disorder", "cwr", "recovery", "loss"][info["ca_state"] as usize];
    let known = |value: u64, unknown: u64| (value != unknown).then_some(value);
    json!({
        "bytes_sent": info["bytes_sent"], "bytes_acked": info["bytes_acked"], "bytes_retrans": info["bytes_retrans"],
        "bytes_received": info["bytes_received"], "segs_out": info["segs_out"], "data_segs_out": info["data_segs_out"],
        "data_segs_in": info["data_segs_in"], "total_retrans": info["total_retrans"], "packets_out": info["unacked"],
        "sacked_out": info["sacked"], "lost_out": info["lost"], "retrans_out": info["retrans"], "delivered": info["delivered"],
        "reordering": info["reordering"], "reord_seen": info["reord_seen"], "rcv_ooopack": info["rcv_ooopack"],
        "srtt_us": known(info["srtt_us"], 0), "rttvar_us": info["rttvar"], "min_rtt_us": info["min_rtt_us"],
        "rcv_rtt_us": known(info["rcv_rtt"], 0), "rto_us": info["rto"], "snd_cwnd": info["snd_cwnd"],
        "ssthresh": known(info["snd_ssthresh"], 0x7fff_ffff), "snd_wnd_bytes": info["snd_wnd"],
        "rcv_ssthresh_bytes": info["rcv_ssthresh"], "rcv_space_bytes": info["rcv_space"], "mss": info["snd_mss"],
        "rcv_mss": info["rcv_mss"], "advmss": info["advmss"], "pmtu": info["pmtu"],
        "delivery_rate_bytes_per_s": known(info["delivery_rate"], 0), "busy_time_us": info["busy_time"],
        "rwnd_limited_us": info["rwnd_limited"], "sndbuf_limited_us": info["sndbuf_limited"],
        "snd_wscale": info["wscale"] & 15, "rcv_wscale": info["wscale"] >> 4, "retransmits": info["retransmits"],
        "backoff": info["backoff"], "ca_state": ca_state,
    })
}

/// What `ss -tinem` says of the only session in a namespace, as `name:value` and plain words.
fn ss(net: &Net) -> Result<HashMap<String, String>> {
    let text = net.a.feed(&["ss", "-tinemOH", "state", "connected"], "")?;
    Ok(text
        .split_whitespace()
        .map(|word| {
            let (name, value) = word.split_once(':').unwrap_or((word, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect())
}

/// A session that lost a segment and was stopped by the receive window for longer than a tick.
fn troubled(pair: &mut Pair, fd: u64, accepted: u64) -> Result<()> {
    pair.s.run(&format!("drop {accepted}"))?;
    pair.c.run(&format!("send {fd} 5000"))?;
    wait::until("a retransmission", PATIENCE, || {
        Ok((pair.c.info(fd)?["total_retrans"] > 0).then_some(()))
    })?;
    pair.s.run(&format!("undrop {accepted}"))?;
    pair.s.run(&format!("recv {accepted} 5000"))?;
    let mut sent = 0;
    wait::until("time in front of a closed window", PATIENCE, || {
        // More each time: what the window let pass leaves room in the send buffer.
        while let Ok(bytes) = pair.c.attempt(&format!("offer {fd} 100000"))? {
            sent += bytes.parse::<u64>()?;
        }
        Ok((pair.c.info(fd)?["rwnd_limited"] > 100_000).then_some(()))
    })?;
    pair.s.run(&format!("recv {accepted} {sent}"))?;
    pair.c.run(&format!("drained {fd}"))?;
    pair.s.run(&format!("send {accepted} 3000"))?;
    pair.c.run(&format!("recv {fd} 3000"))?;
    pair.s.run(&format!("drained {accepted}")).map(drop)
}

/// Everything that TCP_INFO said right before a close that changes nothing, and what ss said.
pub fn values(host: &str) -> Result<()> {
    let mut pair = Pair::new(&[])?;
    let (listener, fd, accepted) = pair.session(host)?;
    troubled(&mut pair, fd, accepted)?;
    let cookies = [
        pair.c.run(&format!("cookie {fd}"))?,
        pair.s.run(&format!("cookie {accepted}"))?,
    ];
    let said = ss(&pair.net)?;
    let infos = [pair.c.info(fd)?, pair.s.info(accepted)?];
    let local = pair.c.run(&format!("local {fd}"))?;
    let algorithm = pair.net.a.inside(|| {
        let path = "/proc/sys/net/ipv4/tcp_congestion_control";
        Ok(fs::read_to_string(path)?)
    })?;
    let pids = [pair.c.pid(), pair.s.pid()];
    pair.c.run(&format!("linger0 {fd}"))?;
    pair.c.run(&format!("close {fd}"))?;
    pair.net.b.quiet()?;
    pair.s.run(&format!("close {accepted}"))?;
    pair.s.run(&format!("close {listener}"))?;
    let rows = pair.rows()?;
    for i in 0..2 {
        let row = row_of(&rows, &cookies[i])?;
        agrees(row, &expected(&infos[i]))?;
        // The server's last segment was the RST.
        let segs_in = infos[i]["segs_in"] + i as u64;
        agrees(
            row,
            &json!({"event": "connection", "state": "ESTABLISHED", "segs_in": segs_in, "pid": pids[i],
                "pid_source": "socket", "ca_name": algorithm.trim(), "uses": 1,
                "errno": (i != 0).then_some(ECONNRESET), "error": (i != 0).then_some("ECONNRESET")}),
        )?;
    }
    let row = row_of(&rows, &cookies[0])?;
    ensure!(
        local.ends_with(&format!(":{}", row["lport"])),
        "{local}: {row}"
    );
    ensure!(row["rwnd_limited_us"].as_u64() > Some(100_000), "{row}");
    ensure!(row["total_retrans"].as_u64() > Some(0), "{row}");
    ss_agrees(row, &said)
}

fn ss_agrees(row: &Value, said: &HashMap<String, String>) -> Result<()> {
    for (word, key) in [
        ("cwnd", "snd_cwnd"),
        ("mss", "mss"),
        ("pmtu", "pmtu"),
        ("rcvmss", "rcv_mss"),
        ("advmss", "advmss"),
        ("bytes_sent", "bytes_sent"),
        ("bytes_acked", "bytes_acked"),
        ("bytes_retrans", "bytes_retrans"),
        ("bytes_received", "bytes_received"),
        ("segs_out", "segs_out"),
        ("segs_in", "segs_in"),
        ("data_segs_out", "data_segs_out"),
        ("data_segs_in", "data_segs_in"),
        ("rcv_space", "rcv_space_bytes"),
        ("rcv_ssthresh", "rcv_ssthresh_bytes"),
        ("delivered", "delivered"),
    ] {
        let value = said.get(word).with_context(|| format!("ss: no {word}"))?;
        ensure!(
            value.parse().ok() == row[key].as_u64(),
            "{word}:{value}, but {row}"
        );
    }
    let ms = |word: &str, key: &str| -> Result<()> {
        let value = said.get(word).with_context(|| format!("ss: no {word}"))?;
        let expected = row[key].as_u64().context("a number")? / 1000;
        ensure!(
            value.split("ms").next() == Some(&expected.to_string()),
            "{word}:{value}, but {row}"
        );
        Ok(())
    };
    ms("busy", "busy_time_us")?;
    ms("rwnd_limited", "rwnd_limited_us")?;
    let scale = format!("{},{}", row["snd_wscale"], row["rcv_wscale"]);
    ensure!(said.get("wscale") == Some(&scale), "{said:?}");
    let options = row["options"].as_str().context("options")?;
    for option in ["ts", "sack", "ecn", "ecnseen"] {
        let shown = options.split(' ').any(|word| word == option);
        ensure!(
            shown == said.contains_key(option),
            "{option}: {said:?} {row}"
        );
    }
    let cookie = format!("{:x}", row["cookie"].as_u64().context("cookie")?);
    ensure!(said.get("sk") == Some(&cookie), "sk:{cookie} {said:?}");
    Ok(())
}
