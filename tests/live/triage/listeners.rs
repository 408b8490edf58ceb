// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers that do not take their connections.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, setsockopt,
    socket, sockopt,
};
use serde_json::Value;

use super::{findings, first_is, guide};
use crate::{
    net::{Net, Netns},
    trial_apart,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial_apart("triage::listener_overflow", overflow),
        trial_apart("triage::listener_not_accepting", not_accepting),
        trial_apart("triage::syn_flood", syn_flood),
        trial_apart("triage::reuseport_imbalance", reuseport),
    ]
}

const TIME: Duration = Duration::from_secs(5);

/// Until the end of `TIME`, about.
fn while_it_looks(mut step: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        step()?;
    }
    Ok(())
}

/// A queue of two, and a server that needs 200 ms for each connection.
fn overflow() -> Result<()> {
    let ns = Netns::new()?;
    let found = guide::findings("listener_overflow", &[&ns], TIME, || {
        ns.inside(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 8080))?;
            listen(&listener, Backlog::new(1)?)?;
            listener.set_nonblocking(true)?;
            let at = listener.local_addr()?;
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(move || {
                        // Some time out: that is the incident.
                        while_it_looks(|| {
                            drop(TcpStream::connect_timeout(&at, Duration::from_secs(2)));
                            Ok(())
                        })
                    });
                }
                while_it_looks(|| {
                    drop(listener.accept());
                    thread::sleep(Duration::from_millis(200));
                    Ok(())
                })
            })
        })
    })?;
    let first = first_is(&found, "listener_overflow")?;
    ensure!(first["severity"] == "critical", "{first}");
    ensure!(first["subject"]["listener"] == "127.0.0.1:8080", "{first}");
    // Two CPUs may see the last place free at once.
    let high = first["evidence"]["accept_queue_high"].as_u64();
    ensure!(matches!(high, Some(2..=3)), "{first}");
    // What the clients see is explained by it.
    let is_effect =
        |one: &Value| one["kind"] == "connect_timeout" || one["kind"] == "slow_handshake";
    ensure!(!found.iter().any(is_effect), "{found:#?}");
    Ok(())
}

/// Four connections wait since before, and nobody takes them.
fn not_accepting() -> Result<()> {
    let ns = Netns::new()?;
    let held = ns.inside(|| {
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 8082))?;
        let at = listener.local_addr()?;
        let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(at)).collect();
        Ok((listener, clients))
    })?;
    let found = guide::findings("listener_not_accepting", &[&ns], TIME, || Ok(()))?;
    drop(held);
    let first = first_is(&found, "listener_not_accepting")?;
    ensure!(first["severity"] == "critical", "{first}");
    ensure!(first["subject"]["listener"] == "[::1]:8082", "{first}");
    ensure!(first["subject"]["pid"] == std::process::id(), "{first}");
    ensure!(first["evidence"]["accept_queue"] == 4, "{first}");
    Ok(())
}

/// Clients that never answer the SYN/ACK, as with forged addresses.
fn syn_flood() -> Result<()> {
    let net = Net::new()?;
    net.b.sysctl("ipv4/tcp_syncookies", "1")?;
    net.a
        .nft("table ip f { chain i { type filter hook input priority 0; tcp sport 80 drop; }; }")?;
    let held = net.b.inside(|| {
        let listener = TcpListener::bind("10.9.0.2:80")?;
        listen(&listener, Backlog::new(8)?)?;
        Ok(listener)
    })?;
    // Who looks at the clients, too, finds that their host drops the answers.
    let found = findings(&[&net.b], TIME, || {
        net.a.inside(|| {
            let to: SocketAddr = "10.9.0.2:80".parse()?;
            let mut floods = Vec::new();
            while_it_looks(|| {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                let one = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
                // It is under way then.
                let _ = connect(one.as_raw_fd(), &SockaddrStorage::from(to));
                floods.push(one);
                thread::sleep(Duration::from_millis(50));
                Ok(())
            })
        })
    })?;
    drop(held);
    let first = first_is(&found, "syn_flood")?;
    ensure!(first["subject"]["listener"] == "10.9.0.2:80", "{first}");
    ensure!(first["evidence"]["syn_cookies"] == true, "{first}");
    ensure!(
        !found.iter().any(|one| one["kind"] == "connect_timeout"),
        "{found:#?}"
    );
    Ok(())
}

fn shared(port: u16) -> Result<TcpListener> {
    let fd = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at))?;
    listen(&fd, Backlog::new(16)?)?;
    Ok(fd.into())
}

/// Of two workers that share a port, one hangs.
fn reuseport() -> Result<()> {
    let ns = Netns::new()?;
    let found = findings(&[&ns], TIME, || {
        ns.inside(|| {
            let (works, hangs) = (shared(8080)?, shared(8080)?);
            works.set_nonblocking(true)?;
            let mut clients = Vec::new();
            while_it_looks(|| {
                let at = hangs.local_addr()?;
                if clients.len() < 16 {
                    clients.push(TcpStream::connect(at)?);
                }
                while works.accept().is_ok() {}
                thread::sleep(Duration::from_millis(20));
                Ok(())
            })
        })
    })?;
    first_is(&found, "listener_not_accepting")?;
    let of_group = found
        .iter()
        .find(|one| one["kind"] == "reuseport_imbalance");
    let of_group = of_group.context("no imbalance")?;
    ensure!(of_group["evidence"]["reuseport"] == 2, "{of_group}");
    Ok(())
}
