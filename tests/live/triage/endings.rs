// SPDX-License-Identifier: MIT OR Apache-2.0
//! How connections end.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc::{self, linger};
use nix::sys::socket::{setsockopt, sockopt::Linger};

use super::{findings, first_is, guide};
use crate::{missing, net::Net, trial_apart};

pub fn tests() -> Vec<Trial> {
    vec![
        trial_apart("triage::endings_are_healthy", healthy),
        trial_apart("triage::reset_unread_data", unread_data),
        trial_apart("triage::reset_storm", storm),
        trial_apart("triage::reset_idle_race", idle_race),
        trial_apart("triage::nat_broken", untranslated),
    ]
}

const TIME: Duration = Duration::from_secs(3);

const V4: &str = "10.9.0.2:8000";
const V6: &str = "[fd09::2]:8000";

/// So many sessions one after the other: the client's end, and the server's, are what `play` closes.
fn sessions(
    net: &Net,
    listener: &TcpListener,
    number: usize,
    play: impl Fn(usize, TcpStream, TcpStream) -> Result<()>,
) -> Result<()> {
    let at = listener.local_addr()?;
    for n in 0..number {
        let client = net.a.inside(|| Ok(TcpStream::connect(at)?))?;
        play(n, client, listener.accept()?.0)?;
    }
    Ok(())
}

fn listen(net: &Net, at: &str) -> Result<TcpListener> {
    let at: SocketAddr = at.parse()?;
    net.b.inside(|| Ok(TcpListener::bind(at)?))
}

fn reset(stream: TcpStream) -> Result<()> {
    let at_once = linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(&stream, Linger, &at_once)?)
}

fn exchange(client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    client.write_all(b"question")?;
    server.read_exact(&mut [0; 8])?;
    server.write_all(b"answer")?;
    Ok(client.read_exact(&mut [0; 6])?)
}

/// Clients close, mostly as one should; every seventh resets, or leaves the answer unread.
fn healthy() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let listener = listen(&net, V4)?;
    let found = findings(&[&net.a, &net.b], TIME, || {
        sessions(&net, &listener, 60, |n, mut client, mut server| {
            exchange(&mut client, &mut server)?;
            match n % 7 {
                0 => return reset(client),
                1 => server.write_all(b"more")?,
                _ => {}
            }
            drop(client);
            Ok(())
        })
    })?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// A server that answers before it has read all, and closes.
fn unread_data() -> Result<()> {
    missing::needs_programs()?;
    missing::needs_reset_reasons()?;
    let net = Net::new()?;
    let listener = listen(&net, V6)?;
    let found = guide::findings("reset_unread_data", &[&net.a, &net.b], TIME, || {
        sessions(&net, &listener, 6, |_, mut client, mut server| {
            client.write_all(&[b'z'; 20_000])?;
            server.read_exact(&mut [0; 100])?;
            server.write_all(b"too large")?;
            drop(server);
            drop(client);
            Ok(())
        })
    })?;
    let first = first_is(&found, "reset_unread_data")?;
    ensure!(first["evidence"]["resets"] == 6, "{first}");
    ensure!(first["subject"]["listener"] == V6, "{first}");
    ensure!(first["next"] == "tcpreset -w -L 8000", "{first}");
    ensure!(found.len() == 1, "{found:#?}");
    Ok(())
}

/// A server that ends its connections by a reset: both ends are looked at, then the client's alone.
fn storm() -> Result<()> {
    missing::needs_programs()?;
    let net = Net::new()?;
    let listener = listen(&net, V4)?;
    let play = || {
        sessions(&net, &listener, 20, |n, mut client, mut server| {
            exchange(&mut client, &mut server)?;
            if n % 2 == 0 { reset(server) } else { Ok(()) }
        })
    };
    let found = findings(&[&net.a, &net.b], TIME, play)?;
    let first = first_is(&found, "reset_storm")?;
    let figures = &first["evidence"];
    ensure!(
        figures["by_server"] == 10 && figures["ended"] == 20,
        "{first}"
    );
    ensure!(first["subject"]["listener"] == V4, "{first}");
    ensure!(found.len() == 1, "{found:#?}");
    let found = findings(&[&net.a], TIME, play)?;
    let first = first_is(&found, "reset_storm")?;
    ensure!(first["subject"]["destination"] == V4, "{first}");
    Ok(())
}

/// A server closes connections that were idle, and their clients use them all the same.
fn idle_race() -> Result<()> {
    missing::needs_programs()?;
    missing::needs_reset_reasons()?;
    let net = Net::new()?;
    let listener = listen(&net, V6)?;
    let play = || {
        sessions(&net, &listener, 3, |_, mut client, mut server| {
            exchange(&mut client, &mut server)?;
            thread::sleep(Duration::from_millis(500)); // the idle timeout
            drop(server);
            client.write_all(b"question")?;
            let answer = client.read(&mut [0; 6]);
            ensure!(!matches!(answer, Ok(1..)), "an answer");
            Ok(())
        })
    };
    let found = guide::findings("reset_idle_race", &[&net.a, &net.b], TIME, play)?;
    let first = first_is(&found, "reset_idle_race")?;
    ensure!(first["evidence"]["resets"] == 3, "{first}");
    ensure!(first["subject"]["listener"] == V6, "{first}");
    let found = findings(&[&net.a], TIME, play)?;
    let first = first_is(&found, "reset_idle_race")?;
    ensure!(first["subject"]["destination"] == V6, "{first}");
    Ok(())
}

/// `setsockopt` number that libc has no name for.
const TCP_REPAIR: i32 = 19;

/// Packets from an address that the client knows nothing of, and resets of the connections that they were of.
fn untranslated() -> Result<()> {
    missing::needs_programs()?;
    missing::needs_reset_reasons()?;
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    c.comm("client")?;
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let found = guide::findings("nat_broken", &[&net.a], TIME, || {
        for _ in 0..3 {
            let fd = c.open(&at)?;
            c.run(&format!("connect {fd} {at}"))?;
            let server = s.number(&format!("accept {listener}"))?;
            let local = c.run(&format!("local {fd}"))?;
            let stray = s.open(&local)?;
            s.option(stray, libc::IPPROTO_TCP, TCP_REPAIR, 1)?;
            s.run(&format!("connect {stray} {local}"))?;
            s.option(stray, libc::IPPROTO_TCP, TCP_REPAIR, 0)?;
            s.attempt(&format!("send {stray} 10"))?.ok();
            s.run(&format!("close {stray}"))?;
            s.run(&format!("linger0 {server}"))?;
            s.run(&format!("close {server}"))?;
            c.fails(&format!("recv {fd} 1"), libc::ECONNRESET)?;
            c.run(&format!("close {fd}"))?;
        }
        Ok(())
    })?;
    let first = first_is(&found, "nat_broken")?;
    ensure!(first["evidence"]["resets"] == 3, "{first}");
    ensure!(first["subject"]["destination"] == at.as_str(), "{first}");
    ensure!(first["subject"]["comm"] == "client", "{first}");
    ensure!(found.len() == 1, "{found:#?}");
    Ok(())
}
