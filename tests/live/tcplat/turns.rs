// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turns one by one.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{Scene, both, of, within};

pub fn tests() -> Vec<Trial> {
    vec![
        both("times", times),
        both("read_late", read_late),
        both("accepted_late", accepted_late),
        both("open_before", open_before),
        both("calls", calls),
        both("not_a_receive", not_a_receive),
        both("end_of_request", end_of_request),
        both("lost", lost),
        both("pipelined", pipelined),
    ]
}

/// What the server thinks for, in microseconds.
const THOUGHTS: [u64; 8] = [20_000, 0, 60_000, 500, 5000, 120_000, 1000, 10_000];

/// Many turns on one connection, each as long as the server's clock says, and seen from both ends.
fn times(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = scene.watch(&[])?;
    let talk = scene.connect(host)?;
    let client = "send:100 recv:500 ".repeat(THOUGHTS.len());
    let server = THOUGHTS
        .map(|us| format!("recv:100 sleep:{us} send:500 "))
        .concat();
    let [c, s] = scene.play(talk, &client, &server)?;
    let info = scene.c.info(talk.c)?;
    let rows = tool.stop()?.rows()?;
    let (served, asked) = (of(&rows, talk.s_cookie), of(&rows, talk.c_cookie));
    ensure!(rows.len() == 2 * THOUGHTS.len(), "{} rows", rows.len());
    ensure!(served.len() == asked.len(), "{rows:#?}");
    for (i, us) in THOUGHTS.into_iter().enumerate() {
        let (c, s) = (&c[2 * i..2 * i + 2], &s[3 * i..3 * i + 3]);
        let (row, pid) = (served[i], scene.s.pid());
        within(row, "turn_us", s[2].0 - s[0].1, s[2].1 - c[0].0)?;
        ensure!(row["role"] == "server" && row["event"] == "turn", "{row}");
        ensure!(row["rx_bytes"] == 100 && row["tx_bytes"] == 500, "{row}");
        ensure!(row["pid"] == pid || row["pid"].is_null(), "{pid}: {row}");
        ensure!(row["where"] == "app" || us < 20_000, "{row}");
        ensure!(
            row["network_us"].is_null() && row["peer_us"].is_null(),
            "{row}"
        );
        ensure!(row["first_read_us"].is_null() == (i != 0), "{row}");
        within(row, "unread_us", 0, s[0].1 - c[0].0)?;
        let (row, pid) = (asked[i], scene.c.pid());
        within(
            row,
            "turn_us",
            s[2].0.saturating_sub(c[0].1),
            c[1].1 - c[0].0,
        )?;
        ensure!(row["role"] == "client" && row["pid"] == pid, "{row}");
        ensure!(row["rx_bytes"] == 500 && row["tx_bytes"] == 100, "{row}");
        ensure!(row["where"] == "peer" || us < 20_000, "{row}");
        ensure!(
            row["pipelined"] == false && row["retrans_segs"] == 0,
            "{row}"
        );
        let part = |key: &str| row[key].as_u64().unwrap_or_default();
        let parts = part("unread_us") + part("network_us") + part("peer_us");
        ensure!(row["turn_us"] == parts, "{parts}: {row}");
    }
    ensure!(
        asked[7]["min_rtt_us"] == info["min_rtt_us"],
        "{info:?}: {:?}",
        asked[7]
    );
    Ok(())
}

/// Data that nobody reads for a while is neither the network's nor the other end's.
fn read_late(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = scene.watch(&[])?;
    let talk = scene.connect(host)?;
    // The first request as usual: then the connection was accepted and read from.
    let server = "recv:10 send:10 sleep:80000 recv:100 send:500 drained";
    let client = "send:10 recv:10 send:100 drained sleep:150000 recv:500";
    let [c, s] = scene.play(talk, client, server)?;
    let rows = tool.stop()?.rows()?;
    let (row, asked) = (of(&rows, talk.s_cookie)[1], of(&rows, talk.c_cookie)[1]);
    within(
        row,
        "unread_us",
        s[3].0.saturating_sub(c[3].1),
        s[3].1 - c[2].0,
    )?;
    within(row, "turn_us", s[4].0 - s[3].1, s[4].1 - s[3].0)?;
    ensure!(
        row["where"] == "read" && row["accept_us"].is_null(),
        "{row}"
    );
    within(
        asked,
        "unread_us",
        c[5].0.saturating_sub(s[5].1),
        c[5].1 - s[4].0,
    )?;
    within(asked, "turn_us", c[5].0 - c[2].1, c[5].1 - c[2].0)?;
    Ok(())
}

/// The data of a connection that waits for accept() waits, too.
fn accepted_late(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = scene.watch(&[])?;
    let (listener, at) = scene.s.listen(host)?;
    let fd = scene.c.open(&at)?;
    let before = tcptools::kernel::clock::boot_ns();
    scene.c.run(&format!("connect {fd} {at}"))?;
    let c = super::times(&scene.c.run(&format!("timed {fd} send:100 drained"))?)?;
    sleep(Duration::from_millis(60));
    let s = scene
        .s
        .run(&format!("timed {listener} accept recv:100 send:5"))?;
    let s = super::times(&s)?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 1, "{rows:#?}");
    let row = &rows[0];
    within(row, "unread_us", s[1].0 - c[1].1, s[1].1 - c[0].0)?;
    for key in ["accept_us", "first_read_us"] {
        within(row, key, s[1].0 - c[1].1, s[1].1 - before)?;
    }
    ensure!(row["where"] == "read" && row["role"] == "server", "{row}");
    Ok(())
}

/// The roles of a connection that was there already follow from what it has sent.
fn open_before(host: &str) -> Result<()> {
    for before in ["", "send:70 recv:30", "send:1 recv:1"] {
        let mut scene = Scene::new()?;
        let talk = scene.connect(host)?;
        if !before.is_empty() {
            let server = before.replace("send", "x").replace("recv", "send");
            let server: Vec<_> = server
                .split(' ')
                .map(|step| step.replace('x', "recv"))
                .collect();
            scene.play(talk, before, &server.join(" "))?;
        }
        let tool = scene.watch(&[])?;
        scene.play(
            talk,
            "send:100 recv:500 send:9 recv:9",
            "recv:100 sleep:1000 send:500 recv:9 send:9",
        )?;
        let rows = tool.stop()?.rows()?;
        ensure!(rows.len() == 4, "{before}: {rows:#?}");
        for (cookie, role, pid) in [
            (talk.s_cookie, "server", scene.s.pid()),
            (talk.c_cookie, "client", scene.c.pid()),
        ] {
            let own = of(&rows, cookie);
            ensure!(own.len() == 2, "{rows:#?}");
            ensure!(
                own.iter()
                    .all(|row| row["role"] == role && row["pid"] == pid),
                "{own:#?}"
            );
            ensure!(own.iter().all(|row| row["accept_us"].is_null()), "{own:#?}");
        }
    }
    Ok(())
}

/// Several calls are one request, and what is sent without being asked for is no turn.
fn calls(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = scene.watch(&[])?;
    let talk = scene.connect(host)?;
    let client = "send:10 sleep:5000 send:20 sleep:5000 send:30 recv:100";
    let server = "one:10 one:20 one:30 sleep:10000 send:40 send:30 send:20 send:10";
    let [c, s] = scene.play(talk, client, server)?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 2, "{rows:#?}");
    let (row, asked) = (of(&rows, talk.s_cookie)[0], of(&rows, talk.c_cookie)[0]);
    within(row, "turn_us", s[4].0 - s[2].1, s[4].1 - c[4].0)?;
    ensure!(row["rx_bytes"] == 60 && row["tx_bytes"] == 40, "{row}");
    ensure!(
        row["request_calls"] == 3 && asked["request_calls"] == 3,
        "{rows:?}"
    );
    within(
        asked,
        "turn_us",
        s[4].0.saturating_sub(c[4].1),
        c[5].1 - c[4].0,
    )?;
    ensure!(asked["tx_bytes"] == 60, "{asked}");
    let first = asked["rx_bytes"].as_u64().unwrap_or_default();
    ensure!((40..=100).contains(&first), "{asked}");
    Ok(())
}

/// What is only looked at is still unread, and a read that finds nothing is none.
fn not_a_receive(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = scene.watch(&[])?;
    let talk = scene.connect(host)?;
    let server = "nothing send:7 peek sleep:40000 one:100 nothing sleep:10000 send:5";
    let [c, s] = scene.play(talk, "sleep:20000 recv:7 send:100 drained recv:5", server)?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 2, "{rows:#?}");
    let row = of(&rows, talk.s_cookie)[0];
    within(
        row,
        "unread_us",
        s[4].0.saturating_sub(c[3].1),
        s[4].1 - c[2].0,
    )?;
    within(row, "turn_us", s[7].0 - s[4].1, s[7].1 - s[4].0)?;
    // The first call found nothing, and shows that the connection was accepted.
    let [accept, first] = ["accept_us", "first_read_us"].map(|key| row[key].as_u64());
    ensure!(accept.is_some() && accept < first, "{row}");
    Ok(())
}

/// A request may end with the end of all data: then the server's time begins there.
fn end_of_request(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = scene.watch(&[])?;
    let talk = scene.connect(host)?;
    let client = "send:100 drained sleep:50000 end recv:5";
    let [c, s] = scene.play(talk, client, "recv:100 eof sleep:10000 send:5")?;
    let rows = tool.stop()?.rows()?;
    let row = of(&rows, talk.s_cookie)[0];
    within(row, "turn_us", s[3].0 - s[1].1, s[3].1 - c[3].0)?;
    ensure!(row["rx_bytes"] == 100 && rows.len() == 2, "{rows:#?}");
    Ok(())
}

/// A request that had to be sent again was held up by the network.
fn lost(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = scene.watch(&[])?;
    let talk = scene.connect(host)?;
    scene.play(talk, "send:10 recv:10", "recv:10 send:10")?;
    scene.s.run(&format!("drop {}", talk.s))?;
    scene.c.run(&format!("send {} 100", talk.c))?;
    crate::wait::until("a retransmission", crate::wait::PATIENCE, || {
        Ok((scene.c.info(talk.c)?["total_retrans"] > 0).then_some(()))
    })?;
    scene.s.run(&format!("undrop {}", talk.s))?;
    scene.play(talk, "recv:5", "recv:100 send:5")?;
    let retrans = scene.c.info(talk.c)?["total_retrans"];
    let rows = tool.stop()?.rows()?;
    let row = of(&rows, talk.c_cookie)[1];
    ensure!(
        row["where"] == "network" && row["retrans_segs"] == retrans,
        "{row}"
    );
    ensure!(row["peer_us"] == 0, "{row}");
    ensure!(
        of(&rows, talk.s_cookie)[1]["where"] != "network",
        "{rows:#?}"
    );
    Ok(())
}

/// A second request that is there before the first is answered.
fn pipelined(host: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = scene.watch(&[])?;
    let talk = scene.connect(host)?;
    scene
        .c
        .run(&format!("timed {} send:100 send:100 drained", talk.c))?;
    scene
        .s
        .run(&format!("timed {} one:100 send:5 one:100 send:5", talk.s))?;
    let rows = tool.stop()?.rows()?;
    let said: Vec<_> = of(&rows, talk.s_cookie)
        .iter()
        .map(|row| &row["pipelined"])
        .collect();
    ensure!(said == [true, false], "{rows:#?}");
    Ok(())
}
