// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpconnect and tcpaccept from records alone.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::{scene::Scene, tcpstates, trials};
use crate::{
    pair::{filter, pass},
    wait::{self, PATIENCE},
};

const ENDS: [&str; 5] = ["family", "laddr", "lport", "raddr", "rport"];

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcpconnect::outcomes", outcomes),
        trials("tcpconnect::unanswered", unanswered),
        trials("tcpaccept::passive_opens", passive_opens),
        trials("tcpaccept::listener_handed_over", listener_handed_over),
    ])
}

fn count(rows: &[Value], key: &str, value: impl Into<Value>) -> usize {
    let value = value.into();
    rows.iter().filter(|row| row[key] == value).count()
}

/// Accepted and refused, over every kind of address: the counter of active opens agrees, and every cause is known.
fn outcomes(mut scene: Scene) -> Result<()> {
    let both = scene.watch("tcpconnect", &[])?;
    for host in scene.hosts() {
        let session = scene.session(&host)?;
        scene.close(session)?;
        tcpstates::refused(&mut scene, &host)?;
    }
    scene.net.quiet()?;
    let opens = scene.net.a.counters()?["Tcp.ActiveOpens"];
    let told = [
        "outcome",
        "errno",
        "error",
        "latency_us",
        "syn_retrans",
        "syn_sent",
        "partial",
        "pid",
        "comm",
    ];
    let rows = both.agree(&tcpstates::ends(), &[&ENDS[..], &told].concat())?;
    ensure!(rows.len() as u64 == opens, "{opens} active opens, {rows:?}");
    ensure!(count(&rows, "outcome", "refused") == 6, "{rows:?}");
    tcpstates::owners(&scene, &rows)
}

/// No answer: pending first; then the outcome is blank, because a record cannot distinguish an error from a close().
fn unanswered(mut scene: Scene) -> Result<()> {
    scene.net.a.sysctl("ipv4/tcp_syn_retries", "1")?;
    let both = scene.watch("tcpconnect", &["--pending", "1.5s"])?;
    let host = scene.hosts()[0].clone();
    let (listener, to) = scene.listen(&host)?;
    filter(&scene.net.b, "prerouting", "meta l4proto tcp drop")?;
    let fd = scene.c.open(&to)?;
    scene
        .c
        .fails(&format!("connect {fd} {to}"), libc::ETIMEDOUT)?;
    pass(&scene.net.b)?;
    scene.s.run(&format!("close {listener}"))?;
    for tool in [&both.with_btf, &both.without_btf] {
        wait::until("two rows", PATIENCE, || {
            Ok((tool.seen()?.len() >= 2).then_some(()))
        })?;
    }
    let again = scene.net.a.counters()?["TcpExt.TCPSynRetrans"];
    let told = [
        "latency_us",
        "syn_retrans",
        "syn_sent",
        "partial",
        "pid",
        "comm",
    ];
    let rows = both.agree(&tcpstates::ends(), &[&ENDS[..], &told].concat())?;
    let outcomes: Vec<_> = rows.iter().map(|row| row["outcome"].clone()).collect();
    ensure!(
        outcomes == [Value::from("pending"), Value::Null],
        "{rows:?}"
    );
    ensure!(
        again > 0 && rows[1]["syn_retrans"] == again && rows[1]["syn_sent"] == true,
        "{rows:?}"
    );
    Ok(())
}

/// Of listeners that were there and of new ones.
fn passive_opens(mut scene: Scene) -> Result<()> {
    let mut listeners = Vec::new();
    for host in scene.hosts() {
        listeners.push(scene.listen(&host)?);
    }
    let both = scene.watch("tcpaccept", &[])?;
    for host in scene.hosts() {
        listeners.push(scene.listen(&host)?);
    }
    for (listener, to) in &listeners {
        let session = scene.connect(*listener, to)?;
        scene.close(session)?;
    }
    scene.net.quiet()?;
    let opens = scene.net.b.counters()?["Tcp.PassiveOpens"];
    let told = ["state", "pid", "comm", "pid_source"];
    let rows = both.agree(&tcpstates::ends(), &[&ENDS[..], &told].concat())?;
    ensure!(
        rows.len() as u64 == opens,
        "{opens} passive opens, {rows:?}"
    );
    tcpstates::owners(&scene, &rows)
}

/// Two processes listen at the same port in different namespaces: a record does not show whose child it is.
fn listener_handed_over(mut scene: Scene) -> Result<()> {
    let other = crate::net::Netns::new()?;
    let mut stranger = other.agent()?;
    let (listener, to) = scene.listen(&("[::]:0".into(), scene.hosts()[0].1.clone()))?;
    let port = to.rsplit_once(':').map_or("", |(_, port)| port).to_owned();
    stranger.listen(&format!("[::]:{port}"))?;
    let both = scene.watch("tcpaccept", &[])?;
    let session = scene.connect(listener, &to)?;
    scene.close(session)?;
    scene.net.quiet()?;
    let rows = both.agree(&tcpstates::ends(), &ENDS)?;
    ensure!(
        rows.len() == 1 && rows[0]["pid"].is_null() && rows[0]["comm"].is_null(),
        "{rows:?}"
    );
    Ok(())
}
