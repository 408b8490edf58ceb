// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that are open and do not move; and some that only wait.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use super::{findings, first_is, guide};
use crate::{
    missing,
    net::{Net, Netns},
    pair::filter,
    trial_apart,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial_apart("triage::waiting_is_healthy", healthy),
        trial_apart("triage::close_wait_leak", leak),
        trial_apart("triage::peer_window_zero", window_zero),
        trial_apart("triage::reader_stalled", reader_stalled),
        trial_apart("triage::no_answer", no_answer),
        trial_apart("triage::nagle_delay", nagle),
        trial_apart("triage::slow_server", slow_server),
    ]
}

const TIME: Duration = Duration::from_secs(4);

const V4: &str = "10.9.0.2:8080";
const V6: &str = "[fd09::2]:8080";

fn listen(ns: &Netns, at: &str) -> Result<TcpListener> {
    let at: SocketAddr = at.parse()?;
    ns.inside(|| Ok(TcpListener::bind(at)?))
}

/// The client's end, and the server's.
fn connect(net: &Net, listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
    let at = listener.local_addr()?;
    let client = net.a.inside(|| Ok(TcpStream::connect(at)?))?;
    Ok((client, listener.accept()?.0))
}

/// A request and its answer.
fn exchange(client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    client.write_all(b"question")?;
    server.read_exact(&mut [0; 8])?;
    server.write_all(b"answer")?;
    Ok(client.read_exact(&mut [0; 6])?)
}

/// Until the kernel takes no more; how much it took.
fn fill(stream: &mut TcpStream) -> Result<usize> {
    stream.set_nonblocking(true)?;
    let mut written = 0;
    let mut last = Instant::now();
    wait::until("a full send buffer", PATIENCE, || {
        match stream.write(&[7; 65_536]) {
            Ok(more) => {
                written += more;
                last = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        Ok((last.elapsed() > Duration::from_millis(500)).then_some(written))
    })
}

/// Connections that are kept, a client that waits for an answer, one that has asked nothing, listeners.
fn healthy() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let listener = listen(&net.b, V4)?;
    let mut kept = Vec::new();
    for _ in 0..15 {
        let (mut client, mut server) = connect(&net, &listener)?;
        exchange(&mut client, &mut server)?;
        kept.push((client, server));
    }
    let (mut polls, mut polled) = connect(&net, &listener)?;
    polls.write_all(b"question")?;
    polled.read_exact(&mut [0; 8])?;
    let silent = connect(&net, &listener)?;
    let found = findings(&[&net.a, &net.b], TIME, || {
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            for (client, server) in &mut kept[..5] {
                exchange(client, server)?;
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    })?;
    drop((silent, polls, polled));
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// Clients have closed before anybody looked, and their server does not. One that is good is beside it.
fn leak() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let listener = listen(&net.b, V6)?;
    let mut leaked = Vec::new();
    for n in 0..24 {
        let (mut client, mut server) = connect(&net, &listener)?;
        exchange(&mut client, &mut server)?;
        drop(client);
        if n % 2 == 0 {
            leaked.push(server);
        }
    }
    let found = guide::findings("close_wait_leak", &[&net.b], TIME, || Ok(()))?;
    let first = first_is(&found, "close_wait_leak")?;
    ensure!(first["evidence"]["close_wait"] == leaked.len(), "{first}");
    ensure!(first["subject"]["listener"] == V6, "{first}");
    let own = std::process::id();
    ensure!(first["subject"]["pid"] == own, "{first}");
    let next = format!("tcpstates --active --state close_wait --pid {own}");
    ensure!(first["next"] == next.as_str(), "{first}");
    Ok(())
}

/// The other end, which is not looked at, does not read.
fn window_zero() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let listener = listen(&net.b, V6)?;
    let (mut client, _server) = connect(&net, &listener)?;
    fill(&mut client)?;
    let found = findings(&[&net.a], TIME, || Ok(()))?;
    let first = first_is(&found, "peer_window_zero")?;
    ensure!(first["subject"]["destination"] == V6, "{first}");
    let local = client.local_addr()?.to_string();
    ensure!(first["subject"]["client"] == local.as_str(), "{first}");
    ensure!(found.len() == 1, "{found:#?}");
    Ok(())
}

/// The same, with both ends: the cause is the reader, and its writer has no finding of its own.
fn reader_stalled() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let listener = listen(&net.b, V4)?;
    let (mut client, server) = connect(&net, &listener)?;
    let written = fill(&mut client)?;
    let found = findings(&[&net.a, &net.b], TIME, || Ok(()))?;
    let first = first_is(&found, "reader_stalled")?;
    ensure!(first["subject"]["listener"] == V4, "{first}");
    let unread = first["evidence"]["rqueue_bytes"].as_u64();
    let unread = unread.context("no bytes")? as usize;
    ensure!(unread > 0 && unread <= written, "{first}");
    ensure!(found.len() == 1, "{found:#?}");
    drop(server);
    Ok(())
}

/// A firewall forgets connections, and drops their segments: one writes, and one is idle.
fn no_answer() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let listener = listen(&net.b, V4)?;
    let (mut writes, mut at_writer) = connect(&net, &listener)?;
    let (mut reads, mut at_reader) = connect(&net, &listener)?;
    exchange(&mut writes, &mut at_writer)?;
    exchange(&mut reads, &mut at_reader)?;
    filter(&net.b, "input", "tcp dport 8080 drop")?;
    writes.write_all(b"question")?;
    let found = guide::findings("no_answer", &[&net.a], TIME, || Ok(()))?;
    let first = first_is(&found, "no_answer")?;
    ensure!(first["severity"] == "critical", "{first}");
    ensure!(first["subject"]["destination"] == V4, "{first}");
    let figures = &first["evidence"];
    ensure!(
        figures["connections"] == 1 && figures["wqueue_bytes"] == 8 && figures["idle"] == 1,
        "{first}"
    );
    Ok(())
}

/// Requests that are written in two pieces, with Nagle's algorithm.
fn nagle() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let listener = listen(&net.b, V4)?;
    let (mut client, mut server) = connect(&net, &listener)?;
    // Otherwise the server's answer would be no concern.
    let serve = thread::spawn(move || -> Result<()> {
        while server.read_exact(&mut [0; 200]).is_ok() {
            server.write_all(&[1; 100])?;
        }
        Ok(())
    });
    let found = findings(&[&net.a, &net.b], TIME, || {
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            client.write_all(&[1; 100])?;
            client.write_all(&[2; 100])?;
            client.read_exact(&mut [0; 100])?;
        }
        Ok(())
    })?;
    let first = first_is(&found, "nagle_delay")?;
    ensure!(first["subject"]["destination"] == V4, "{first}");
    drop(client);
    serve.join().expect("no panic")
}

/// Every third request takes 200 ms. Both ends are looked at, then the client's alone.
fn slow_server() -> Result<()> {
    missing::needs_programs()?;
    missing::needs_tracepoint_of("tcplat")?;
    let net = Net::new()?;
    let listener = listen(&net.b, V6)?;
    let (mut client, mut server) = connect(&net, &listener)?;
    let serve = thread::spawn(move || -> Result<()> {
        for n in 1_u64.. {
            if server.read_exact(&mut [0; 8]).is_err() {
                break;
            }
            if n % 3 == 0 {
                thread::sleep(Duration::from_millis(200));
            }
            server.write_all(b"answer")?;
        }
        Ok(())
    });
    let mut ask = || {
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            client.write_all(b"question")?;
            client.read_exact(&mut [0; 6])?;
        }
        Ok(())
    };
    let found = guide::findings("slow_server", &[&net.a, &net.b], TIME, &mut ask)?;
    let first = first_is(&found, "slow_server")?;
    ensure!(first["subject"]["listener"] == V6, "{first}");
    ensure!(first["evidence"]["where"] == "app", "{first}");
    ensure!(found.len() == 1, "{found:#?}");
    let found = findings(&[&net.a], TIME, ask)?;
    let first = first_is(&found, "slow_server")?;
    ensure!(first["subject"]["destination"] == V6, "{first}");
    ensure!(first["evidence"]["where"] == "peer", "{first}");
    drop(client);
    serve.join().expect("no panic")
}
