// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpinfo against TCP_INFO, ss and the number of sockets that were made.

mod values;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc::{ECONNREFUSED, ECONNRESET};
use serde_json::{Value, json};

use crate::{net::Net, peer::Agent, tool::Tool, trial};

pub fn tests() -> Vec<Trial> {
    let both = |name: &str, test: fn(&str) -> Result<()>| {
        trial(format!("tcpinfo::{name}"), move || {
            test("10.9.0.2:0").context("IPv4")?;
            test("[fd09::2]:0").context("IPv6")
        })
    };
    vec![
        both("values", values::values),
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
