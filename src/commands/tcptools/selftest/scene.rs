// SPDX-License-Identifier: MIT OR Apache-2.0
//! The traffic: sessions, refusals, resets, retransmissions, a full accept queue, a full buffer, over IPv4 and IPv6.

use std::io::{BufRead, Read, Write, stdin, stdout};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_name;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use serde_json::json;

use super::truth::Truth;
use crate::kernel::counters;

const HOSTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Of each kind, of each family.
const SESSIONS: u64 = 50;
const REFUSED: u64 = 10;
const RESETS: u64 = 10;

const REQUEST: [u8; 100] = [1; 100];
const ANSWER: [u8; 1000] = [2; 1000];

/// How long a server thinks: more than the resolution of any clock.
const THINKS: Duration = Duration::from_millis(5);

/// How long something may take that the kernel does by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The process's whole life: says which namespace it is in, waits for a line, makes the traffic, says what it was.
///
/// # Errors
/// A sentence: what could not be made.
pub(super) fn play() -> Result<()> {
    set_name(c"selftest")?;
    let netns = std::fs::metadata("/proc/self/ns/net")?.st_ino();
    say(&json!({"netns": netns}))?;
    let mut line = String::new();
    if stdin().lock().read_line(&mut line)? == 0 {
        return Ok(());
    }
    let before = counters::here()?;
    let mut truth = Truth::of(std::process::id());
    for host in HOSTS.into_iter().filter(|host| has(*host)) {
        refused(host)?;
        resets(host, &mut truth)?;
        filtered(host, &mut truth)?;
        overflow(host)?;
    }
    sessions(&mut truth)?;
    full_buffer()?;
    truth.count(&before)?;
    say(&truth.to_json())
}

fn say(value: &serde_json::Value) -> Result<()> {
    Ok(writeln!(stdout().lock(), "{value}")?)
}

/// Whether this host has the family at all.
fn has(host: IpAddr) -> bool {
    UdpSocket::bind((host, 0)).is_ok()
}

/// Until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_so()? {
        ensure!(begin.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn counter(name: &str) -> Result<u64> {
    Ok(counters::here()?.remove(name).unwrap_or_default())
}

/// Sessions one after the other, each with a request and its answer: all at one port, in both families.
fn sessions(truth: &mut Truth) -> Result<()> {
    let all = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0));
    let all = all.or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    let port = all.local_addr()?.port();
    truth.port = port.into();
    for host in HOSTS.into_iter().filter(|host| has(*host)) {
        for _ in 0..SESSIONS {
            let mut client = TcpStream::connect((host, port))?;
            let (mut server, _) = all.accept()?;
            client.write_all(&REQUEST)?;
            server.read_exact(&mut [0; REQUEST.len()])?;
            thread::sleep(THINKS);
            server.write_all(&ANSWER)?;
            drop(server);
            client.read_exact(&mut [0; ANSWER.len()])?;
            ensure!(client.read(&mut [0])? == 0, "more than was sent");
            truth.turns += 1;
            truth.bytes += (REQUEST.len() + ANSWER.len()) as u64;
        }
    }
    Ok(())
}

/// Nothing listens.
fn refused(host: IpAddr) -> Result<()> {
    let unused = TcpListener::bind((host, 0))?.local_addr()?;
    for _ in 0..REFUSED {
        ensure!(
            TcpStream::connect(unused).is_err(),
            "a port without a listener took a connection"
        );
    }
    Ok(())
}

/// A server closes before it has read what was sent (RFC 2525, section 2.17).
fn resets(host: IpAddr, truth: &mut Truth) -> Result<()> {
    let listener = TcpListener::bind((host, 0))?;
    for _ in 0..RESETS {
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        client.write_all(&REQUEST)?;
        truth.bytes += REQUEST.len() as u64;
        until("a request", || {
            Ok(server.peek(&mut [0; REQUEST.len()])? == REQUEST.len())
        })?;
        drop(server);
        until("a reset", || Ok(client.read(&mut [0]).is_err()))?;
    }
    Ok(())
}

/// A socket's filter throws away what comes, and the sender sends it again, until the filter is gone.
fn filtered(host: IpAddr, truth: &mut Truth) -> Result<()> {
    let listener = TcpListener::bind((host, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    if let Err(error) = filter(&server, true) {
        // The room for such programs of users without privileges may be full (net.core.bpf_jit_limit).
        truth.filtered = Err(format!("cannot set a socket's filter: {error}"));
        return Ok(());
    }
    client.write_all(&REQUEST)?;
    truth.bytes += REQUEST.len() as u64;
    let sent = || data_segs_out(&client);
    until("three retransmissions", || Ok(sent()? >= 4))?;
    filter(&server, false).context("cannot remove a socket's filter")?;
    let dropped = sent()?;
    truth.filtered = truth.filtered.clone().map(|before| before + dropped);
    server.read_exact(&mut [0; REQUEST.len()])?;
    drop(client);
    ensure!(server.read(&mut [0])? == 0, "more than was sent");
    Ok(())
}

/// `SO_ATTACH_FILTER` with a program that accepts no byte, or `SO_DETACH_FILTER` (socket(7)).
fn filter(socket: &TcpStream, on: bool) -> nix::Result<()> {
    let mut nothing = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &mut nothing,
    };
    let option = if on {
        libc::SO_ATTACH_FILTER
    } else {
        libc::SO_DETACH_FILTER
    };
    // SAFETY: the program and its one instruction live until the call returns, and the size is the program's.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    };
    Errno::result(done).map(drop)
}

/// `tcpi_data_segs_out`: segments with data, those sent again included (include/uapi/linux/tcp.h).
fn data_segs_out(socket: &TcpStream) -> Result<u64> {
    const OFFSET: usize = 156;
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which the array has, and says how many.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    Errno::result(done).context("no TCP_INFO")?;
    let bytes = info.get(OFFSET..OFFSET + 4).and_then(|b| b.try_into().ok());
    Ok(u32::from_ne_bytes(bytes.unwrap_or_default()).into())
}

/// More connections than a queue takes; then all are accepted after all. One at a time: of two at once, one would get a
/// SYN cookie, and a full queue forgets its ACK for ever.
fn overflow(host: IpAddr) -> Result<()> {
    let listener = listener(host)?;
    let at = listener.local_addr()?;
    let before = counter("TcpExtListenOverflows")?;
    // A backlog of one lets two wait (include/net/sock.h: sk_acceptq_is_full).
    let waiting = [TcpStream::connect(at)?, TcpStream::connect(at)?];
    let late = thread::spawn(move || TcpStream::connect(at));
    until("an overflow", || {
        Ok(counter("TcpExtListenOverflows")? > before)
    })?;
    for mut client in waiting {
        drop(listener.accept()?);
        ensure!(client.read(&mut [0])? == 0, "more than was sent");
    }
    drop(listener.accept()?);
    let Ok(client) = late.join() else {
        bail!("a client failed");
    };
    ensure!(client?.read(&mut [0])? == 0, "more than was sent");
    Ok(())
}

/// With a backlog of one.
fn listener(host: IpAddr) -> Result<TcpListener> {
    let family = match host {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let listener = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(
        listener.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(host, 0)),
    )?;
    listen(&listener, Backlog::new(1)?)?;
    Ok(listener.into())
}

/// Datagrams that nobody reads.
fn full_buffer() -> Result<()> {
    let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    setsockopt(&receiver, sockopt::RcvBuf, &8192)?;
    let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    sender.connect(receiver.local_addr()?)?;
    for _ in 0..100 {
        sender.send(&ANSWER)?;
    }
    Ok(())
}
