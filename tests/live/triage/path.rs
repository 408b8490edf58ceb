// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the way between the hosts does: each is two namespaces and a cable, of which one is looked at.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{findings, first_is, guide};
use crate::{missing::Missing, net::Net, pair::filter, trial_apart};

pub fn tests() -> Vec<Trial> {
    vec![
        trial_apart("triage::path_loss::tail_v4", tail_losses),
        trial_apart("triage::path_loss::bulk_v6", bulk_losses),
        trial_apart("triage::path_loss::rare_v4", rare_losses),
        trial_apart("triage::mtu_black_hole_v6", mtu_black_hole),
        trial_apart("triage::bufferbloat_v4", bufferbloat),
        trial_apart("triage::rwnd_limited_v6", rwnd_limited),
    ]
}

const TIME: Duration = Duration::from_secs(5);

/// The traffic ends before the look does.
const TRAFFIC: Duration = Duration::from_secs(4);

pub const V4: &str = "10.9.0.2:0";
pub const V6: &str = "[fd09::2]:0";

/// A listener in `b`.
pub fn listener(net: &Net, at: &str) -> Result<(TcpListener, SocketAddr)> {
    let listener = net.b.inside(|| Ok(TcpListener::bind(at)?))?;
    let at = listener.local_addr()?;
    Ok((listener, at))
}

/// A session between `a` and `b`: what each of its ends does, the client's first.
pub fn session(
    net: &Net,
    (listener, at): &(TcpListener, SocketAddr),
    client: impl FnOnce(TcpStream) -> Result<()> + Send,
    server: impl FnOnce(TcpStream) -> Result<()> + Send,
) -> Result<()> {
    thread::scope(|scope| {
        let server = scope.spawn(|| server(listener.accept()?.0));
        let done = net
            .a
            .inside(|| Ok(TcpStream::connect(at)?))
            .and_then(client);
        server.join().expect("no panic").and(done)
    })
}

/// Answers what comes, of so many bytes each, until the other end closes.
pub fn answer(mut stream: TcpStream, bytes: usize) -> Result<()> {
    let mut buffer = vec![0; bytes];
    while stream.read_exact(&mut buffer).is_ok() {
        stream.write_all(&buffer)?;
    }
    Ok(())
}

/// Asks, and waits for the answer, for as long as there is traffic.
pub fn ask(mut stream: TcpStream, bytes: usize, pause: Duration) -> Result<()> {
    let mut buffer = vec![7; bytes];
    let begin = Instant::now();
    while begin.elapsed() < TRAFFIC {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        thread::sleep(pause);
    }
    Ok(())
}

/// Sends for as long as there is traffic.
pub fn send(mut stream: TcpStream) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < TRAFFIC {
        stream.write_all(&[7; 50_000])?;
    }
    Ok(())
}

/// Reads until the other end closes.
pub fn read(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 1 << 18];
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

fn figure(finding: &Value, key: &str) -> Result<f64> {
    let figure = finding["evidence"][key].as_f64();
    figure.with_context(|| format!("{key}: {finding}"))
}

/// Requests and answers of one segment each, of which some are lost: a timer must fire for each.
fn tail_losses() -> Result<()> {
    let net = Net::new()?;
    let server = listener(&net, V4)?;
    filter(
        &net.b,
        "input",
        "meta l4proto tcp numgen random mod 100 < 4 drop",
    )?;
    let found = guide::findings("path_loss", &[&net.a], TIME, || {
        let ask = |stream| ask(stream, 40, Duration::from_millis(2));
        session(&net, &server, ask, |stream| answer(stream, 40))
    })?;
    let first = first_is(&found, "path_loss")?;
    ensure!(found.len() == 1, "{found:#?}");
    ensure!(
        first["subject"]["destination"] == server.1.to_string(),
        "{first}"
    );
    let timed = figure(first, "tlp")? + figure(first, "rto")?;
    ensure!(timed > figure(first, "fast")?, "{first}");
    let percent = figure(first, "lost_percent")?;
    ensure!(percent > 1.0 && percent < 12.0, "{first}");
    Ok(())
}

/// Losses in the middle of a transfer, seen by its sender.
fn bulk_losses() -> Result<()> {
    let net = Net::new()?;
    // A packet is a segment, and not many of them.
    net.a.ip("link set v0 gso_max_segs 1")?;
    let server = listener(&net, V6)?;
    filter(
        &net.b,
        "input",
        "meta l4proto tcp numgen random mod 100 < 2 drop",
    )?;
    let found = findings(&[&net.a], TIME, || session(&net, &server, send, read))?;
    let first = first_is(&found, "path_loss")?;
    ensure!(
        first["subject"]["destination"] == server.1.to_string(),
        "{first}"
    );
    ensure!(figure(first, "fast")? > figure(first, "rto")?, "{first}");
    Ok(())
}

/// One segment of ten thousand is lost, and a transfer over loopback loses none.
fn rare_losses() -> Result<()> {
    let net = Net::new()?;
    let server = listener(&net, V4)?;
    filter(
        &net.b,
        "input",
        "meta l4proto tcp numgen random mod 10000 < 1 drop",
    )?;
    let found = findings(&[&net.a, &net.b], TIME, || {
        session(&net, &server, send, read)
    })?;
    ensure!(found.is_empty(), "{found:#?}");
    Ok(())
}

/// A link that takes no packet of more than 1300 bytes, and does not say so.
fn mtu_black_hole() -> Result<()> {
    let net = Net::new()?;
    let server = listener(&net, V6)?;
    filter(
        &net.b,
        "prerouting",
        "meta l4proto tcp meta length > 1300 drop",
    )?;
    let found = guide::findings("mtu_black_hole", &[&net.a], TIME, || {
        let upload = |mut stream: TcpStream| {
            stream.write_all(b"small")?;
            stream.write_all(&[7; 50_000])?;
            thread::sleep(TRAFFIC);
            Ok(())
        };
        let waits = |mut stream: TcpStream| {
            stream.read_exact(&mut [0; 5])?;
            thread::sleep(TRAFFIC);
            Ok(())
        };
        session(&net, &server, upload, waits)
    })?;
    let first = first_is(&found, "mtu_black_hole")?;
    ensure!(
        first["subject"]["destination"] == server.1.to_string(),
        "{first}"
    );
    ensure!(figure(first, "len_bytes")? > 1200.0, "{first}");
    Ok(())
}

/// The interface that the transfer leaves by has a rate, and a long queue.
fn bufferbloat() -> Result<()> {
    let net = Net::new()?;
    let server = listener(&net, V4)?;
    let shaped = "tc qdisc add dev v0 root tbf rate 8mbit burst 20kb limit 600kb";
    let words: Vec<_> = shaped.split(' ').collect();
    if net.a.feed(&words, "").is_err() {
        return Err(Missing::Feature("CONFIG_NET_SCH_TBF, or tc").into());
    }
    net.a.sysctl("ipv4/tcp_congestion_control", "reno")?;
    let found = guide::findings("bufferbloat", &[&net.a], TIME, || {
        session(&net, &server, send, read)
    })?;
    let first = first_is(&found, "bufferbloat")?;
    ensure!(found.len() == 1, "{found:#?}");
    ensure!(
        figure(first, "srtt_us")? > 40_000.0 && figure(first, "min_rtt_us")? < 20_000.0,
        "{first}"
    );
    Ok(())
}

/// The reader takes its time, and has a small buffer.
fn rwnd_limited() -> Result<()> {
    let net = Net::new()?;
    net.b.sysctl("ipv4/tcp_rmem", "4096 8192 8192")?;
    let server = listener(&net, V6)?;
    let slowly = |mut stream: TcpStream| {
        let mut buffer = [0; 1000];
        while stream.read(&mut buffer)? > 0 {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    let found = findings(&[&net.a], TIME, || session(&net, &server, send, slowly))?;
    // Where the window closes altogether, that is said instead.
    let kinds = ["rwnd_limited", "peer_window_zero"];
    let first = found.first().context("nothing found")?;
    ensure!(
        kinds.iter().any(|kind| first["kind"] == *kind),
        "{found:#?}"
    );
    Ok(())
}
