// SPDX-License-Identifier: MIT OR Apache-2.0
//! SYNs and SYN/ACKs that are sent again.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use nix::libc;
use serde_json::json;

use super::{agree, same};
use crate::{
    pair::{Pair, filter, pass},
    peer::Agent,
};

pub fn lost_syn(mut pair: Pair, host: &str) -> Result<()> {
    let (listener, at) = pair.s.listen(host)?;
    filter(&pair.net.b, "prerouting", "meta l4proto tcp drop")?;
    let fd = pair.c.open(&at)?;
    pair.c.begin(&format!("connect {fd} {at}"))?;
    let row = pair.row("the second SYN", |row| row["attempt"] == 1)?;
    pass(&pair.net.b)?;
    ensure!(pair.c.finish()?.is_ok());
    let (rows, sides) = pair.finish()?;
    ensure!(row["state"] == "SYN_SENT" && row["kind"] == "syn", "{row}");
    ensure!(row["tcp_flags"] == "SYN" && row["len_bytes"] == 0, "{row}");
    ensure!(
        row["pid"] == sides[0].pid && row["pid_source"] == "socket",
        "{row}"
    );
    let _ = listener;
    agree(&rows, &sides)
}

pub fn lost_synack(mut pair: Pair, host: &str) -> Result<()> {
    let (_, at) = pair.s.listen(host)?;
    filter(&pair.net.a, "prerouting", "meta l4proto tcp drop")?;
    let fd = pair.c.open(&at)?;
    pair.c.begin(&format!("connect {fd} {at}"))?;
    let row = pair.row("the second SYN/ACK", |row| {
        row["attempt"] == 2 && row["kind"] == "synack"
    })?;
    pass(&pair.net.a)?;
    ensure!(pair.c.finish()?.is_ok());
    let (local, remote) = pair.ports(fd)?;
    let (rows, sides) = pair.finish()?;
    let want = json!({"lport": remote, "rport": local, "state": "SYN_RECV", "tcp_flags": "SYN|ACK", "segs": 1,
        "pid": sides[1].pid, "pid_source": "listener", "comm": "server", "syn_queue": 1, "accept_queue": 0,
        "accept_queue_max": 128, "srtt_us": null, "rto_us": null});
    same(&row, &want)?;
    ensure!(
        !rows
            .iter()
            .any(|row| sides[0].is(row) && row["kind"] != "syn"),
        "{rows:?}"
    );
    agree(&rows, &sides)
}

/// Handshakes that end while the accept queue has no room: the SYN/ACKs are sent again, and say why.
pub fn full_listen_queue(mut pair: Pair, host: &str) -> Result<()> {
    pair.net.b.sysctl("core/somaxconn", "3")?;
    let (listener, at) = pair.s.listen(host)?;
    for n in 0..6 {
        // Three fill the queue; of three more the ACK is late, and one of these still finds room.
        if n == 3 {
            filter(
                &pair.net.b,
                "prerouting",
                "tcp flags & (syn | ack) == ack drop",
            )?;
        }
        let fd = pair.c.open(&at)?;
        pair.c.run(&format!("connect {fd} {at}"))?;
    }
    pass(&pair.net.b)?;
    let row = pair.row("a SYN/ACK from a full listener", |row| {
        row["accept_queue"] == 4
    })?;
    for _ in 0..6 {
        pair.s.number(&format!("accept {listener}"))?;
    }
    let (rows, sides) = pair.finish()?;
    same(
        &row,
        &json!({"kind": "synack", "accept_queue_max": 3, "pid": sides[1].pid, "pid_source": "listener"}),
    )?;
    agree(&rows, &sides)
}

/// The listener's descriptor in this process too, which is not its owner.
fn borrowed(agent: &Agent, fd: u64) -> Result<OwnedFd> {
    // SAFETY: two system calls on numbers; each returns a new descriptor, or -1, which is looked at.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, agent.pid(), 0);
        ensure!(
            pidfd >= 0,
            "pidfd_open: {}",
            std::io::Error::last_os_error()
        );
        let pidfd = OwnedFd::from_raw_fd(pidfd as i32);
        let copy = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0);
        ensure!(
            copy >= 0,
            "pidfd_getfd: {}",
            std::io::Error::last_os_error()
        );
        Ok(OwnedFd::from_raw_fd(copy as i32))
    }
}

/// Calls accept() all the time, so that the listener's lock is mostly held, while `body` runs.
pub fn busy<T>(
    agent: &mut Agent,
    listener: u64,
    body: impl FnOnce(&mut Agent) -> Result<T>,
) -> Result<T> {
    agent.run(&format!("nonblock {listener}"))?;
    let fd = borrowed(agent, listener)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Nobody is there; the lock is what counts.
                let _ = nix::sys::socket::accept(fd.as_raw_fd());
            }
        });
        let result = body(agent);
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Another process holds the listener's lock all the time: it is not the owner.
pub fn listener_handed_over(mut pair: Pair, host: &str) -> Result<()> {
    let (listener, at) = pair.s.listen(host)?;
    filter(&pair.net.a, "prerouting", "meta l4proto tcp drop")?;
    let mut opens = Vec::new();
    for _ in 0..20 {
        let fd = pair.c.open(&at)?;
        opens.push(fd);
        pair.c.run(&format!("nonblock {fd}"))?;
        pair.c
            .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    }
    let (tool, server) = (&pair.tool, &mut pair.s);
    busy(server, listener, |_| tool.wait_lines(60))?;
    // Or retransmissions went on between the tool's end and the look at the counters.
    for fd in opens {
        pair.c.run(&format!("close {fd}"))?;
    }
    pair.s.run(&format!("close {listener}"))?;
    let (rows, sides) = pair.finish()?;
    let answers: Vec<_> = rows.iter().filter(|row| row["kind"] == "synack").collect();
    ensure!(answers.len() >= 20, "{} SYN/ACKs", answers.len());
    for row in answers {
        same(
            row,
            &json!({"pid": sides[1].pid, "pid_source": "listener", "comm": "server"}),
        )?;
    }
    agree(&rows, &sides)
}

/// Data that went with the SYN and was not taken goes again, which is none of the causes.
pub fn fast_open_not_taken(mut pair: Pair, host: &str) -> Result<()> {
    pair.net.a.sysctl("ipv4/tcp_fastopen", "5")?; // data in the SYN without a cookie
    let (listener, at) = pair.s.listen(host)?;
    let fd = pair.c.open(&at)?;
    pair.c.run(&format!("fastopen {fd} {at} 300"))?;
    let accepted = pair.s.number(&format!("accept {listener}"))?;
    pair.s.run(&format!("recv {accepted} 300"))?;
    pair.tool.wait_lines(1)?;
    let (rows, sides) = pair.finish()?;
    same(
        &rows[0],
        &json!({"kind": "other", "len_bytes": 300, "state": "ESTABLISHED"}),
    )?;
    let again = (
        sides[0].counter("Tcp.RetransSegs")?,
        sides[0].counter("TcpExt.TCPSlowStartRetrans")?,
    );
    // Kernels before 5.15 send it without entering Loss, and count it in RetransSegs alone.
    let slow_start = u64::from(rows[0]["ca_state"] == "loss");
    ensure!(
        again == (1, slow_start) && rows.len() == 1,
        "{again:?}: {rows:?}"
    );
    Ok(())
}
