// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers and memory that are full, and segments that this host drops.

use std::{
    io::Write,
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc::{self, SO_RCVBUFFORCE, SOL_SOCKET};

use super::{
    findings, first_is, guide,
    path::{V4, V6, answer, ask, listener, read, send, session},
};
use crate::{
    missing::Missing,
    net::{Net, Netns},
    pair::filter,
    sockbuf::{Sysctl, any, flood, sink, udp_turn},
    trial_apart,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial_apart("triage::udp_overflow_v6", udp_overflow),
        trial_apart("triage::memory_pressure_v4", memory_pressure),
        trial_apart("triage::receive_buffer_pruned_v4", receive_buffer_pruned),
        trial_apart("triage::dropped_here::syns_v6", dropped_syns),
        trial_apart("triage::dropped_here::data_v4", dropped_data),
        trial_apart("triage::qdisc_drops_v6", qdisc_drops),
    ]
}

const TIME: Duration = Duration::from_secs(4);

/// A socket that nobody reads.
fn udp_overflow() -> Result<()> {
    let _turn = udp_turn();
    let ns = Netns::new()?;
    let mut agent = ns.agent()?;
    agent.comm("statsd")?;
    let (_, at) = sink(&mut agent, "[::1]:0", libc::AF_INET6)?;
    let found = guide::findings("udp_overflow", &[&ns], TIME, || {
        flood(&mut agent, libc::AF_INET6, &at, 900, 100)
    })?;
    let first = first_is(&found, "udp_overflow")?;
    ensure!(found.len() == 1, "{found:#?}");
    ensure!(first["subject"]["pid"] == agent.pid(), "{first}");
    let port: u64 = at.rsplit_once(':').context("a port")?.1.parse()?;
    ensure!(first["evidence"]["lport"] == port, "{first}");
    ensure!(first["next"] == format!("sockbuf -w -L {port}"), "{first}");
    Ok(())
}

/// All UDP sockets of the host have what they may have.
fn memory_pressure() -> Result<()> {
    let _turn = udp_turn();
    let ns = Netns::new()?;
    let mut agent = ns.agent()?;
    let fd = any(&mut agent, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    agent.option(fd, SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)?;
    agent.run(&format!("bind {fd} 127.0.0.1:0"))?;
    let at = agent.run(&format!("local {fd}"))?;
    let found = findings(&[&ns], TIME, || {
        let _low = Sysctl::set("/proc/sys/net/ipv4/udp_mem", "600 600 600")?;
        flood(&mut agent, libc::AF_INET, &at, 30_000, 400)
    })?;
    let first = first_is(&found, "memory_pressure")?;
    ensure!(found.len() == 1, "{found:#?}");
    ensure!(
        first["evidence"]["cause"] == "mem_max" && first["evidence"]["proto"] == "UDP",
        "{first}"
    );
    ensure!(first["subject"]["pid"] == agent.pid(), "{first}");
    Ok(())
}

/// Small segments take more memory than the window, which counts bytes, allows for.
fn receive_buffer_pruned() -> Result<()> {
    let net = Net::new()?;
    net.b.sysctl("ipv4/tcp_rmem", "4096 8192 8192")?;
    let server = listener(&net, V4)?;
    // Counters are read of namespaces that have a process.
    let _inside = net.b.agent()?;
    let dribble = |stream: TcpStream| {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(2500) {
            // Each a segment of its own: in a row, they would be put together. One that finds no room is left out.
            let _ = (&stream).write(b"x");
            thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    };
    let waits = |mut stream: TcpStream| {
        thread::sleep(Duration::from_secs(3));
        // Closing with unread data is another finding.
        std::io::copy(&mut stream, &mut std::io::sink())?;
        Ok(())
    };
    let found = findings(&[&net.b], TIME, || {
        thread::scope(|scope| {
            let sessions = (0..4).map(|_| scope.spawn(|| session(&net, &server, dribble, waits)));
            let sessions: Vec<_> = sessions.collect();
            let mut ended = sessions
                .into_iter()
                .map(|one| one.join().expect("no panic"));
            ended.try_for_each(|one| one)
        })
    })?;
    let first = first_is(&found, "receive_buffer_pruned")?;
    ensure!(first["subject"]["netns"] == net.b.inode, "{first}");
    ensure!(first["evidence"]["drops"].as_u64() > Some(0), "{first}");
    Ok(())
}

/// A rule of the server's host does not let its clients in.
fn dropped_syns() -> Result<()> {
    let net = Net::new()?;
    let (listener, at) = listener(&net, V6)?;
    filter(&net.b, "input", &format!("tcp dport {} drop", at.port()))?;
    let found = guide::findings("dropped_here", &[&net.b], TIME, || {
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    net.a.inside(|| {
                        let patience = Duration::from_millis(1500);
                        ensure!(TcpStream::connect_timeout(&at, patience).is_err());
                        Ok(())
                    })
                });
            }
        });
        Ok(())
    })?;
    drop(listener);
    let first = first_is(&found, "dropped_here")?;
    ensure!(found.len() == 1, "{found:#?}");
    ensure!(first["severity"] == "critical", "{first}");
    ensure!(
        first["subject"]["listener"] == at.to_string() && !first["subject"]["comm"].is_null(),
        "{first}"
    );
    ensure!(
        first["evidence"]["reason"] == "NETFILTER_DROP" && first["evidence"]["syns"] == 4,
        "{first}"
    );
    Ok(())
}

/// It loses some of the data of a connection: that is not the path's loss.
fn dropped_data() -> Result<()> {
    let net = Net::new()?;
    let server = listener(&net, V4)?;
    filter(
        &net.b,
        "input",
        "meta l4proto tcp numgen random mod 100 < 4 drop",
    )?;
    let found = findings(&[&net.a, &net.b], TIME, || {
        let ask = |stream| ask(stream, 40, Duration::from_millis(2));
        session(&net, &server, ask, |stream| answer(stream, 40))
    })?;
    let first = first_is(&found, "dropped_here")?;
    ensure!(
        found.iter().all(|one| one["kind"] != "path_loss"),
        "{found:#?}"
    );
    ensure!(
        first["subject"]["listener"] == server.1.to_string(),
        "{first}"
    );
    Ok(())
}

/// A short queue before a slow link.
fn qdisc_drops() -> Result<()> {
    let net = Net::new()?;
    let server = listener(&net, V6)?;
    let shaped = "tc qdisc add dev v0 root tbf rate 20mbit burst 8kb limit 16kb";
    let words: Vec<_> = shaped.split(' ').collect();
    if net.a.feed(&words, "").is_err() {
        return Err(Missing::Feature("CONFIG_NET_SCH_TBF, or tc").into());
    }
    let found = findings(&[&net.a], TIME, || session(&net, &server, send, read))?;
    first_is(&found, "qdisc_drops")?;
    Ok(())
}
