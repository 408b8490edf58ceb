// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that are not opened, or slowly.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use super::{Found, findings, first_is, guide};
use crate::{
    net::{Net, Netns},
    trial_apart,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial_apart("triage::healthy", healthy),
        trial_apart("triage::connect_refused", refused),
        trial_apart("triage::connect_refused_server", refuses),
        trial_apart("triage::connect_timeout", timeout),
        trial_apart("triage::connect_unreachable", unreachable),
        trial_apart("triage::connect_without_route", without_route),
        trial_apart("triage::no_ports", no_ports),
        trial_apart("triage::no_ports_soon", ports_soon),
        trial_apart("triage::slow_handshake", slow_handshake),
        trial_apart("triage::connection_churn", churn),
    ]
}

const TIME: Duration = Duration::from_secs(4);

/// Says a byte, and hears it again.
fn turn(mut client: &TcpStream) -> Result<()> {
    client.write_all(b"q")?;
    Ok(client.read_exact(&mut [0])?)
}

/// Answers each byte of so many connections.
fn echo(listener: &TcpListener, connections: usize) -> Result<()> {
    thread::scope(|scope| {
        for _ in 0..connections {
            let (mut one, _) = listener.accept()?;
            scope.spawn(move || {
                let mut byte = [0];
                while one.read_exact(&mut byte).is_ok() && one.write_all(&byte).is_ok() {}
            });
        }
        Ok(())
    })
}

/// Connections that are opened, and closed, are nothing to find, however many.
fn healthy() -> Result<()> {
    let ns = Netns::new()?;
    let found = findings(&[&ns], TIME, || {
        ns.inside(|| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            for _ in 0..300 {
                let client = TcpStream::connect(listener.local_addr()?)?;
                let (server, _) = listener.accept()?;
                drop((client, server));
            }
            Ok(())
        })
    })?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// Nobody listens.
fn refused() -> Result<()> {
    let ns = Netns::new()?;
    let found = guide::findings("connect_refused", &[&ns], TIME, || {
        ns.inside(|| {
            for _ in 0..20 {
                ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, 5432)).is_err());
            }
            Ok(())
        })
    })?;
    let first = first_is(&found, "connect_refused")?;
    ensure!(first["evidence"]["refused"] == 20, "{first}");
    ensure!(
        first["subject"]["destination"] == "127.0.0.1:5432",
        "{first}"
    );
    ensure!(first["next"] == "tcpconnect --failed -P 5432", "{first}");
    Ok(())
}

/// The same, seen on the server's host alone.
fn refuses() -> Result<()> {
    let net = Net::new()?;
    let found = findings(&[&net.b], TIME, || {
        net.a.inside(|| {
            for _ in 0..20 {
                ensure!(TcpStream::connect("[fd09::2]:5432").is_err());
            }
            Ok(())
        })
    })?;
    let first = first_is(&found, "connect_refused")?;
    ensure!(first["severity"] == "warning", "{first}");
    ensure!(first["evidence"]["refused"] == 20, "{first}");
    ensure!(first["subject"]["listener"] == "[fd09::2]:5432", "{first}");
    Ok(())
}

/// A firewall drops the SYN: two programs give up, and one still waits.
fn timeout() -> Result<()> {
    let net = Net::new()?;
    net.b.nft(
        "table ip6 f { chain i { type filter hook input priority 0; tcp dport 443 drop; }; }",
    )?;
    let to: SocketAddr = "[fd09::2]:443".parse()?;
    let attempt = move |ms| TcpStream::connect_timeout(&to, Duration::from_millis(ms));
    let mut waits = None;
    let found = guide::findings("connect_timeout", &[&net.a, &net.b], TIME, || {
        net.a.inside(|| {
            waits = Some(thread::spawn(move || attempt(8000)));
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| attempt(1500));
                }
            });
            Ok(())
        })
    })?;
    let waited = waits.context("started")?.join().expect("no panic");
    ensure!(waited.is_err(), "an answer");
    let first = first_is(&found, "connect_timeout")?;
    ensure!(first["evidence"]["unanswered"] == 3, "{first}");
    ensure!(first["evidence"]["pending"] == 1, "{first}");
    ensure!(first["evidence"]["where"] == "nft_do_chain", "{first}");
    ensure!(
        first["subject"]["destination"] == "[fd09::2]:443",
        "{first}"
    );
    Ok(())
}

/// No host has that address: the kernel asks for it in vain for three seconds.
fn unreachable() -> Result<()> {
    let net = Net::new()?;
    let found = findings(&[&net.a], Duration::from_secs(6), || {
        net.a.inside(|| {
            let attempt = || TcpStream::connect("10.9.0.77:5432");
            thread::scope(|scope| {
                let all = [scope.spawn(attempt), scope.spawn(attempt)];
                for one in all {
                    let error = one.join().expect("no panic").err();
                    let kind = error.map(|error| error.kind());
                    ensure!(kind == Some(ErrorKind::HostUnreachable), "{kind:?}");
                }
                Ok(())
            })
        })
    })?;
    let first = first_is(&found, "connect_unreachable")?;
    ensure!(first["evidence"]["unreachable"] == 2, "{first}");
    ensure!(first["evidence"]["error"] == "EHOSTUNREACH", "{first}");
    Ok(())
}

/// connect() fails before there is a socket in SYN_SENT: only a counter tells.
fn without_route() -> Result<()> {
    let ns = Netns::new()?;
    let _inhabitant = ns.agent()?;
    let found = findings(&[&ns], TIME, || {
        ns.inside(|| {
            for _ in 0..10 {
                ensure!(TcpStream::connect("192.0.2.1:80").is_err());
            }
            Ok(())
        })
    })?;
    let first = first_is(&found, "connect_unreachable")?;
    ensure!(first["evidence"]["count"] == 10, "{first}");
    ensure!(first["subject"]["netns"] == ns.inode, "{first}");
    Ok(())
}

const PORTS: usize = 20;

/// A namespace with few ports, of which so many are taken; then so many opens more.
fn few_ports(name: Option<&str>, at: IpAddr, taken: usize, more: usize) -> Result<Found> {
    let ns = Netns::new()?;
    // Namespaces are visited that a process is in.
    let _inhabitant = ns.agent()?;
    ns.sysctl("ipv4/ip_local_port_range", "40000 40019")?;
    let mut held = Vec::new();
    let held = &mut held;
    let play = || {
        ns.inside(|| {
            let listener = TcpListener::bind((at, 5000))?;
            for _ in 0..taken {
                held.push(TcpStream::connect((at, 5000))?);
                held.push(listener.accept()?.0);
            }
            for _ in 0..more {
                let error = TcpStream::connect((at, 5000)).err();
                let kind = error.map(|error| error.kind());
                ensure!(kind == Some(ErrorKind::AddrNotAvailable), "{kind:?}");
            }
            Ok(())
        })
    };
    match name {
        Some(name) => guide::findings(name, &[&ns], TIME, play),
        None => findings(&[&ns], TIME, play),
    }
}

fn no_ports() -> Result<()> {
    let found = few_ports(Some("no_ports"), Ipv4Addr::LOCALHOST.into(), PORTS, 5)?;
    let first = first_is(&found, "no_ports")?;
    ensure!(first["severity"] == "critical", "{first}");
    ensure!(first["evidence"]["no_port"] == 5, "{first}");
    ensure!(first["evidence"]["ports_taken"] == PORTS, "{first}");
    Ok(())
}

fn ports_soon() -> Result<()> {
    let found = few_ports(None, Ipv6Addr::LOCALHOST.into(), PORTS - 2, 0)?;
    let first = first_is(&found, "no_ports")?;
    ensure!(first["severity"] == "warning", "{first}");
    ensure!(first["evidence"]["ports_taken"] == PORTS - 2, "{first}");
    Ok(())
}

/// Every other SYN is dropped.
fn slow_handshake() -> Result<()> {
    let net = Net::new()?;
    net.b.nft(
        "table ip f { chain i { type filter hook input priority 0;\n\
         tcp flags & (syn|ack) == syn numgen inc mod 2 == 0 drop; }; }",
    )?;
    let found = guide::findings("slow_handshake", &[&net.a], Duration::from_secs(5), || {
        let listener = net.b.inside(|| Ok(TcpListener::bind("10.9.0.2:5000")?))?;
        net.a.inside(|| {
            for _ in 0..3 {
                drop(TcpStream::connect("10.9.0.2:5000")?);
                drop(listener.accept()?);
            }
            Ok(())
        })
    })?;
    let first = first_is(&found, "slow_handshake")?;
    ensure!(first["evidence"]["slow"] == 3, "{first}");
    ensure!(first["evidence"]["syn_retrans"] == 3, "{first}");
    Ok(())
}

/// One of three clients opens a connection for each request.
fn churn() -> Result<()> {
    let ns = Netns::new()?;
    let sessions = 110;
    let found = guide::findings("connection_churn", &[&ns], TIME, || {
        ns.inside(|| {
            let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 5432))?;
            let at = listener.local_addr()?;
            thread::scope(|scope| {
                scope.spawn(|| echo(&listener, 2 + sessions));
                for _ in 0..2 {
                    scope.spawn(move || -> Result<()> {
                        let kept = TcpStream::connect(at)?;
                        let end = Instant::now() + TIME;
                        while Instant::now() < end {
                            turn(&kept)?;
                            thread::sleep(Duration::from_millis(50));
                        }
                        Ok(())
                    });
                }
                for _ in 0..sessions {
                    turn(&TcpStream::connect(at)?)?;
                    // Not more in a second than are shown.
                    thread::sleep(Duration::from_millis(30));
                }
                Ok(())
            })
        })
    })?;
    let first = first_is(&found, "connection_churn")?;
    ensure!(first["evidence"]["kept"] == 2, "{first}");
    ensure!(first["subject"]["destination"] == "[::1]:5432", "{first}");
    Ok(())
}
