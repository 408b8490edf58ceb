// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpretrans against losses that the test makes, and the kernel's own counters.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};

use crate::{
    missing::needs_failed_retransmissions,
    pair::{Pair, Side, filter, pass, trials},
    peer::Agent,
};

pub fn tests() -> Vec<Trial> {
    let all = |name, play| trials("tcpretrans", &["--failed"], name, play);
    [
        all("random_loss", random_loss),
        all("tail_loss", tail_loss),
        all("lost_syn", lost_syn),
        all("lost_synack", lost_synack),
        all("full_listen_queue", full_listen_queue),
        all("interface_down", interface_down),
        all("held_in_the_host", held_in_the_host),
        all("refused_by_a_local_rule", refused_by_a_local_rule),
        all("listener_in_other_hands", listener_in_other_hands),
        all("fast_open_not_taken", fast_open_not_taken),
        trials(
            "tcpretrans",
            &["--summary", "--by", "flow"],
            "totals",
            totals,
        ),
        trials("tcpretrans", &["--count"], "counts", counts),
        trials("tcpretrans", &["--stack"], "stacks", stacks),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Segments of the rows that are so.
fn segs(rows: &[Value], side: &Side, is_it: impl Fn(&Value) -> bool) -> u64 {
    let mine = rows.iter().filter(|row| side.is(row) && is_it(row));
    mine.map(|row| row["segs"].as_u64().unwrap_or_default())
        .sum()
}

/// The rows of each side against its counters.
fn agree(rows: &[Value], sides: &[Side; 2]) -> Result<()> {
    for side in sides {
        let sent = |row: &Value| row["counted"] == true;
        let kind = |kind: &'static str| move |row: &Value| row["err"] == 0 && row["kind"] == kind;
        let later =
            |row: &Value| row["err"] == 0 && row["ca_state"] == "loss" && row["timer"] == false;
        let timer = |row: &Value| row["timer"] == true;
        for (counter, rows, exact) in [
            ("Tcp.RetransSegs", segs(rows, side, sent), true),
            (
                "TcpExt.TCPSynRetrans",
                segs(rows, side, kind("syn")) + segs(rows, side, kind("synack")),
                true,
            ),
            (
                "TcpExt.TCPFastRetrans",
                segs(rows, side, kind("fast")),
                true,
            ),
            ("TcpExt.TCPSlowStartRetrans", segs(rows, side, later), true),
            ("TcpExt.TCPLossProbes", segs(rows, side, kind("tlp")), false),
            ("TcpExt.TCPTimeouts", segs(rows, side, timer), false),
        ] {
            let kernel = side.counter(counter)?;
            let good = if exact {
                rows == kernel
            } else {
                rows <= kernel
            };
            ensure!(
                good,
                "pid {}: {counter} is {kernel}, the rows have {rows}",
                side.pid
            );
        }
    }
    Ok(())
}

/// Both ways, and enough for fast recoveries and timeouts.
fn random_loss(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    for side in [&pair.net.a, &pair.net.b] {
        // Small trains of segments: enough of them to lose some, and rows of more than one segment all the same.
        side.ip("link set v0 gso_max_segs 4")?;
        filter(
            side,
            "prerouting",
            "meta l4proto tcp numgen random mod 100 < 3 drop",
        )?;
    }
    transfer(&mut pair.c, c, &mut pair.s, s)?;
    transfer(&mut pair.s, s, &mut pair.c, c)?;
    pass(&pair.net.a)?;
    pass(&pair.net.b)?;
    pair.c.run(&format!("close {c}"))?;
    pair.s.run(&format!("close {s}"))?;
    pair.net.quiet()?;
    let (rows, sides) = pair.finish()?;
    for side in &sides {
        ensure!(
            segs(&rows, side, |row| row["kind"] == "fast") > 0,
            "no fast retransmission"
        );
        let owned = |row: &Value| row["pid"] == side.pid && row["pid_source"] == "socket";
        ensure!(
            rows.iter().filter(|row| side.is(row)).all(owned),
            "an owner is missing: {rows:?}"
        );
    }
    agree(&rows, &sides)
}

fn transfer(sender: &mut Agent, from: u64, receiver: &mut Agent, to: u64) -> Result<()> {
    sender.begin(&format!("send {from} 4000000"))?;
    receiver.run(&format!("recv {to} 4000000"))?;
    ensure!(sender.finish()?.is_ok());
    sender.run(&format!("drained {from}")).map(drop)
}

/// The last segment is lost: a probe, then the timer.
fn tail_loss(mut pair: Pair, host: &str) -> Result<()> {
    let (c, s) = pair.session(host)?;
    pair.c.run(&format!("send {c} 300"))?;
    pair.s.run(&format!("recv {s} 300"))?;
    pair.c.run(&format!("drained {c}"))?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    let cookie = pair.c.number(&format!("cookie {c}"))?;
    let rto = pair.row("a second timeout", |row| {
        row["attempt"] == 2 && row["kind"] == "rto"
    })?;
    pair.s.run(&format!("undrop {s}"))?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("close {c}"))?;
    pair.s.run(&format!("close {s}"))?;
    pair.net.quiet()?;
    let (rows, sides) = pair.finish()?;
    // On a busy host the handshake may take longer than the timeout of a SYN.
    let tail: Vec<_> = rows.iter().filter(|row| row["len_bytes"] == 700).collect();
    let kinds: Vec<_> = tail.iter().take(3).map(|row| row["kind"].clone()).collect();
    ensure!(kinds == ["tlp", "rto", "rto"], "{rows:?}");
    for row in &tail[..3] {
        ensure!(row["cookie"] == cookie, "{row}");
        ensure!(
            row["state"] == "ESTABLISHED" && row["tcp_flags"] == "PSH|ACK",
            "{row}"
        );
        ensure!(
            row["in_flight_bytes"] == 700 && row["pid"] == sides[0].pid,
            "{row}"
        );
        ensure!(row["seq"] == tail[0]["seq"], "{row}");
    }
    ensure!(
        rto["ca_state"] == "loss" && rto["timer"] == true && rto["snd_cwnd"] == 1,
        "{rto}"
    );
    let doubled = tail[2]["rto_us"].as_u64() == tail[1]["rto_us"].as_u64().map(|us| us * 2);
    ensure!(doubled, "the timeout doubles: {rows:?}");
    agree(&rows, &sides)
}

fn lost_syn(mut pair: Pair, host: &str) -> Result<()> {
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

fn lost_synack(mut pair: Pair, host: &str) -> Result<()> {
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

fn same(row: &Value, want: &Value) -> Result<()> {
    for (key, value) in want.as_object().into_iter().flatten() {
        ensure!(row[key] == *value, "{key} is not {value}: {row}");
    }
    Ok(())
}

/// Handshakes that end while the accept queue has no room: the SYN/ACKs are sent again, and say why.
fn full_listen_queue(mut pair: Pair, host: &str) -> Result<()> {
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

/// Nothing can be sent: attempts fail, and are no retransmissions.
fn interface_down(mut pair: Pair, host: &str) -> Result<()> {
    needs_failed_retransmissions()?;
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    pair.net.a.ip("link set v0 down")?;
    let row = pair.row("an attempt that failed", |row| row["err"] != 0)?;
    for (agent, fd) in [(&mut pair.c, c), (&mut pair.s, s)] {
        agent.run(&format!("linger0 {fd}"))?;
        agent.run(&format!("close {fd}"))?;
    }
    pair.net.quiet()?;
    let (rows, sides) = pair.finish()?;
    ensure!(
        row["err"] == -113 && row["err_name"] == "EHOSTUNREACH",
        "{row}"
    );
    ensure!(row["pid"] == sides[0].pid, "{row}");
    agree(&rows, &sides)
}

/// The segment still waits in this host: sending it again is put off.
fn held_in_the_host(mut pair: Pair, host: &str) -> Result<()> {
    needs_failed_retransmissions()?;
    let (c, s) = pair.session(host)?;
    pair.net.hold(crate::net::Side::A)?;
    pair.c.run(&format!("send {c} 700"))?;
    let row = pair.row("an attempt that failed", |row| row["err"] != 0)?;
    pair.net.release(crate::net::Side::A)?;
    pair.s.run(&format!("recv {s} 700"))?;
    let (rows, sides) = pair.finish()?;
    ensure!(row["err"] == -16 && row["err_name"] == "EBUSY", "{row}");
    agree(&rows, &sides)
}

/// What is sent is lost there, and nothing more leaves from here.
pub fn refused_locally(pair: &mut Pair, host: &str) -> Result<(u64, u64)> {
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    filter(&pair.net.a, "output", "meta l4proto tcp drop")?;
    Ok((c, s))
}

/// A rule in the sender's own output: the kernel counts such a segment in RetransSegs, and in TCPRetransFail.
fn refused_by_a_local_rule(mut pair: Pair, host: &str) -> Result<()> {
    needs_failed_retransmissions()?;
    let (c, s) = refused_locally(&mut pair, host)?;
    pair.row("two attempts that failed", |row| {
        row["err_name"] == "EPERM" && row["attempt"] == 2
    })?;
    pass(&pair.net.a)?;
    pair.s.run(&format!("undrop {s}"))?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("drained {c}"))?;
    let (rows, sides) = pair.finish()?;
    let failed = segs(&rows, &sides[0], |row| row["err"] == -1);
    let sent = segs(&rows, &sides[0], |row| row["err"] == 0);
    let kernel = (
        sides[0].counter("Tcp.RetransSegs")?,
        sides[0].counter("TcpExt.TCPRetransFail")?,
    );
    ensure!(
        (sent + failed, failed) == kernel,
        "{kernel:?}, the rows: {sent} sent, {failed} failed"
    );
    Ok(())
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
fn listener_in_other_hands(mut pair: Pair, host: &str) -> Result<()> {
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

/// Some retransmissions of the client: a lost tail.
fn lose_tail(pair: &mut Pair, host: &str) -> Result<(u64, u64)> {
    let (c, s) = pair.session(host)?;
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    let timeouts = || Ok((pair.net.a.counters()?["Tcp.RetransSegs"] >= 3).then_some(()));
    crate::wait::until("three retransmissions", crate::wait::PATIENCE, timeouts)?;
    pair.s.run(&format!("undrop {s}"))?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("drained {c}"))?;
    Ok((c, s))
}

/// Of a socket that is closed, and of one that is open at the end.
fn totals(mut pair: Pair, host: &str) -> Result<()> {
    let (closed, peer) = lose_tail(&mut pair, host)?;
    pair.c.run(&format!("close {closed}"))?;
    pair.s.run(&format!("eof {peer}"))?;
    pair.s.run(&format!("close {peer}"))?;
    pair.net.quiet()?;
    let (open, _) = lose_tail(&mut pair, host)?;
    let (lport, _) = pair.ports(open)?;
    let inner = pair.tool.stop()?.rows()?;
    let kernel = pair.net.a.counters()?["Tcp.RetransSegs"];
    let sum: u64 = inner
        .iter()
        .filter_map(|row| row["retrans_segs"].as_u64())
        .sum();
    ensure!(
        inner.len() == 2 && sum == kernel,
        "{kernel} retransmissions: {inner:?}"
    );
    let mine = |row: &&Value| {
        row["key"]
            .as_str()
            .is_some_and(|key| key.contains(&format!(":{lport}>")))
    };
    ensure!(inner.iter().filter(mine).count() == 1, "{inner:?}");
    for row in &inner {
        let (again, sent) = (row["retrans_segs"].as_f64(), row["segs_out"].as_f64());
        let share = again.zip(sent).map(|(again, sent)| again * 100.0 / sent);
        let shown = row["retrans_percent"].as_f64();
        ensure!(
            share.zip(shown).is_some_and(|(a, b)| (a - b).abs() < 0.001),
            "{row}"
        );
        // SYN, ACK, 700 bytes, what was sent again, and the FIN and the last ACK of the closed one.
        let own = sent.zip(again).map(|(sent, again)| sent - again);
        ensure!(own == Some(3.0) || own == Some(5.0), "{row}");
    }
    Ok(())
}

/// Data that went with the SYN and was not taken goes again, which is none of the causes.
fn fast_open_not_taken(mut pair: Pair, host: &str) -> Result<()> {
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

fn counts(mut pair: Pair, host: &str) -> Result<()> {
    let (c, _) = lose_tail(&mut pair, host)?;
    let (lport, rport) = pair.ports(c)?;
    let rows = pair.tool.stop()?.rows()?;
    let kernel = pair.net.a.counters()?["Tcp.RetransSegs"];
    ensure!(rows.len() == 1, "{rows:?}");
    same(
        &rows[0],
        &json!({"lport": lport, "rport": rport, "count": kernel, "event": "count"}),
    )
}

fn stacks(mut pair: Pair, host: &str) -> Result<()> {
    lose_tail(&mut pair, host)?;
    let (rows, _) = pair.finish()?;
    let function = |row: &Value| row["stack"][0].as_str().unwrap_or_default().to_owned();
    for row in &rows {
        ensure!(function(row).starts_with("__tcp_retransmit_skb"), "{row}");
    }
    Ok(())
}
