// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bytes of all intervals are those that were sent.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{is, moved, rows_of, sum};
use crate::{
    missing,
    net::Net,
    pair::{self, Pair},
    tool::Tool,
    trial,
};

const OFTEN: &[&str] = &["--interval", "50ms", "--top", "0"];

pub fn tests() -> Vec<Trial> {
    let mut all = pair::trials("tcptop", OFTEN, "rates::short", short);
    all.extend(pair::trials("tcptop", OFTEN, "rates::long", long));
    all.extend(pair::trials("tcptop", OFTEN, "rates::endings", endings));
    all.extend(["10.9.0.2:0", "[fd09::2]:0"].map(|host| {
        let family = if host.starts_with('[') { 6 } else { 4 };
        trial(format!("tcptop::rates::open_before_v{family}"), move || {
            open_before(host)
        })
    }));
    all.push(trial("tcptop::rates::groups", groups));
    all.push(trial("tcptop::rates::top", top));
    all
}

/// Sessions that come and go, most of them within an interval.
fn short(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (listener, at) = pair.s.listen(host)?;
    let mut ends = Vec::new();
    for n in 0..120u64 {
        let (tx, rx) = (n * n * 7 + 1, n * 11);
        let (fd, accepted) = pair.connect(&at, listener)?;
        pair.c.begin(&format!("send {fd} {tx}"))?;
        pair.s.run(&format!("recv {accepted} {tx}"))?;
        pair.c.finish()?.ok();
        if rx > 0 {
            pair.s.run(&format!("send {accepted} {rx}"))?;
            pair.c.run(&format!("recv {fd} {rx}"))?;
        }
        let cookies = [
            pair.c.run(&format!("cookie {fd}"))?,
            pair.s.run(&format!("cookie {accepted}"))?,
        ];
        // Either end first.
        let mut order = [(&mut pair.c, fd), (&mut pair.s, accepted)];
        if n % 2 == 1 {
            order.reverse();
        }
        for (agent, fd) in order {
            agent.run(&format!("close {fd}"))?;
        }
        ends.push((cookies, tx, rx));
    }
    pair.net.quiet()?;
    let (rows, _) = pair.finish()?;
    for ([client, server], tx, rx) in &ends {
        moved(&rows, client, *tx, *rx)?;
        moved(&rows, server, *rx, *tx)?;
        for cookie in [client, server] {
            let ended = rows_of(&rows, cookie).filter(|row| row["closed"] == true);
            ensure!(ended.count() <= 1, "{cookie}: it ended more than once");
        }
    }
    Ok(())
}

/// One that lives through many intervals, and moves now and then.
fn long(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (fd, accepted) = pair.session(host)?;
    let cookie = pair.c.run(&format!("cookie {fd}"))?;
    let (mut tx, mut rx) = (0, 0);
    for n in 1..40u64 {
        pair.c.begin(&format!("send {fd} {}", n * 3000))?;
        pair.s.run(&format!("recv {accepted} {}", n * 3000))?;
        pair.c.finish()?.ok();
        pair.s.run(&format!("send {accepted} {n}"))?;
        pair.c.run(&format!("recv {fd} {n}"))?;
        (tx, rx) = (tx + n * 3000, rx + n);
        std::thread::sleep(std::time::Duration::from_millis(7));
    }
    pair.c.run(&format!("drained {fd}"))?;
    let info = pair.c.info(fd)?;
    let at = pair.tool.seen()?.len();
    pair.row("a row after the last byte", |row| {
        is(row, &cookie) && row["bytes_acked"] == info["bytes_acked"]
    })?;
    ensure!(pair.tool.seen()?.len() >= at);
    let (rows, _) = pair.finish()?;
    moved(&rows, &cookie, tx, rx)?;
    ensure!(rows_of(&rows, &cookie).count() > 3, "in one interval");
    for row in &rows {
        let rate = |key: &str| row[key].as_u64().context("a number");
        let us = rate("interval_us")?;
        ensure!(
            rate("tx_bytes_per_s")? == rate("tx_bytes")? * 1_000_000 / us,
            "{row}"
        );
        ensure!(
            row["event"] == "connection" && row["closed"] == false,
            "{row}"
        );
    }
    Ok(())
}

/// A reset, a half-closed session, a refused connection, one that nobody accepts: bytes that were acknowledged count.
fn endings(mut pair: Pair, host: &str) -> Result<()> {
    missing::needs_programs()?;
    let (listener, at) = pair.s.listen(host)?;
    // Half closed: the answer comes after the FIN.
    let (fd, accepted) = pair.connect(&at, listener)?;
    pair.c.run(&format!("send {fd} 1000"))?;
    pair.c.run(&format!("shutdown {fd} wr"))?;
    pair.s.run(&format!("eof {accepted}"))?;
    pair.s.run(&format!("send {accepted} 70000"))?;
    let half = [
        pair.c.run(&format!("cookie {fd}"))?,
        pair.s.run(&format!("cookie {accepted}"))?,
    ];
    pair.s.run(&format!("close {accepted}"))?;
    pair.c.run(&format!("eof {fd}"))?;
    pair.c.run(&format!("close {fd}"))?;
    // Reset.
    let (fd, accepted) = pair.connect(&at, listener)?;
    pair.c.run(&format!("send {fd} 2000"))?;
    pair.c.run(&format!("drained {fd}"))?;
    let reset = [
        pair.c.run(&format!("cookie {fd}"))?,
        pair.s.run(&format!("cookie {accepted}"))?,
    ];
    pair.c.run(&format!("linger0 {fd}"))?;
    pair.c.run(&format!("close {fd}"))?;
    pair.net.b.quiet()?;
    pair.s.run(&format!("close {accepted}"))?;
    // Never accepted.
    let waiting = pair.c.open(host)?;
    pair.c.run(&format!("connect {waiting} {at}"))?;
    pair.c.run(&format!("send {waiting} 300"))?;
    pair.c.run(&format!("drained {waiting}"))?;
    let local = pair.ports(waiting)?.0;
    let unaccepted = pair.c.run(&format!("cookie {waiting}"))?;
    pair.s.run(&format!("close {listener}"))?;
    pair.net.a.quiet()?;
    pair.c.run(&format!("close {waiting}"))?;
    // Used again: the same socket, with counters that begin anew.
    let refused = pair.c.open(host)?;
    pair.c
        .fails(&format!("connect {refused} {at}"), nix::libc::ECONNREFUSED)?;
    pair.c.run(&format!("close {refused}"))?;
    pair.net.quiet()?;
    let (rows, _) = pair.finish()?;
    moved(&rows, &half[0], 1000, 70_000)?;
    moved(&rows, &half[1], 70_000, 1000)?;
    moved(&rows, &reset[0], 2000, 0)?;
    moved(&rows, &reset[1], 0, 2000)?;
    moved(&rows, &unaccepted, 300, 0)?;
    let server: Vec<_> = rows.iter().filter(|row| row["rport"] == local).collect();
    ensure!(sum(server.into_iter(), "rx_bytes")? == 300);
    Ok(())
}

/// What a session did before the command started is not counted; what it does afterwards is, to the byte.
fn open_before(host: &str) -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    let (listener, at) = s.listen(host)?;
    let mut ends = Vec::new();
    for _ in 0..4 {
        let fd = c.open(host)?;
        c.run(&format!("connect {fd} {at}"))?;
        let accepted = s.number(&format!("accept {listener}"))?;
        c.run(&format!("send {fd} 5000"))?;
        s.run(&format!("recv {accepted} 5000"))?;
        c.run(&format!("drained {fd}"))?;
        ends.push((
            fd,
            accepted,
            [
                c.run(&format!("cookie {fd}"))?,
                s.run(&format!("cookie {accepted}"))?,
            ],
        ));
    }
    // Nobody has accepted this one yet.
    let waiting = c.open(host)?;
    c.run(&format!("connect {waiting} {at}"))?;
    let tool = Tool::start(
        "tcptop",
        &[&["--json", "--netns", &net.inodes()], OFTEN].concat(),
    )?;
    c.run(&format!("send {waiting} 40"))?;
    c.run(&format!("drained {waiting}"))?;
    let late = c.run(&format!("cookie {waiting}"))?;
    let accepted = s.number(&format!("accept {listener}"))?;
    let late_server = s.run(&format!("cookie {accepted}"))?;
    for (n, (fd, accepted, _)) in ends.iter().enumerate() {
        let more = 100 * n;
        if more > 0 {
            c.run(&format!("send {fd} {more}"))?;
            s.run(&format!("recv {accepted} {more}"))?;
            c.run(&format!("drained {fd}"))?;
        }
        // Some end now, others only with the command.
        if n % 2 == 0 {
            c.run(&format!("close {fd}"))?;
            s.run(&format!("close {accepted}"))?;
        }
    }
    let rows = tool.stop()?.rows()?;
    for (n, (.., [client, server])) in ends.iter().enumerate() {
        moved(&rows, client, 100 * n as u64, 0)?;
        moved(&rows, server, 0, 100 * n as u64)?;
    }
    moved(&rows, &late, 40, 0)?;
    moved(&rows, &late_server, 0, 40)
}

/// Groups add up to the same.
fn groups() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    c.comm("client")?;
    s.comm("server")?;
    let by = ["pid", "comm", "cgroup", "raddr", "rport", "lport", "netns"];
    let inodes = net.inodes();
    let tools = by.map(|by| {
        let args = ["--json", "--netns", &inodes, "--by", by, "-i", "50ms"];
        Tool::start("tcptop", &args)
    });
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let port = at.rsplit_once(':').context("a port")?.1.to_owned();
    for n in 1..=30u64 {
        let fd = c.open(&at)?;
        c.run(&format!("connect {fd} {at}"))?;
        let accepted = s.number(&format!("accept {listener}"))?;
        c.run(&format!("send {fd} {}", n * 100))?;
        s.run(&format!("recv {accepted} {}", n * 100))?;
        s.run(&format!("send {accepted} 1"))?;
        c.run(&format!("recv {fd} 1"))?;
        c.run(&format!("close {fd}"))?;
        s.run(&format!("close {accepted}"))?;
    }
    net.quiet()?;
    let all = (1..=30).map(|n| n * 100).sum::<u64>();
    for (by, tool) in by.iter().zip(tools) {
        let rows = tool?.stop()?.rows()?;
        ensure!(
            rows.iter()
                .all(|row| row["event"] == "total" && row["by"] == *by)
        );
        let mut sums = HashMap::<String, (u64, u64)>::new();
        for row in &rows {
            let sum = sums.entry(row[by].to_string()).or_default();
            let number = |key: &str| row[key].as_u64().context("a number");
            *sum = (sum.0 + number("tx_bytes")?, sum.1 + number("rx_bytes")?);
        }
        let both = |a: Value, b: Value| {
            HashMap::from([(a.to_string(), (all, 30)), (b.to_string(), (30, all))])
        };
        let expected = match *by {
            "pid" => both(json!(c.pid()), json!(s.pid())),
            "comm" => both(json!("client"), json!("server")),
            "raddr" => both(json!("10.9.0.2"), json!("10.9.0.1")),
            "netns" => both(json!(net.a.inode), json!(net.b.inode)),
            _ => {
                let moved = sums.values().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
                ensure!(moved == (all + 30, all + 30), "{by}: {sums:?}");
                let own = sums.get(&port);
                let listens = if *by == "lport" { (30, all) } else { (all, 30) };
                ensure!(*by == "cgroup" || own == Some(&listens), "{by}: {sums:?}");
                continue;
            }
        };
        ensure!(sums == expected, "{by}: {sums:?}, not {expected:?}");
    }
    Ok(())
}

/// The first rows only, by what was asked for, and how many more there are.
fn top() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let mut ports = Vec::new();
    let mut fds = Vec::new();
    for _ in 0..4 {
        let fd = c.open(&at)?;
        c.run(&format!("connect {fd} {at}"))?;
        fds.push((fd, s.number(&format!("accept {listener}"))?));
        let local = c.run(&format!("local {fd}"))?;
        ports.push(local.rsplit_once(':').context("a port")?.1.to_owned());
    }
    let inode = net.a.inode.to_string();
    let args = [
        "--csv", "--netns", &inode, "--sort", "sent", "--top", "2", "-i", "10m",
    ];
    let tool = Tool::start("tcptop", &args)?;
    for (n, (fd, accepted)) in fds.iter().enumerate() {
        c.run(&format!("send {fd} {}", 10 + n * 1000))?;
        s.run(&format!("recv {accepted} {}", 10 + n * 1000))?;
        c.run(&format!("drained {fd}"))?;
    }
    let run = tool.stop()?;
    let head: Vec<_> = run.lines[0].split(',').collect();
    let at = head
        .iter()
        .position(|key| *key == "lport")
        .context("lport")?;
    let found: Vec<_> = run.lines[1..]
        .iter()
        .map(|line| line.split(',').nth(at))
        .collect();
    ensure!(found == [Some(&*ports[3]), Some(&*ports[2])], "{run:?}");
    ensure!(
        run.stderr
            .contains("2 more connections not shown (--top 2)"),
        "{}",
        run.stderr
    );
    Ok(())
}
