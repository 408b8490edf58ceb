// SPDX-License-Identifier: MIT OR Apache-2.0
//! Totals and histograms are those of the rows that another run of the command prints at the same time.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{Scene, Talk, both, of};
use crate::wait::apart_us;

pub fn tests() -> Vec<Trial> {
    vec![
        both("summary", summary),
        both("summary_by", summary_by),
        both("summary_by_server", summary_by_server),
        both("summary_at_interval", summary_at_interval),
        both("hist", hist),
        both("chosen", chosen),
    ]
}

/// Turns whose server thinks for 1 to 20 ms.
fn talk(scene: &mut Scene, talk: Talk, turns: u64) -> Result<()> {
    let server = |n| format!("recv:100 sleep:{} send:500 ", 1000 + n * 19_000 / turns);
    let server: String = (0..turns).map(server).collect();
    scene.play(talk, &"send:100 recv:500 ".repeat(turns as usize), &server)?;
    Ok(())
}

fn number(row: &Value, key: &str) -> Result<u64> {
    row[key].as_u64().with_context(|| format!("{key}: {row}"))
}

fn sum(rows: &[&Value], key: &str) -> u64 {
    rows.iter().filter_map(|row| row[key].as_u64()).sum()
}

/// Two runs read the clock one after the other: sums of so many times may differ by that.
fn is_near(row: &Value, key: &str, exact: u64, times: usize) -> Result<()> {
    let off = number(row, key)?.abs_diff(exact);
    let most = 2 * apart_us() * times as u64;
    ensure!(off <= most, "{key} is not near {exact}: {row}");
    Ok(())
}

/// Every figure of a total against its rows.
fn agrees(total: &Value, rows: &[&Value]) -> Result<()> {
    let mut turns: Vec<_> = rows
        .iter()
        .filter_map(|row| row["turn_us"].as_u64())
        .collect();
    turns.sort_unstable();
    ensure!(
        total["turns"] == turns.len(),
        "{} rows: {total}",
        turns.len()
    );
    for (key, percent) in [("p50_us", 50), ("p90_us", 90), ("p99_us", 99)] {
        let exact = turns[(turns.len() * percent).div_ceil(100) - 1];
        let off = number(total, key)?.abs_diff(exact);
        let most = exact / 16 + 2 * apart_us();
        ensure!(off <= most, "{key} of {turns:?}: {total}");
    }
    is_near(total, "max_us", turns[turns.len() - 1], 1)?;
    let unread = rows
        .iter()
        .filter_map(|row| row["unread_us"].as_u64())
        .max();
    is_near(total, "unread_max_us", unread.unwrap_or(0), 1)?;
    let retrans = sum(rows, "retrans_segs");
    ensure!(number(total, "retrans_segs")? == retrans, "{total}");
    let mut sums = vec![("read_us", "unread_us")];
    match total["role"] == "server" {
        true => sums.push(("app_us", "turn_us")),
        false => sums.extend([("network_us", "network_us"), ("peer_us", "peer_us")]),
    }
    for (key, of) in sums {
        is_near(total, key, sum(rows, of), rows.len())?;
    }
    Ok(())
}

fn summary(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let (rows, totals) = (scene.watch(&[])?, scene.watch(&["--summary"])?);
    let both = scene.connect(host)?;
    talk(&mut scene, both, 40)?;
    for (agent, fd) in [(&mut scene.c, both.c), (&mut scene.s, both.s)] {
        agent.run(&format!("close {fd}"))?;
    }
    scene.net.quiet()?;
    let (rows, totals) = (rows.stop()?.rows()?, totals.stop()?.rows()?);
    ensure!(totals.len() == 2, "{totals:#?}");
    for (comm, role, cookie, place) in [
        ("server", "server", both.s_cookie, "app"),
        ("client", "client", both.c_cookie, "peer"),
    ] {
        let total = totals.iter().find(|total| total["comm"] == comm);
        let total = total.with_context(|| format!("{totals:#?}"))?;
        ensure!(total["role"] == role && total["by"] == "comm", "{total}");
        ensure!(total["where"] == place, "{total}");
        agrees(total, &of(&rows, cookie))?;
        let (there, back) = (40 * 100, 40 * 500);
        let bytes = if role == "server" {
            [there, back]
        } else {
            [back, there]
        };
        ensure!(
            [number(total, "rx_bytes")?, number(total, "tx_bytes")?] == bytes,
            "{total}"
        );
    }
    Ok(())
}

/// By the server's end: that of its own for a server, the other one for a client.
fn summary_by_server(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let totals = scene.watch(&["--summary", "--by", "comm,server"])?;
    let talks = [scene.connect(host)?, scene.connect(host)?];
    for (turns, both) in (1..).zip(talks) {
        talk(&mut scene, both, 10 * turns)?;
    }
    let totals = totals.stop()?.rows()?;
    ensure!(totals.len() == 4, "{totals:#?}");
    let host = host.trim_end_matches(":0").trim_matches(['[', ']']);
    for (turns, both) in (1..).zip(talks) {
        for (comm, role, netns, own, other) in [
            ("server", "server", scene.net.b.inode, "l", "r"),
            ("client", "client", scene.net.a.inode, "r", "l"),
        ] {
            let end = |which: &str, name: &str| format!("{which}{name}");
            let is_it =
                |total: &&Value| total["comm"] == comm && total[end(own, "port")] == both.port;
            let total = totals.iter().find(is_it);
            let total = total.with_context(|| format!("{comm}: {totals:#?}"))?;
            ensure!(total["role"] == role && total["netns"] == netns, "{total}");
            ensure!(total["turns"] == 10 * turns, "{total}");
            ensure!(total[end(own, "addr")] == host, "{total}");
            let unknown = [end(other, "addr"), end(other, "port")];
            ensure!(unknown.iter().all(|key| total[key].is_null()), "{total}");
        }
    }
    Ok(())
}

/// By port: two servers, each with its own turns.
fn summary_by(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let rows = scene.watch(&[])?;
    let totals = scene.watch(&["--summary", "--by", "lport,netns", "--sort", "+turns"])?;
    let talks = [scene.connect(host)?, scene.connect(host)?];
    talk(&mut scene, talks[0], 9)?;
    talk(&mut scene, talks[1], 3)?;
    let (rows, totals) = (rows.stop()?.rows()?, totals.stop()?.rows()?);
    ensure!(totals.len() == 4, "{totals:#?}");
    for both in talks {
        let inode = scene.net.b.inode;
        let is_it = |t: &&Value| t["lport"] == both.port && t["netns"] == inode;
        let total = totals.iter().find(is_it).context("no total of a port")?;
        agrees(total, &of(&rows, both.s_cookie))?;
    }
    let turns: Vec<_> = totals.iter().map(|t| t["turns"].as_u64()).collect();
    ensure!(turns.is_sorted(), "{turns:?}");
    Ok(())
}

/// The intervals together have each turn once.
fn summary_at_interval(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let chosen = ["--summary=100ms", "--columns", "role,turns"];
    let tool = scene.watch(&chosen)?;
    let both = scene.connect(host)?;
    talk(&mut scene, both, 30)?;
    let totals = tool.stop()?.rows()?;
    ensure!(totals.len() > 2, "{totals:#?}");
    for role in ["server", "client"] {
        let own: Vec<_> = totals.iter().filter(|t| t["role"] == role).collect();
        ensure!(sum(&own, "turns") == 30, "{role}: {totals:#?}");
    }
    Ok(())
}

fn hist(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let (rows, all) = (scene.watch(&[])?, scene.watch(&["--hist"])?);
    let by_port = scene.watch(&["--hist=lport"])?;
    let both = scene.connect(host)?;
    talk(&mut scene, both, 20)?;
    let (rows, all) = (rows.stop()?.rows()?, all.stop()?.rows()?);
    let by_port = by_port.stop()?.rows()?;
    for (sample, cookie) in [("app", both.s_cookie), ("wait", both.c_cookie)] {
        let found = all.iter().find(|hist| hist["sample"] == sample);
        let hist = found.with_context(|| format!("{all:#?}"))?;
        let own = of(&rows, cookie);
        ensure!(
            hist["count"] == own.len() && hist["raddr"].is_null(),
            "{hist}"
        );
        is_near(hist, "sum_us", sum(&own, "turn_us"), own.len())?;
    }
    let unread = all.iter().find(|hist| hist["sample"] == "unread");
    let known: Vec<_> = rows
        .iter()
        .filter(|row| !row["unread_us"].is_null())
        .collect();
    ensure!(
        unread.context("no unread")?["count"] == known.len(),
        "{all:#?}"
    );
    let own = |hist: &&Value| hist["lport"] == both.port && hist["sample"] == "app";
    let hist = by_port.iter().find(own).context("no port")?;
    ensure!(hist["count"] == 20, "{hist}");
    Ok(())
}

/// Filters, thresholds and sampling decide by the turn, also in sums.
fn chosen(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let both = scene.connect(host)?;
    let port = both.port.to_string();
    let tools = [
        scene.watch(&["--min-ms", "30"])?,
        scene.watch(&["-L", &port])?,
        scene.watch(&["--comm", "client"])?,
        scene.watch(&["--every", "3", "-L", &port])?,
        scene.watch(&["--interval", "1h"])?,
        scene.watch(&["--summary", "--min-ms", "30", "-L", &port])?,
    ];
    let server = "recv:9 sleep:60000 send:9 recv:9 send:9 recv:9 sleep:60000 send:9 recv:9 send:9";
    scene.play(both, &"send:9 recv:9 ".repeat(4), server)?;
    let mut seen = Vec::new();
    for tool in tools {
        seen.push(tool.stop()?.rows()?);
    }
    let [slow, server, client, third, once, total] = &seen[..] else {
        unreachable!("six runs");
    };
    let all = |rows: &[Value], key: &str, value: Value| rows.iter().all(|row| row[key] == value);
    // A busy host may make others slow, too.
    ensure!(slow.len() >= 4, "{slow:#?}");
    let long = |row: &Value| row["turn_us"].as_u64().max(row["unread_us"].as_u64()) >= Some(30_000);
    ensure!(slow.iter().all(long), "{slow:#?}");
    ensure!(
        server.len() == 4 && all(server, "role", "server".into()),
        "{server:#?}"
    );
    ensure!(
        client.len() == 4 && all(client, "role", "client".into()),
        "{client:#?}"
    );
    ensure!(third.len() == 2 && once.len() == 2, "{third:#?} {once:#?}");
    let slow_at = of(slow, both.s_cookie).len();
    ensure!(
        total.len() == 1 && total[0]["turns"] == slow_at,
        "{total:#?}"
    );
    Ok(())
}
