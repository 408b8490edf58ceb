// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--listeners`: what `ss` says of the same sockets, what the kernel counted, and what the test did to them.

mod runs;
mod sockets;
mod troubles;

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::{Listener, listen};
use crate::{
    net::Netns,
    peer::Agent,
    scene::{HOSTS, Scene, merged},
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        each_family("not_accepting", troubles::not_accepting),
        each_family("full", troubles::full),
        each_family("dropping", troubles::dropping),
        each_family("syn_cookies", troubles::syn_cookies),
        each_family("without_syn_cookies", troubles::without_syn_cookies),
        each_family("healthy", sockets::healthy),
        each_family("group", sockets::group),
        each_family("fast_open", sockets::fast_open),
        each_family("mptcp", sockets::mptcp),
        each_family("in_nobodys_hands", sockets::in_nobodys_hands),
        each_family("in_dead_namespace", sockets::in_dead_namespace),
        each_family("many", sockets::many),
        trial("tcpaccept::now::filters", runs::filters),
        trial("tcpaccept::now::intervals", runs::intervals),
        trial("tcpaccept::now::summary_has_drops", runs::summary_has_drops),
        trial("tcpaccept::now::refused", runs::refused),
    ]
}

/// In namespaces of its own each: their counters begin at zero.
fn each_family(name: &str, play: fn(&mut Scene, &str) -> Result<()>) -> Trial {
    trial(format!("tcpaccept::now::{name}"), move || {
        for host in HOSTS {
            let mut scene = Scene::new()?;
            play(&mut scene, host).with_context(|| host.to_owned())?;
        }
        Ok(())
    })
}

/// A run whose interval ends when it is asked to stop.
fn watch(scene: &Scene, args: &[&str]) -> Result<Tool> {
    let inode = scene.net.b.inode.to_string();
    let all = ["--listeners=1h", "--json", "--netns", &inode];
    Tool::start("tcpaccept", &[&all, args].concat())
}

/// The rows, each of which agrees with `ss`, and by the listeners' cookies.
fn rows(scene: &Scene, tool: Tool) -> Result<HashMap<u64, Value>> {
    // Before 5.12 a socket has a cookie when somebody has asked for it.
    ss(&scene.net.b)?;
    let rows = tool.stop()?.rows()?;
    let told = ss(&scene.net.b)?;
    ensure!(rows.len() == told.len(), "{rows:#?}\nss: {told:?}");
    for row in &rows {
        let cookie = row["cookie"].as_u64().context("a cookie")?;
        let queue = told.get(&cookie).with_context(|| format!("ss: {row}"))?;
        let numbers = [
            &row["accept_queue"],
            &row["accept_queue_max"],
            &row["drops"],
        ];
        ensure!(
            numbers == [queue.len, queue.max, queue.drops],
            "{queue:?}: {row}"
        );
        ensure!(
            row["event"] == "listener" && row["netns"] == scene.net.b.inode,
            "{row}"
        );
    }
    // The kernel counts both at once (include/net/tcp.h: tcp_listendrop), and no listener here is gone. On a busy host a
    // SYN comes again before the test is over: it is answered again, and dropped by the listener alone
    // (net/ipv4/tcp_minisocks.c: tcp_check_req; tcp_ipv4.c: tcp_v4_rcv).
    let dropped: u64 = rows.iter().filter_map(|row| row["drops"].as_u64()).sum();
    let counters = scene.net.b.counters()?;
    let counted = counters["TcpExt.ListenDrops"];
    let again = counters["TcpExt.TCPSynRetrans"];
    ensure!(
        (counted..=counted + again).contains(&dropped),
        "{dropped}: {counters:?}"
    );
    let by_cookie = rows
        .into_iter()
        .map(|row| (row["cookie"].as_u64().unwrap_or(0), row));
    Ok(by_cookie.collect())
}

#[derive(Debug)]
struct Queue {
    len: u64,
    max: u64,
    drops: u64,
}

/// `ss -Htlnem`, by cookie.
fn ss(ns: &Netns) -> Result<HashMap<u64, Queue>> {
    let text = ns.feed(&["ss", "-HtlnemO"], "")?;
    let line = |line: &str| -> Option<(u64, Queue)> {
        let mut words = line.split_whitespace().skip(1);
        let (len, max) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let cookie = line.split(" sk:").nth(1)?.split_whitespace().next()?;
        let drops = line.rsplit_once(",d")?.1.split(')').next()?;
        let queue = Queue {
            len,
            max,
            drops: drops.parse().ok()?,
        };
        Some((u64::from_str_radix(cookie, 16).ok()?, queue))
    };
    let lines = text.lines();
    lines
        .map(|text| line(text).with_context(|| text.to_owned()))
        .collect()
}

/// Clients that do not wait for the end of their handshakes.
fn knock(scene: &mut Scene, at: &str, count: usize) -> Result<Vec<u64>> {
    let one = |_| {
        let fd = scene.c.open(at)?;
        scene.c.run(&format!("nonblock {fd}"))?;
        scene
            .c
            .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
        Ok(fd)
    };
    (0..count).map(one).collect()
}

fn until_waiting(s: &mut Agent, listener: &Listener, count: u64) -> Result<()> {
    wait::until("the accept queue", PATIENCE, || {
        Ok((s.info(listener.fd)?["unacked"] == count).then_some(()))
    })
}

fn until_counted(ns: &Netns, counter: &str, least: u64) -> Result<()> {
    wait::until(counter, PATIENCE, || {
        Ok((ns.counters()?[counter] >= least).then_some(()))
    })
}

fn is(row: &Value, fields: Value) -> Result<()> {
    let want = merged(row, fields);
    ensure!(*row == want, "{row:#}\nis not\n{want:#}");
    Ok(())
}

fn port(at: &str) -> Result<u64> {
    Ok(at.rsplit_once(':').context("a port")?.1.parse()?)
}

/// It is the number in the row's interval.
fn rate(row: &Value, key: &str, count: u64) -> Result<()> {
    let seconds = row["interval_us"].as_f64().context("an interval")? / 1e6;
    let told = row[key].as_f64().context("a rate")?;
    let expected = count as f64 / seconds;
    ensure!(
        (told - expected).abs() <= 0.001 + expected / 100.0,
        "{expected} {key}: {row}"
    );
    Ok(())
}
