// SPDX-License-Identifier: MIT OR Apache-2.0
//! Labels: whose they are, how many, and for how long.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Result, bail, ensure};
use nix::{
    libc::linger,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
    },
};

use super::scene::{Metrics, Page, Scene};
use crate::{
    missing,
    net::Netns,
    wait::{self, PATIENCE},
};

/// Values as rows have them; what a filter leaves out is not counted.
pub fn filters_and_labels() -> Result<()> {
    let mut scene = Scene::new(&[
        "--labels",
        "comm,lport,rport,raddr/24,netns",
        "--comm",
        "client",
    ])?;
    for host in ["10.9.0.2:0", "[fd09::2]:0"] {
        let ends = scene.session(host)?;
        scene.send(ends, 700)?;
        scene.close(ends)?;
    }
    let page = scene.metrics.scrape()?;
    let netns = format!(r#"netns="{}""#, scene.net.a.inode);
    let client = [r#"comm="client""#, &netns];
    page.want("connections_opened_total", &client, 2)?;
    page.want("connections_opened_total", &[], 2)?;
    page.want("connections_accepted_total", &[], 0)?;
    page.want("sent_bytes_total", &[r#"raddr="10.9.0.0/24""#], 700)?;
    page.want("sent_bytes_total", &[r#"raddr="fd09::/48""#], 700)?;
    page.want("connection_duration_seconds_count", &client, 2)?;
    // Ports that the kernel has chosen make no series.
    let opened = page
        .0
        .keys()
        .filter(|name| name.contains("connections_opened"));
    ensure!(
        opened.clone().all(|name| name.contains("rport=")),
        "{page:?}"
    );
    ensure!(
        opened.count() == 2 && !page.0.keys().any(|name| name.contains("lport=")),
        "{page:?}"
    );
    page.want("series_overflow_total", &[], 0)
}

/// A connection from the address of this number.
fn connected(listener: &TcpListener, n: usize) -> Result<(OwnedFd, TcpStream)> {
    let SocketAddr::V4(at) = listener.local_addr()? else {
        bail!("an IPv4 address");
    };
    let client = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let own = SockaddrIn::new(127, 1 + (n >> 16) as u8, (n >> 8) as u8, n as u8, 0);
    bind(client.as_raw_fd(), &own)?;
    connect(client.as_raw_fd(), &SockaddrIn::from(at))?;
    Ok((client, listener.accept()?.0))
}

/// Connections over loopback, as many as asked for, each from an address of its own, and reset at once by the server.
fn churn(ns: &Netns, from: usize, count: usize) -> Result<()> {
    ns.inside(move || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        for n in from..from + count {
            let (_client, server) = connected(&listener, n)?;
            let now = linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(&server, sockopt::Linger, &now)?;
        }
        Ok(())
    })
}

const OTHER: &str = r#"raddr="other""#;

/// How many series have the user's label, but for what all others are in.
fn labelled(page: &Page) -> usize {
    let own = |name: &&String| name.contains("raddr=") && !name.contains(OTHER);
    page.0.keys().filter(own).count()
}

/// What is beyond the bound is not lost.
pub fn series_bound() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let args = ["--labels", "raddr,lport", "--max-series", "400"];
    let metrics = Metrics::start(&ns.inode.to_string(), &args)?;
    churn(&ns, 0, 1000)?;
    let page = metrics.scrape()?;
    page.want("connections_opened_total", &[], 1000)?;
    page.want("connections_accepted_total", &[], 1000)?;
    page.want("connections_closed_total", &[], 2000)?;
    page.want("connection_duration_seconds_count", &[], 2000)?;
    let (series, over) = (labelled(&page), page.sum("series_overflow_total", &[]));
    ensure!((200..=400).contains(&series), "{series} series");
    ensure!(
        over > 0 && page.sum("connections_accepted_total", &[OTHER]) > 500,
        "{over}"
    );
    // Sockets that are only there, without series of their own, are no events.
    let _open = ns.inside(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let pair = |n| connected(&listener, n);
        (2000..2100).map(pair).collect::<Result<Vec<_>>>()
    })?;
    let over = || -> Result<u64> { Ok(metrics.scrape()?.sum("series_overflow_total", &[])) };
    let (first, second) = (over()?, over()?);
    ensure!(first == second, "{first}, then {second}");
    Ok(())
}

/// What is idle goes to `other`, and no sum ever goes down.
pub fn series_expire() -> Result<()> {
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let args = ["--labels", "raddr", "--expire", "1s"];
    let metrics = Metrics::start(&ns.inode.to_string(), &args)?;
    churn(&ns, 0, 100)?;
    let page = metrics.scrape()?;
    ensure!(labelled(&page) > 200, "{}", labelled(&page));
    page.want("connections_opened_total", &[], 100)?;
    let sums = [
        "connections_opened_total",
        "connections_closed_total",
        "connection_duration_seconds_count",
    ];
    let before = sums.map(|name| page.sum(name, &[]));
    wait::until("series to expire", PATIENCE, || {
        let page = metrics.scrape()?;
        let now = sums.map(|name| page.sum(name, &[]));
        ensure!(now == before, "{now:?} were {before:?}");
        let listeners = page.0.keys().filter(|name| name.contains("listener"));
        Ok((labelled(&page) == 0 && listeners.count() == 0).then_some(()))
    })?;
    let page = metrics.scrape()?;
    page.want("connections_accepted_total", &[OTHER], 100)?;
    ensure!(page.sum("series_expired_total", &[]) >= 300, "{page:?}");
    // And grows on.
    churn(&ns, 0, 10)?;
    metrics.scrape()?.want("connections_opened_total", &[], 110)
}

/// As many connections as a host has in a day that opens one every three seconds, each with an address of its own: memory
/// and series stay what they are.
pub fn day() -> Result<()> {
    const ROUNDS: usize = 30;
    missing::needs_programs()?;
    let ns = Netns::new()?;
    let args = [
        "--labels",
        "raddr",
        "--expire",
        "100ms",
        "--max-series",
        "2000",
    ];
    let metrics = Metrics::start(&ns.inode.to_string(), &args)?;
    let mut memory = Vec::new();
    for round in 0..ROUNDS {
        churn(&ns, 1000 * round, 1000)?;
        let page = metrics.scrape()?;
        memory.push(metrics.memory()?);
        ensure!(labelled(&page) <= 2000, "{} series", labelled(&page));
    }
    let page = metrics.scrape()?;
    page.want("connections_opened_total", &[], 1000 * ROUNDS as u64)?;
    page.want("connections_closed_total", &[], 2000 * ROUNDS as u64)?;
    let (first, last) = (memory[ROUNDS / 3], memory[ROUNDS - 1]);
    ensure!(last <= first + 1024, "KiB: {memory:?}");
    Ok(())
}
