// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcplife from records alone.

pub mod bytes;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::{scene::Scene, tcpstates, trials};

const TOLD: [&str; 8] = [
    "family",
    "laddr",
    "lport",
    "raddr",
    "rport",
    "state",
    "partial",
    "duration_us",
];

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcplife::endings", endings),
        trials("tcplife::existing_sockets", existing_sockets),
        trials("tcplife::given_up", given_up),
        bytes::tests(),
    ])
}

/// Every kind of ending that a record shows, over every kind of address.
fn endings(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcplife", &[])?;
    let ways = [
        tcpstates::client_first,
        tcpstates::server_first,
        tcpstates::reset,
        tcpstates::refused,
        unread,
        late_data,
    ];
    for host in scene.hosts() {
        for end in ways {
            end(&mut scene, &host)?;
        }
    }
    scene.net.quiet()?;
    let rows = both.agree(
        &tcpstates::ends(),
        &[&TOLD[..], &["close_reason", "pid", "comm"]].concat(),
    )?;
    let some = |reason: &str| rows.iter().any(|row| row["close_reason"] == reason);
    for reason in [
        "fin_local",
        "fin_remote",
        "rst_sent",
        "rst_received",
        "refused",
    ] {
        ensure!(some(reason), "no {reason}: {rows:?}");
    }
    let blank = |row: &Value| row["ca_name"].is_null() && row["errno"].is_null();
    ensure!(rows.iter().all(blank), "{rows:?}");
    tcpstates::owners(&scene, &rows)
}

/// The client closes with something unread: its reset follows the change to CLOSE.
fn unread(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let session = scene.session(host)?;
    scene.s.run(&format!("send {} 100", session.s))?;
    scene.s.run(&format!("drained {}", session.s))?;
    scene.c.run(&format!("close {}", session.c))?;
    scene
        .s
        .fails(&format!("recv {} 1", session.s), libc::ECONNRESET)?;
    scene.s.run(&format!("close {}", session.s)).map(drop)
}

/// The client has closed, and data arrives: what looks like a received reset is a sent one.
fn late_data(scene: &mut Scene, host: &(String, String)) -> Result<()> {
    let session = scene.session(host)?;
    scene.c.run(&format!("close {}", session.c))?;
    scene.s.run(&format!("eof {}", session.s))?;
    scene.s.run(&format!("send {} 100", session.s))?;
    scene.net.a.quiet()?;
    scene.s.run(&format!("close {}", session.s)).map(drop)
}

/// The time of a session that was there before is a lower bound.
fn existing_sockets(mut scene: Scene) -> Result<()> {
    let mut sessions = Vec::new();
    for host in scene.hosts() {
        sessions.push(scene.session(&host)?);
    }
    let both = scene.watch("tcplife", &[])?;
    for session in sessions {
        scene.close(session)?;
    }
    scene.net.quiet()?;
    let told: Vec<_> = TOLD
        .into_iter()
        .filter(|key| *key != "duration_us")
        .collect();
    let rows = both.agree(&tcpstates::ends(), &told)?;
    ensure!(
        rows.len() == 6 && rows.iter().all(|row| row["partial"] == true),
        "{rows:?}"
    );
    tcpstates::owners(&scene, &rows)
}

/// The client's FIN is answered by nobody, until a timer gives up.
pub fn unanswered_fin(scene: &mut Scene) -> Result<()> {
    let host = scene.hosts()[0].clone();
    let session = scene.session(&host)?;
    crate::pair::filter(&scene.net.b, "prerouting", "meta l4proto tcp drop")?;
    scene.c.run(&format!("close {}", session.c))?;
    scene.net.a.quiet()?;
    crate::pair::pass(&scene.net.b)?;
    scene.s.run(&format!("linger0 {}", session.s))?;
    scene.s.run(&format!("close {}", session.s)).map(drop)
}

/// A timeout: what only the socket's error shows is blank.
fn given_up(mut scene: Scene) -> Result<()> {
    scene.net.a.sysctl("ipv4/tcp_orphan_retries", "1")?;
    let both = scene.watch("tcplife", &[])?;
    unanswered_fin(&mut scene)?;
    scene.net.quiet()?;
    let rows = both.agree(&tcpstates::ends(), &TOLD)?;
    let client = rows
        .iter()
        .find(|row| row["laddr"].as_str().is_some_and(|a| a.ends_with('1')));
    ensure!(
        client.is_some_and(|row| row["close_reason"].is_null()),
        "{rows:?}"
    );
    Ok(())
}
