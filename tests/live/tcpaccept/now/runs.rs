// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filters, intervals, `--summary`, and what is refused.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{is, knock, listen, port, rate, until_counted, until_waiting};
use crate::{
    net::Side,
    scene::{HOSTS, Scene},
    tool::{self, Tool},
};

/// Filters select listeners, not what comes.
pub fn filters() -> Result<()> {
    let mut scene = Scene::new()?;
    let any = listen(&mut scene.s, "0.0.0.0:0", 16)?;
    let mut other = scene.net.b.agent()?;
    other.comm("other")?;
    let v6 = listen(&mut other, "[fd09::2]:0", 16)?;
    let at = format!("10.9.0.2:{}", port(&any.at)?);
    let (mine, its) = (scene.s.pid().to_string(), other.pid().to_string());
    let (netns, port_of) = (scene.net.b.inode.to_string(), port(&v6.at)?.to_string());
    for (args, wants) in [
        (&["-p", &*mine][..], &[any.cookie][..]),
        (&["-p", &its], &[v6.cookie]),
        (&["--comm", "other"], &[v6.cookie]),
        (&["-L", &port_of], &[v6.cookie]),
        (&["--any-port", &port_of], &[v6.cookie]),
        (&["-4"], &[any.cookie]),
        (&["-6"], &[v6.cookie]),
        (&["--laddr", "fd09::/16"], &[v6.cookie]),
        (&["--laddr", "0.0.0.0"], &[any.cookie]),
        (&["-u", "0"], &[any.cookie, v6.cookie]),
        (&["-u", "!0"], &[]),
    ] {
        let all = ["--listeners=1h", "--json", "--netns", &netns];
        let tool = Tool::start("tcpaccept", &[&all, args].concat())?;
        scene.connect(&at, any.fd)?;
        let rows = tool.stop()?.rows()?;
        let mut cookies: Vec<_> = rows
            .iter()
            .filter_map(|row| row["cookie"].as_u64())
            .collect();
        cookies.sort_unstable();
        let mut wants = wants.to_vec();
        wants.sort_unstable();
        ensure!(cookies == wants, "{args:?}: {rows:#?}");
        let opens = |row: &Value| row["accepts"] == u64::from(row["cookie"] == any.cookie);
        ensure!(rows.iter().all(opens), "{args:?}: {rows:#?}");
    }
    Ok(())
}

/// Every interval is of itself; what waits is there in each; a table has a header each time, and the worst comes first.
pub fn intervals() -> Result<()> {
    let mut scene = Scene::new()?;
    let stuck = listen(&mut scene.s, HOSTS[0], 16)?;
    let idle = listen(&mut scene.s, HOSTS[0], 16)?;
    knock(&mut scene, &stuck.at, 1)?;
    until_waiting(&mut scene.s, &stuck, 1)?;
    let inode = scene.net.b.inode.to_string();
    let args = ["--listeners=200ms", "--netns", &inode];
    let json = Tool::start("tcpaccept", &[&args[..], &["--json"]].concat())?;
    let table = Tool::start("tcpaccept", &args)?;
    let (_, accepted) = scene.connect(&idle.at, idle.fd)?;
    json.wait_lines(6)?;
    table.wait_lines(6)?;
    let rows = json.stop()?.rows()?;
    let order: Vec<_> = rows.iter().map(|row| &row["cookie"]).collect();
    let worst_first = |two: &[&Value]| *two == [stuck.cookie, idle.cookie];
    ensure!(order.chunks(2).all(worst_first), "{rows:#?}");
    let opens: u64 = rows.iter().filter_map(|row| row["accepts"].as_u64()).sum();
    ensure!(opens == 1 && accepted.fd != 0, "{rows:#?}");
    let stuck_in_each = rows
        .iter()
        .step_by(2)
        .all(|row| row["verdict"] == "not accepting");
    ensure!(stuck_in_each, "{rows:#?}");
    let run = table.stop()?;
    let headers = run.lines.iter().step_by(3);
    ensure!(
        headers.clone().all(|line| line.starts_with("PID ")),
        "{run:?}"
    );
    ensure!(
        run.lines.iter().all(|line| line.chars().count() <= 80),
        "{run:?}"
    );
    // Once, after a second, without being asked to end.
    let run = tool::run("tcpaccept", &["--listeners", "--json", "--netns", &inode])?;
    let rows = run.rows()?;
    ensure!(
        rows.len() == 2 && rows[0]["verdict"] == "not accepting",
        "{rows:#?}"
    );
    // The worst.
    let run = tool::run(
        "tcpaccept",
        &["--listeners", "--json", "--netns", &inode, "-n", "1"],
    )?;
    let rows = run.rows()?;
    ensure!(
        rows.len() == 1 && rows[0]["cookie"] == stuck.cookie,
        "{rows:#?}"
    );
    Ok(())
}

/// A listener that only dropped has a row too, and one that did nothing has none.
pub fn summary_has_drops() -> Result<()> {
    let mut scene = Scene::new()?;
    let full = listen(&mut scene.s, HOSTS[0], 0)?;
    let busy = listen(&mut scene.s, HOSTS[1], 16)?;
    listen(&mut scene.s, HOSTS[0], 16)?;
    knock(&mut scene, &full.at, 1)?;
    until_waiting(&mut scene.s, &full, 1)?;
    let inode = scene.net.b.inode.to_string();
    let tool = Tool::start("tcpaccept", &["--summary", "--json", "--netns", &inode])?;
    let closed = listen(&mut scene.s, HOSTS[0], 3)?;
    scene.connect(&closed.at, closed.fd)?;
    scene.s.run(&format!("close {}", closed.fd))?;
    scene.connect(&busy.at, busy.fd)?;
    knock(&mut scene, &full.at, 2)?;
    until_counted(&scene.net.b, "TcpExt.ListenOverflows", 2)?;
    scene.net.hold(Side::A)?;
    let rows = tool.stop()?.rows()?;
    let overflows = scene.net.b.counters()?["TcpExt.ListenOverflows"];
    let of = |cookie: u64| {
        rows.iter()
            .find(|row| row["cookie"] == cookie)
            .context("a row")
    };
    ensure!(rows.len() == 3, "{rows:#?}");
    // Its only connection waits since before.
    let verdict = json!({"accepts": 0, "drops": overflows, "verdict": "not accepting"});
    is(of(full.cookie)?, verdict)?;
    rate(of(full.cookie)?, "drops_per_s", overflows)?;
    is(
        of(busy.cookie)?,
        json!({"accepts": 1, "drops": 0, "verdict": null}),
    )?;
    let gone = json!({"accepts": 1, "accept_queue": null, "accept_queue_max": 3, "drops": null, "drops_per_s": null});
    is(of(closed.cookie)?, gone)
}

pub fn refused() -> Result<()> {
    for (args, says) in [
        (&["--listeners", "-D", "80"][..], "--rport"),
        (&["--listeners", "--raddr", "10.0.0.1"], "--raddr"),
        (&["--listeners", "--mptcp"], "--mptcp"),
        (&["--listeners=soon"], "soon"),
        (&["--listeners=0"], "0"),
        (&["--listeners", "--summary"], "--summary"),
    ] {
        let run = tool::run("tcpaccept", args)?;
        let refused = run.status.code() == Some(2) && run.lines.is_empty();
        ensure!(refused, "{args:?}: {run:?}");
        let one = run.stderr.lines().count() == 1 && run.stderr.contains(says);
        ensure!(one, "{args:?}: {run:?}");
    }
    Ok(())
}
