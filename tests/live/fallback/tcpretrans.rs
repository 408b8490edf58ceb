// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpretrans from records alone.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{
    scene::{Both, Scene},
    tcpstates, trials,
};
use crate::{
    pair::{filter, pass},
    wait::{self, PATIENCE},
};

const TOLD: [&str; 8] = [
    "family", "laddr", "lport", "raddr", "rport", "state", "errno", "error",
];

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcpretrans::lost_segments", lost_segments),
        trials("tcpretrans::lost_handshakes", lost_handshakes),
    ])
}

/// Losses both ways. One event may be several segments, but here each is one.
fn lost_segments(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcpretrans", &[])?;
    let again = losses(&mut scene)?;
    let rows = both.agree(&tcpstates::ends(), &TOLD)?;
    ensure!(
        rows.len() as u64 == again,
        "{again} segments sent again, {} rows",
        rows.len()
    );
    tcpstates::owners(&scene, &rows)?;
    let untold =
        |row: &Value| row["kind"].is_null() && row["segs"].is_null() && row["seq"].is_null();
    ensure!(rows.iter().all(untold), "{rows:?}");
    Ok(())
}

/// Returns how many segments were sent again.
pub fn losses(scene: &mut Scene) -> Result<u64> {
    for ns in [&scene.net.a, &scene.net.b] {
        ns.ip("link set v0 gso_max_segs 1")?;
    }
    let hosts = scene.hosts();
    let mut sessions = Vec::new();
    for host in &hosts {
        sessions.push(scene.session(host)?);
    }
    for ns in [&scene.net.a, &scene.net.b] {
        filter(
            ns,
            "prerouting",
            "meta l4proto tcp numgen random mod 100 < 3 drop",
        )?;
    }
    for session in &sessions {
        scene.exchange(*session, 1_000_000)?;
    }
    for ns in [&scene.net.a, &scene.net.b] {
        pass(ns)?;
    }
    for session in sessions {
        scene.close(session)?;
    }
    scene.net.quiet()?;
    let mut again = 0;
    for ns in [&scene.net.a, &scene.net.b] {
        again += ns.counters()?["Tcp.RetransSegs"];
    }
    ensure!(again > 10, "too few losses: {again}");
    Ok(again)
}

/// A SYN and a SYN/ACK, which are known by what they are.
fn lost_handshakes(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcpretrans", &[])?;
    handshakes(&mut scene, &both)?;
    let rows = both.agree(&tcpstates::ends(), &[&TOLD[..], &["kind", "pid"]].concat())?;
    tcpstates::owners(&scene, &rows)
}

pub fn handshakes(scene: &mut Scene, both: &Both) -> Result<()> {
    let host = scene.hosts()[1].clone();
    let (listener, to) = scene.listen(&host)?;
    filter(&scene.net.b, "prerouting", "meta l4proto tcp drop")?;
    let fd = scene.c.open(&to)?;
    scene.c.begin(&format!("connect {fd} {to}"))?;
    let seen = |kind: &str| {
        wait::until(kind, PATIENCE, || {
            let rows = both.without_btf.seen()?;
            Ok(rows.iter().any(|row| row["kind"] == kind).then_some(()))
        })
    };
    seen("syn")?;
    filter(&scene.net.a, "prerouting", "meta l4proto tcp drop")?;
    pass(&scene.net.b)?;
    seen("synack")?;
    pass(&scene.net.a)?;
    ensure!(scene.c.finish()?.is_ok());
    let s = scene.s.number(&format!("accept {listener}"))?;
    scene.close(super::scene::Session { c: fd, s })?;
    scene.net.quiet()?;
    // The other run's rows come with its next look at the latest.
    thread::sleep(Duration::from_millis(100));
    Ok(())
}
