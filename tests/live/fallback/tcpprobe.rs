// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpprobe from records alone.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::{
    scene::{Scene, Session},
    tcpstates, trials,
};
use crate::pair::{filter, pass};

const TOLD: [&str; 14] = [
    "cookie",
    "family",
    "laddr",
    "lport",
    "raddr",
    "rport",
    "snd_cwnd",
    "srtt_us",
    "len_bytes",
    "snd_wnd_bytes",
    "rcv_wnd_bytes",
    "snd_nxt",
    "snd_una",
    "in_flight_bytes",
];

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcpprobe::segments", segments),
        trials("tcpprobe::samples", samples),
    ])
}

/// Two sessions before the command is there, and then one per kind of address.
fn sessions(scene: &mut Scene, from: usize) -> Result<Vec<Session>> {
    let hosts = scene.hosts();
    hosts[from..]
        .iter()
        .map(|host| scene.session(host))
        .collect()
}

/// Every segment, with losses, which move the threshold; of sessions that were there before, too.
fn segments(mut scene: Scene) -> Result<()> {
    let mut talks = sessions(&mut scene, 1)?;
    let both = scene.watch("tcpprobe", &[])?;
    talks.extend(sessions(&mut scene, 0)?);
    for ns in [&scene.net.a, &scene.net.b] {
        // Segments one by one, so that every connection has lost some.
        ns.ip("link set v0 gso_max_segs 1")?;
        filter(
            ns,
            "prerouting",
            "meta l4proto tcp numgen inc mod 60 == 30 drop",
        )?;
    }
    for talk in &talks {
        scene.exchange(*talk, 300_000)?;
    }
    for ns in [&scene.net.a, &scene.net.b] {
        pass(ns)?;
    }
    for talk in talks {
        scene.close(talk)?;
    }
    scene.net.quiet()?;
    let rows = both.agree(&["cookie"], &TOLD)?;
    ensure!(rows.len() > 100, "{} rows", rows.len());
    tcpstates::owners(&scene, &rows)?;
    let finite = rows.iter().filter(|row| row["ssthresh"].is_u64()).count();
    ensure!(finite > 0, "no threshold is known");
    Ok(())
}

/// Sampling counts by itself where the kernel half has no state, and picks the same segments.
fn samples(mut scene: Scene) -> Result<()> {
    let every = scene.watch("tcpprobe", &["--every", "7"])?;
    let changes = scene.watch("tcpprobe", &["--changes"])?;
    let talks = sessions(&mut scene, 0)?;
    for talk in &talks {
        scene.exchange(*talk, 200_000)?;
    }
    for talk in talks {
        scene.close(talk)?;
    }
    scene.net.quiet()?;
    for both in [every, changes] {
        ensure!(both.agree(&["cookie"], &TOLD)?.len() > 6, "too few rows");
    }
    Ok(())
}
