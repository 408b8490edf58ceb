// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpinfo from records and inet_diag.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::{scene::Scene, tcpstates, trials};
use crate::{
    missing,
    pair::{filter, pass},
};

/// What the records have.
const RECORD: [&str; 10] = [
    "event",
    "cookie",
    "family",
    "laddr",
    "lport",
    "raddr",
    "rport",
    "state",
    "uses",
    "duration_us",
];

/// What inet_diag has of a socket that was not cleared.
const INFO: [&str; 43] = [
    "bytes_sent",
    "bytes_acked",
    "bytes_received",
    "bytes_retrans",
    "segs_out",
    "segs_in",
    "data_segs_out",
    "data_segs_in",
    "total_retrans",
    "total_rto",
    "retransmits",
    "sacked_out",
    "lost_out",
    "retrans_out",
    "notsent_bytes",
    "delivered",
    "delivered_ce",
    "dsack_dups",
    "reord_seen",
    "reordering",
    "rcv_ooopack",
    "srtt_us",
    "rttvar_us",
    "min_rtt_us",
    "rcv_rtt_us",
    "rto_us",
    "busy_time_us",
    "rwnd_limited_us",
    "sndbuf_limited_us",
    "ca_state",
    "snd_cwnd",
    "ssthresh",
    "mss",
    "rcv_mss",
    "advmss",
    "pmtu",
    "snd_wscale",
    "rcv_wscale",
    "snd_wnd_bytes",
    "rcv_wnd_bytes",
    "rcv_ssthresh_bytes",
    "rcv_space_bytes",
    "options",
];

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcpinfo::values", values),
        trials("tcpinfo::aborted", aborted),
        trials("tcpinfo::all", all),
    ])
}

/// What names a socket to both runs: its cookie or, where the command's own programs cannot ask for that, its ends, which
/// no two sockets of a test share.
fn by_socket() -> &'static [&'static str] {
    match missing::cookies() {
        true => &["cookie"],
        false => &["laddr", "lport", "raddr", "rport"],
    }
}

/// Sessions that ended in order, some with losses, also some that were there before: every value is the same.
fn values(mut scene: Scene) -> Result<()> {
    let hosts = scene.hosts();
    let mut sessions = Vec::new();
    for host in &hosts {
        sessions.push(scene.session(host)?);
    }
    let both = scene.watch("tcpinfo", &[])?;
    for ns in [&scene.net.a, &scene.net.b] {
        ns.ip("link set v0 gso_max_segs 1")?;
    }
    for host in &hosts {
        sessions.push(scene.session(host)?);
    }
    filter(
        &scene.net.b,
        "prerouting",
        "meta l4proto tcp numgen random mod 100 < 5 drop",
    )?;
    for session in &sessions {
        scene.exchange(*session, 100_000)?;
    }
    pass(&scene.net.b)?;
    for (i, session) in sessions.into_iter().enumerate() {
        if i % 2 == 0 {
            scene.close(session)?;
        } else {
            scene.s.run(&format!("close {}", session.s))?;
            scene.c.run(&format!("eof {}", session.c))?;
            scene.c.run(&format!("close {}", session.c))?;
        }
    }
    scene.net.quiet()?;
    let mut told = [&RECORD[..], &INFO].concat();
    told.retain(|field| *field != "rcv_wnd_bytes" || missing::tells_receive_window());
    let rows = both.agree(by_socket(), &told)?;
    ensure!(rows.len() == 12, "{} rows: {rows:?}", rows.len());
    let again = rows.iter().any(|row| row["total_retrans"] != 0);
    ensure!(again, "no losses: {rows:?}");
    tcpstates::owners(&scene, &rows)
}

/// What the kernel has cleared is blank, and what is not, is the same.
fn aborted(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcpinfo", &[])?;
    for host in scene.hosts() {
        let session = scene.session(&host)?;
        scene.exchange(session, 3000)?;
        scene.c.run(&format!("linger0 {}", session.c))?;
        scene.c.run(&format!("close {}", session.c))?;
        let recv = format!("recv {} 1", session.s);
        scene.s.fails(&recv, libc::ECONNRESET)?;
        scene.s.run(&format!("close {}", session.s))?;
        let to = format!("{}:9", host.1);
        let fd = scene.c.open(&to)?;
        let connect = format!("connect {fd} {to}");
        scene.c.fails(&connect, libc::ECONNREFUSED)?;
        scene.c.run(&format!("close {fd}"))?;
    }
    scene.net.quiet()?;
    let rows = both.agree(by_socket(), &RECORD)?;
    ensure!(rows.len() == 9, "{rows:#?}");
    let cleared = |row: &&Value| row["bytes_acked"].is_null();
    let told = |row: &&Value| row["bytes_acked"] == 3000 && row["bytes_received"] == 3000;
    ensure!(rows.iter().filter(cleared).count() == 6, "{rows:#?}");
    ensure!(rows.iter().filter(told).count() == 3, "{rows:#?}");
    tcpstates::owners(&scene, &rows)
}

/// Listeners, and sockets that were never used, of which only the cookie tells that they are this test's.
fn all(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcpinfo", &["--all"])?;
    for host in scene.hosts() {
        let (listener, _) = scene.listen(&host)?;
        scene.s.run(&format!("close {listener}"))?;
        let session = scene.session(&host)?;
        scene.close(session)?;
    }
    scene.net.quiet()?;
    let rows = both.agree(by_socket(), &RECORD[..9])?;
    let count = |event: &str| rows.iter().filter(|row| row["event"] == event).count();
    // Two of each were bound to an address of this test's.
    ensure!(
        (count("listener"), count("connection")) == (4, 6),
        "{rows:#?}"
    );
    Ok(())
}
