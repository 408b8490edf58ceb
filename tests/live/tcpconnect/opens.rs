// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpconnect and tcpaccept together under thousands of opens: their rows, their counts and the kernel's own counters
//! must agree.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt::Linger},
};
use serde_json::Value;

use crate::{
    net::Net,
    tool::Tool,
    trial,
    wait::{PATIENCE, until},
};

pub fn tests() -> Vec<Trial> {
    vec![trial("opens::thousands", thousands)]
}

const THREADS: u64 = 4;
const ROUNDS: u64 = 600;
/// Kept open by each thread.
const KEPT: u64 = 25;

/// What the clients saw.
#[derive(Default)]
struct Seen {
    established: u64,
    refused: u64,
    kept: Vec<TcpStream>,
}

fn client(servers: &[SocketAddr], seed: u64) -> Result<Seen> {
    let mut seen = Seen::default();
    for n in 0..ROUNDS {
        let mut to = servers[((n + seed) % servers.len() as u64) as usize];
        if n % 5 == 4 {
            to.set_port(1);
        }
        match TcpStream::connect(to) {
            Ok(stream) => {
                seen.established += 1;
                if seen.kept.len() < KEPT as usize {
                    seen.kept.push(stream);
                } else if n % 2 == 0 {
                    reset_on_close(&stream)?;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                seen.refused += 1
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(seen)
}

/// Accepts, and keeps what it accepts, until it is told to stop: a busy accept loop on the listener's lock.
fn server(listener: &TcpListener, stop: &AtomicBool) -> Result<Vec<TcpStream>> {
    listener.set_nonblocking(true)?;
    let mut accepted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => accepted.push(stream),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_micros(200));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(accepted)
}

/// Waits until the server has answered for each connection that its clients had for established. The last ACK of a
/// handshake is dropped at a full queue (tcp_v4_syn_recv_sock) and comes again after the SYN-ACK does; where a reset
/// overtakes it from another CPU no child is made, and the kernel counts a failed attempt (tcp_check_req).
fn handshakes_end(net: &Net, before: &HashMap<String, u64>, opened: u64) -> Result<()> {
    until("the handshakes to end", PATIENCE, || {
        let now = net.b.counters()?;
        let of = |name: &str| now[name] - before[name];
        let ended = of("Tcp.PassiveOpens") + of("Tcp.AttemptFails");
        Ok((ended >= opened).then_some(()))
    })
}

fn sum(rows: &[Value], field: &str, of: impl Fn(&Value) -> bool) -> u64 {
    let of = rows.iter().filter(|row| of(row));
    of.map(|row| row[field].as_u64().unwrap_or(0)).sum()
}

fn count(rows: &[Value], of: impl Fn(&Value) -> bool) -> u64 {
    rows.iter().filter(|row| of(row)).count() as u64
}

fn thousands() -> Result<()> {
    let net = Net::new()?;
    let (a, b) = (net.a.inode.to_string(), net.b.inode.to_string());
    let start = |tool: &str, ns: &str, args: &[&str]| {
        Tool::start(tool, &[&["--json", "--netns", ns], args].concat())
    };
    let connects = start("tcpconnect", &a, &[])?;
    let counts = start("tcpconnect", &a, &["-c"])?;
    let hist = start("tcpconnect", &a, &["--hist=raddr"])?;
    let accepts = start("tcpaccept", &b, &[])?;
    let summary = start("tcpaccept", &b, &["--summary"])?;
    // Only now: a process that another test is about to run has what is open here for a moment, and a look at all files
    // may find it there.
    let listeners = net.b.inside(|| {
        let at = ["10.9.0.2:0", "[fd09::2]:0", "[::]:0"];
        Ok(at
            .map(TcpListener::bind)
            .into_iter()
            .collect::<Result<Vec<_>, _>>()?)
    })?;
    let mut servers: Vec<SocketAddr> = Vec::new();
    for listener in &listeners {
        servers.push(listener.local_addr()?);
    }
    let dual = servers.pop().map_or(0, |at| at.port());
    servers.extend(
        ["10.9.0.2", "fd09::2"].map(|ip| SocketAddr::new(ip.parse().expect("an address"), dual)),
    );
    let before = (net.a.counters()?, net.b.counters()?);

    let stop = AtomicBool::new(false);
    let (seen, after) = thread::scope(|scope| -> Result<_> {
        let serving: Vec<_> = listeners
            .iter()
            .map(|l| scope.spawn(|| server(l, &stop)))
            .collect();
        let clients: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (net, servers) = (&net, &servers);
                scope.spawn(move || net.a.inside(|| client(servers, seed)))
            })
            .collect();
        let seen: Result<Vec<Seen>> = clients
            .into_iter()
            .map(|c| c.join().expect("no panic"))
            .collect();
        let opened = seen.iter().flatten().map(|seen| seen.established).sum();
        let ended = handshakes_end(&net, &before.1, opened);
        let after = ended.and_then(|()| Ok((net.a.counters()?, net.b.counters()?)));
        stop.store(true, Ordering::Relaxed);
        for server in serving {
            server.join().expect("no panic")?;
        }
        Ok((seen?, after?))
    })?;
    let established: u64 = seen.iter().map(|s| s.established).sum();
    let refused: u64 = seen.iter().map(|s| s.refused).sum();
    ensure!(refused == THREADS * ROUNDS / 5 && established == THREADS * ROUNDS - refused);

    let connects = connects.stop()?.rows()?;
    let is = |outcome: &'static str| move |row: &Value| row["outcome"] == outcome;
    let opened = count(&connects, is("established"));
    ensure!(opened == established, "{opened} rows of {established}");
    ensure!(count(&connects, is("refused")) == refused);
    let client = |name: &str| after.0[name] - before.0[name];
    let server = |name: &str| after.1[name] - before.1[name];
    // An open that waits long for its answer, as behind a full queue, has a row of its own for that.
    let opens = count(&connects, |row| row["event"] == "connect");
    ensure!(opens == client("Tcp.ActiveOpens"));
    ensure!(refused == client("Tcp.AttemptFails"));
    ensure!(client("Tcp.EstabResets") > 0, "resets are part of the test");
    let me = u64::from(std::process::id());
    ensure!(
        connects
            .iter()
            .all(|row| row["pid"] == me && row["lport"] != 0 && row["syn_sent"] == true)
    );
    // What is open still was opened, and not reset nor closed.
    ensure!(client("Tcp.CurrEstab") >= THREADS * KEPT);

    let accepts = accepts.stop()?.rows()?;
    ensure!(
        accepts.len() as u64 == server("Tcp.PassiveOpens"),
        "{} rows",
        accepts.len()
    );
    // Where the ACK of a handshake and the FIN behind it meet on two CPUs, the kernel makes a child of each. It counts
    // both, and closes the second before anybody could have it (inet_ehash_nolisten).
    let (open, second): (Vec<_>, Vec<_>) = accepts
        .iter()
        .partition(|row| row["state"] == "ESTABLISHED");
    ensure!(
        open.len() as u64 + server("Tcp.AttemptFails") == established
            && second.iter().all(|row| row["state"] == "CLOSE"),
        "{} of {established}, and {second:#?}",
        open.len()
    );
    let stranger = accepts
        .iter()
        .find(|row| row["pid"] != me || row["pid_source"] != "listener");
    ensure!(stranger.is_none(), "{stranger:?}");
    // The kernel refuses one only when there are more than the limit (sk_acceptq_is_full), and looks without a lock: each
    // CPU may let one more pass.
    let cpus = std::thread::available_parallelism()?.get() as u64;
    let queue = |row: &Value, key: &str| row[key].as_u64().unwrap_or(u64::MAX / 2);
    let fits = |row: &Value| queue(row, "accept_queue") <= queue(row, "accept_queue_max") + cpus;
    ensure!(accepts.iter().all(fits));

    let counts = counts.stop()?.rows()?;
    ensure!(sum(&counts, "count", is("established")) == established);
    ensure!(sum(&counts, "count", is("refused")) == refused);
    // Two addresses, and each three ports to which it connected.
    ensure!(counts.len() == 6, "{} flows", counts.len());
    let hist = hist.stop()?.rows()?;
    ensure!(hist.len() == 2 && sum(&hist, "count", |_| true) == established);
    let summary = summary.stop()?.rows()?;
    ensure!(
        summary.len() == listeners.len()
            && sum(&summary, "accepts", |_| true) == accepts.len() as u64
    );
    let longest = |row: &Value| {
        let of = accepts.iter().filter(|open| open["lport"] == row["lport"]);
        of.filter_map(|open| open["accept_queue"].as_u64()).max()
    };
    for row in &summary {
        ensure!(row["accept_queue_high"].as_u64() == longest(row), "{row}");
    }
    Ok(())
}

/// Dropping it will send a reset.
fn reset_on_close(stream: &TcpStream) -> Result<()> {
    let abort = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(setsockopt(&stream.as_fd(), Linger, &abort)?)
}
