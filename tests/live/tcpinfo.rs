// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpinfo against TCP_INFO, ss and the number of sockets that were made.

use std::{collections::HashMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc::{ECONNREFUSED, ECONNRESET};
use serde_json::{Value, json};

use crate::{
    net::Net,
    peer::Agent,
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let both = |name: &str, test: fn(&str) -> Result<()>| {
        trial(format!("tcpinfo::{name}"), move || {
            test("10.9.0.2:0").context("IPv4")?;
            test("[fd09::2]:0").context("IPv6")
        })
    };
    vec![
        both("values", values),
        both("aborted", aborted),
        both("counts", counts),
        both("reused", reused),
        trial("tcpinfo::columns", columns),
    ]
}

struct Pair {
    net: Net,
    c: Agent,
    s: Agent,
    tool: Tool,
}

impl Pair {
    fn new(args: &[&str]) -> Result<Self> {
        let net = Net::new()?;
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        let inodes = net.inodes();
        let tool = Tool::start("tcpinfo", &[&["--json", "--netns", &inodes], args].concat())?;
        Ok(Self { net, c, s, tool })
    }

    /// A listener, the client's and the server's descriptor.
    fn session(&mut self, host: &str) -> Result<(u64, u64, u64)> {
        let (listener, at) = self.s.listen(host)?;
        let fd = self.c.open(host)?;
        self.c.run(&format!("connect {fd} {at}"))?;
        let accepted = self.s.number(&format!("accept {listener}"))?;
        Ok((listener, fd, accepted))
    }

    fn rows(self) -> Result<Vec<Value>> {
        self.net.quiet()?;
        self.tool.stop()?.rows()
    }
}

fn row_of<'a>(rows: &'a [Value], cookie: &str) -> Result<&'a Value> {
    let mut found = rows
        .iter()
        .filter(|row| row["cookie"].as_u64() == cookie.parse().ok());
    let row = found
        .next()
        .with_context(|| format!("no row of {cookie}"))?;
    ensure!(found.next().is_none(), "two rows of {cookie}");
    Ok(row)
}

fn agrees(row: &Value, expected: &Value) -> Result<()> {
    for (key, value) in expected.as_object().context("an object")? {
        ensure!(&row[key] == value, "{key}: expected {value}; {row}");
    }
    Ok(())
}

/// TCP_INFO by the names of the row.
fn expected(info: &HashMap<String, u64>) -> Value {
    let ca_state = ["Open", "Disorder", "CWR", "Recovery", "Loss"][info["ca_state"] as usize];
    let known = |value: u64, unknown: u64| (value != unknown).then_some(value);
    json!({
        "bytes_sent": info["bytes_sent"], "bytes_acked": info["bytes_acked"], "bytes_retrans": info["bytes_retrans"],
        "bytes_received": info["bytes_received"], "segs_out": info["segs_out"], "data_segs_out": info["data_segs_out"],
        "data_segs_in": info["data_segs_in"], "total_retrans": info["total_retrans"], "unacked": info["unacked"],
        "sacked": info["sacked"], "lost": info["lost"], "retrans": info["retrans"], "delivered": info["delivered"],
        "reordering": info["reordering"], "reord_seen": info["reord_seen"], "rcv_ooopack": info["rcv_ooopack"],
        "rtt_us": known(info["srtt_us"], 0), "rttvar_us": info["rttvar"], "min_rtt_us": info["min_rtt_us"],
        "rcv_rtt_us": known(info["rcv_rtt"], 0), "rto_us": info["rto"], "snd_cwnd": info["snd_cwnd"],
        "snd_ssthresh": known(info["snd_ssthresh"], 0x7fff_ffff), "snd_wnd_bytes": info["snd_wnd"],
        "rcv_ssthresh_bytes": info["rcv_ssthresh"], "rcv_space_bytes": info["rcv_space"], "snd_mss": info["snd_mss"],
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
fn values(host: &str) -> Result<()> {
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
                "errno": if i == 0 { 0 } else { ECONNRESET }}),
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
        ("mss", "snd_mss"),
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

/// tcp_disconnect() clears the socket before it is destroyed: the row has what was there before.
fn aborted(host: &str) -> Result<()> {
    let mut pair = Pair::new(&[])?;
    // Reset by the client; the server finds out, and closes much later.
    let (listener, fd, accepted) = pair.session(host)?;
    let at = pair.s.run(&format!("local {listener}"))?;
    let port = |address: &str| -> Result<u64> {
        let (_, port) = address.rsplit_once(':').context("a port")?;
        Ok(port.parse()?)
    };
    let (server, client) = (port(&at)?, port(&pair.c.run(&format!("local {fd}"))?)?);
    pair.c.run(&format!("send {fd} 700"))?;
    pair.s.run(&format!("recv {accepted} 700"))?;
    pair.c.run(&format!("drained {fd}"))?;
    let mut wants = vec![
        (
            pair.c.run(&format!("cookie {fd}"))?,
            json!({"lport": client, "rport": server, "bytes_sent": 700, "bytes_acked": 701, "event": "connection"}),
        ),
        (
            pair.s.run(&format!("cookie {accepted}"))?,
            json!({"lport": server, "rport": client, "bytes_received": 700, "errno": ECONNRESET, "event": "connection"}),
        ),
    ];
    pair.c.run(&format!("linger0 {fd}"))?;
    pair.c.run(&format!("close {fd}"))?;
    pair.net.b.quiet()?;
    std::thread::sleep(Duration::from_millis(30));
    pair.s.run(&format!("close {accepted}"))?;
    // Never accepted: the listener's close resets it. The client's end outlives that.
    let waiting = pair.c.open(host)?;
    pair.c.run(&format!("connect {waiting} {at}"))?;
    pair.c.run(&format!("send {waiting} 300"))?;
    pair.c.run(&format!("drained {waiting}"))?;
    let local = port(&pair.c.run(&format!("local {waiting}"))?)?;
    pair.s.run(&format!("close {listener}"))?;
    pair.net.a.quiet()?;
    // Refused: the socket is CLOSE and cleared when connect() returns.
    let refused = pair.c.open(host)?;
    pair.c
        .fails(&format!("connect {refused} {at}"), ECONNREFUSED)?;
    wants.push((
        pair.c.run(&format!("cookie {refused}"))?,
        json!({"rport": server, "errno": ECONNREFUSED, "event": "attempt", "state": "SYN_SENT", "segs_out": 1}),
    ));
    pair.c.run(&format!("close {refused}"))?;
    pair.c.run(&format!("close {waiting}"))?;
    let rows = pair.rows()?;
    for (cookie, want) in &wants {
        agrees(row_of(&rows, cookie)?, want)?;
    }
    let refused = row_of(&rows, &wants[2].0)?;
    ensure!(refused["lport"].as_u64() > Some(0), "no port: {refused}");
    let late = row_of(&rows, &wants[1].0)?;
    ensure!(late["closed_us"].as_u64() > Some(30_000), "{late}");
    let orphan = rows
        .iter()
        .find(|row| row["lport"] == server && row["rport"] == local)
        .context("no row of the session that nobody accepted")?;
    agrees(
        orphan,
        &json!({"event": "connection", "bytes_received": 300, "pid_source": "listener"}),
    )?;
    ensure!(rows.len() == 5, "{} rows: {rows:#?}", rows.len());
    Ok(())
}

/// A row per socket, no more and no less, of the kinds that were asked for.
fn counts(host: &str) -> Result<()> {
    const SESSIONS: usize = 40;
    for all in [false, true] {
        let mut pair = Pair::new(if all { &["--all"] } else { &[] })?;
        let before = pair.net.b.counters()?["Tcp.PassiveOpens"];
        let (listener, at) = pair.s.listen(host)?;
        for i in 0..SESSIONS {
            let fd = pair.c.open(host)?;
            pair.c.run(&format!("connect {fd} {at}"))?;
            let accepted = pair.s.number(&format!("accept {listener}"))?;
            if i % 2 == 0 {
                pair.c.run(&format!("close {fd}"))?;
                pair.s.run(&format!("close {accepted}"))?;
            } else {
                pair.s.run(&format!("close {accepted}"))?;
                pair.c.run(&format!("close {fd}"))?;
            }
        }
        let unused = pair.c.open(host)?;
        pair.c.run(&format!("close {unused}"))?;
        pair.s.run(&format!("close {listener}"))?;
        let opened = pair.net.b.counters()?["Tcp.PassiveOpens"] - before;
        let rows = pair.rows()?;
        let kind = |event: &str| rows.iter().filter(|row| row["event"] == event).count();
        ensure!(
            kind("connection") == 2 * opened as usize,
            "{}",
            kind("connection")
        );
        ensure!(opened as usize == SESSIONS);
        let other = usize::from(all);
        ensure!(
            kind("listener") == other && kind("unused") == other,
            "{rows:#?}"
        );
        ensure!(rows.len() == 2 * SESSIONS + 2 * other, "{}", rows.len());
        for row in rows.iter().filter(|row| row["event"] == "connection") {
            ensure!(
                row["duration_us"].is_u64() && row["pid_source"] == "socket",
                "{row}"
            );
        }
    }
    Ok(())
}

/// A socket that connects again is one socket; the row has its last connection, and how many there were.
fn reused(host: &str) -> Result<()> {
    let mut pair = Pair::new(&[])?;
    let (listener, fd, accepted) = pair.session(host)?;
    let at = pair.s.run(&format!("local {listener}"))?;
    pair.c.run(&format!("send {fd} 100"))?;
    pair.s.run(&format!("recv {accepted} 100"))?;
    pair.c.run(&format!("drained {fd}"))?;
    pair.c.run(&format!("disconnect {fd}"))?;
    pair.c.run(&format!("connect {fd} {at}"))?;
    let again = pair.s.number(&format!("accept {listener}"))?;
    pair.c.run(&format!("send {fd} 20"))?;
    pair.s.run(&format!("recv {again} 20"))?;
    pair.c.run(&format!("drained {fd}"))?;
    let cookie = pair.c.run(&format!("cookie {fd}"))?;
    pair.c.run(&format!("close {fd}"))?;
    for fd in [accepted, again, listener] {
        pair.s.run(&format!("close {fd}"))?;
    }
    let rows = pair.rows()?;
    ensure!(rows.len() == 3, "{rows:#?}");
    agrees(
        row_of(&rows, &cookie)?,
        &json!({"bytes_sent": 20, "uses": 2}),
    )
}

/// `--columns` in each format; a wrong name is an argument error.
fn columns() -> Result<()> {
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    let inode = net.a.inode.to_string();
    let list = "rport,bytes_acked,busy_time_us";
    let run = |format| {
        Tool::start(
            "tcpinfo",
            &["--netns", &inode, "--columns", list, "-o", format],
        )
    };
    let tools = [run("csv")?, run("json")?, run("table")?];
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let fd = c.open(&at)?;
    c.run(&format!("connect {fd} {at}"))?;
    c.run(&format!("send {fd} 2047"))?;
    let accepted = s.number(&format!("accept {listener}"))?;
    s.run(&format!("recv {accepted} 2047"))?;
    c.run(&format!("drained {fd}"))?;
    c.run(&format!("linger0 {fd}"))?;
    c.run(&format!("close {fd}"))?;
    net.quiet()?;
    let [csv, json, table] = tools.map(|tool| tool.stop());
    let port = at.rsplit_once(':').context("a port")?.1;
    let lines = csv?.lines;
    ensure!(lines[0] == format!("tool,event,ts,{list}"), "{lines:?}");
    let cells = format!("Z,{port},2048,");
    ensure!(lines[1].contains(&cells), "{lines:?}");
    let rows = json?.rows()?;
    let keys: Vec<_> = rows[0].as_object().context("an object")?.keys().collect();
    ensure!(keys.len() == 6, "{keys:?}");
    ensure!(rows[0]["bytes_acked"] == 2048, "{rows:?}");
    ensure!(
        table?.lines[0]
            .split_whitespace()
            .eq(["RPORT", "ACKED", "BUSY"])
    );
    let wrong = crate::tool::run("tcpinfo", &["--columns", "rport,cwind"])?;
    ensure!(
        wrong.status.code() == Some(2) && wrong.stderr.contains("'cwind'"),
        "{wrong:?}"
    );
    Ok(())
}
