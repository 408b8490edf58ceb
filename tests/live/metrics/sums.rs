// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was counted is what the kernel has counted, and what the test has done.

use anyhow::{Result, ensure};
use nix::libc;

use super::scene::{Metrics, Scene};
use crate::{
    net::Side,
    pair,
    wait::{self, PATIENCE},
};

/// Opens by outcome, ends by reason, bytes, states.
pub fn opens_and_ends(mut scene: Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    for _ in 0..5 {
        let ends = scene.connect(&at, listener)?;
        scene.send(ends, 700)?;
        scene.close(ends)?;
    }
    scene.s.run(&format!("close {listener}"))?;
    let refused = scene.c.open(&at)?;
    scene
        .c
        .fails(&format!("connect {refused} {at}"), libc::ECONNREFUSED)?;
    let open = scene.session(host)?;
    scene.send(open, 300)?;

    let page = scene.metrics.scrape()?;
    page.want(
        "connections_opened_total",
        &[],
        scene.kernel("Tcp.ActiveOpens")?,
    )?;
    page.want("connections_opened_total", &["refused"], 1)?;
    page.want("connections_opened_total", &["established"], 6)?;
    page.want(
        "connections_accepted_total",
        &[],
        scene.kernel("Tcp.PassiveOpens")?,
    )?;
    page.want("connections_accepted_total", &["established"], 6)?;
    page.want("connections_closed_total", &["fin_local"], 5)?;
    page.want("connections_closed_total", &["fin_remote"], 5)?;
    page.want("connections_closed_total", &[], 10)?;
    page.want("connect_duration_seconds_count", &[], 6)?;
    page.want("connection_duration_seconds_count", &[], 10)?;
    page.want("connection_srtt_seconds_count", &[], 10)?;
    page.want("connection_min_rtt_seconds_count", &[], 10)?;
    page.want("sent_bytes_total", &[], 5 * 700 + 300)?;
    page.want("received_bytes_total", &[], 5 * 700 + 300)?;
    page.want(
        "sockets",
        &[r#""ESTABLISHED""#],
        scene.kernel("Tcp.CurrEstab")?,
    )?;
    page.want("sockets", &[r#""TIME_WAIT""#], 5)?;
    let failed = page.sum("connections_opened_total", &[]) - 6;
    ensure!(failed == scene.kernel("Tcp.AttemptFails")?);

    // The rest of an open connection comes at the next look, and its end adds nothing twice.
    scene.send(open, 50)?;
    scene.metrics.scrape()?;
    scene.send(open, 7)?;
    scene.close(open)?;
    let page = scene.metrics.scrape()?;
    for name in ["sent_bytes_total", "received_bytes_total"] {
        page.want(name, &[], 5 * 700 + 357)?;
    }
    page.want("connections_closed_total", &[], 12)?;
    for name in [
        "events_skipped_total",
        "events_untracked_total",
        "namespaces_unvisited",
    ] {
        page.want(name, &[], 0)?;
    }
    let long = page.sum("connect_duration_seconds_bucket", &[r#"le="134"#]);
    ensure!(long == 6, "{page:?}");
    Ok(())
}

/// By kind, and those in vain.
pub fn retransmissions(mut scene: Scene, host: &str) -> Result<()> {
    let (c, s) = scene.session(host)?;
    scene.net.hold(Side::B)?;
    scene.c.run(&format!("send {c} 700"))?;
    let until = |counter: &str, least: u64| {
        wait::until(counter, PATIENCE, || {
            Ok((scene.net.a.counters()?[counter] >= least).then_some(()))
        })
    };
    until("Tcp.RetransSegs", 3)?;
    scene.net.release(Side::B)?;
    until("TcpExt.TCPDSACKRecv", 1)?;
    scene.s.run(&format!("recv {s} 700"))?;
    scene.c.run(&format!("drained {c}"))?;
    scene.close((c, s))?;
    let page = scene.metrics.scrape()?;
    let told = scene.kernel("TcpExt.TCPDSACKRecv")? + scene.kernel("TcpExt.TCPDSACKOfoRecv")?;
    page.want(
        "retransmitted_segments_total",
        &[],
        scene.kernel("Tcp.RetransSegs")?,
    )?;
    page.want("spurious_retransmissions_total", &[], told)?;
    let timed = page.sum("retransmitted_segments_total", &["rto"]);
    ensure!(timed >= 2, "{page:?}");
    page.want("sent_bytes_total", &[], 700)
}

/// Sent and received, and one that was none.
pub fn resets(mut scene: Scene, host: &str) -> Result<()> {
    for _ in 0..3 {
        let (c, s) = scene.session(host)?;
        scene.c.run(&format!("linger0 {c}"))?;
        scene.c.run(&format!("close {c}"))?;
        scene.s.fails(&format!("recv {s} 1"), libc::ECONNRESET)?;
    }
    // Data after shutdown: the kernel says that an RST came, and sends one.
    let (c, s) = scene.session(host)?;
    scene.c.run(&format!("shutdown {c} both"))?;
    scene.s.run(&format!("eof {s}"))?;
    scene.c.run(&format!("drained {c}"))?;
    scene.s.run(&format!("send {s} 700"))?;
    scene.net.quiet()?;
    let (listener, at) = scene.s.listen(host)?;
    scene.s.run(&format!("close {listener}"))?;
    let fd = scene.c.open(&at)?;
    scene
        .c
        .fails(&format!("connect {fd} {at}"), libc::ECONNREFUSED)?;
    let page = scene.metrics.scrape()?;
    page.want("resets_total", &[r#""sent""#], scene.kernel("Tcp.OutRsts")?)?;
    page.want("resets_total", &[r#""sent""#], 5)?;
    page.want("resets_total", &[r#""received""#], 5)?;
    page.want("connections_closed_total", &["rst_received"], 4)?;
    page.want("connections_closed_total", &["rst_sent"], 4)
}

/// A queue that is full: its length, its limit, and what was dropped.
pub fn listener(mut scene: Scene, host: &str) -> Result<()> {
    let fd = scene.s.open(host)?;
    scene.s.run(&format!("bind {fd} {host}"))?;
    scene.s.run(&format!("listen {fd} 1"))?;
    let at = scene.s.run(&format!("local {fd}"))?;
    let port = at.rsplit_once(':').map(|(_, port)| port.to_owned());
    let port = format!(r#"lport="{}""#, port.unwrap_or_default());
    for _ in 0..2 {
        let c = scene.c.open(&at)?;
        scene.c.run(&format!("connect {c} {at}"))?;
    }
    let late = scene.c.open(&at)?;
    scene.c.run(&format!("nonblock {late}"))?;
    scene
        .c
        .fails(&format!("connect {late} {at}"), libc::EINPROGRESS)?;
    let dropped = || Ok((scene.net.b.counters()?["TcpExt.ListenDrops"] >= 2).then_some(()));
    wait::until("dropped SYNs", PATIENCE, dropped)?;
    scene.c.run(&format!("close {late}"))?;
    let page = scene.metrics.scrape()?;
    let drops = scene.kernel("TcpExt.ListenDrops")?;
    page.want("listener_drops_total", &[&port], drops)?;
    page.want("listener_accept_queue", &[&port], 2)?;
    page.want("listener_accept_queue_max", &[&port], 1)?;
    page.want("sockets", &[r#""LISTEN""#], 1)?;
    page.want("connections_opened_total", &["aborted"], 1)?;
    // Sums stay when the listener goes.
    scene.s.run(&format!("close {fd}"))?;
    let page = scene.metrics.scrape()?;
    page.want("listener_drops_total", &[&port], drops)?;
    let queues = page.0.keys().filter(|name| name.contains("accept_queue{"));
    ensure!(queues.count() == 0, "{page:?}");
    Ok(())
}

/// SYNs that a firewall throws away.
pub fn drops(mut scene: Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    pair::filter(&scene.net.b, "input", "tcp flags syn drop")?;
    let c = scene.c.open(&at)?;
    scene.c.run(&format!("nonblock {c}"))?;
    scene
        .c
        .fails(&format!("connect {c} {at}"), libc::EINPROGRESS)?;
    let again = || Ok((scene.net.a.counters()?["Tcp.RetransSegs"] >= 1).then_some(()));
    wait::until("a SYN that is sent again", PATIENCE, again)?;
    scene.c.run(&format!("close {c}"))?;
    scene.s.run(&format!("close {listener}"))?;
    let page = scene.metrics.scrape()?;
    let again = scene.kernel("Tcp.RetransSegs")?;
    page.want("retransmitted_segments_total", &[r#""syn""#], again)?;
    page.want("dropped_segments_total", &["NETFILTER_DROP"], again + 1)?;
    page.want("connections_opened_total", &["aborted"], 1)
}

/// What was there before counts in gauges, and from the beginning on in sums.
pub fn late_start(mut scene: Scene, host: &str) -> Result<()> {
    let (listener, at) = scene.s.listen(host)?;
    let open = scene.connect(&at, listener)?;
    scene.send(open, 700)?;
    let late = Metrics::start(&scene.net.inodes(), &[])?;
    let page = late.scrape()?;
    page.want("sockets", &[r#""ESTABLISHED""#], 2)?;
    page.want("sockets", &[r#""LISTEN""#], 1)?;
    page.want("sent_bytes_total", &[], 0)?;
    page.want("connections_opened_total", &[], 0)?;
    scene.send(open, 70)?;
    scene.close(open)?;
    let page = late.scrape()?;
    page.want("sent_bytes_total", &[], 70)?;
    page.want("received_bytes_total", &[], 70)?;
    page.want("connections_closed_total", &[], 2)?;
    // How long it was open is not known.
    page.want("connection_duration_seconds_count", &[], 0)
}
