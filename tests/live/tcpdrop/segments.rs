// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments that are wrong: checksums, timestamps, sequence numbers.

use std::net::IpAddr;

use anyhow::{Context, Result};
use nix::libc;
use serde_json::json;

use super::{
    agrees, gives_sockets, met, needs_drops_of_connections, owned, session, settled, told,
};
use crate::{
    missing::Missing,
    pair::{Pair, filter, pass},
};

/// `include/uapi/linux/tcp.h`
const TCP_TIMESTAMP: i32 = 24;

/// From port 1111 to port 9: a SYN with the sequence number 0x01020304 and a wrong checksum.
const SYN: &str = "0457000901020304000000005002100012340000";

/// Segments of a raw socket.
pub fn bad_checksum(mut pair: Pair, host: &str) -> Result<()> {
    const TIMES: u64 = 3;
    let family = match host.starts_with('[') {
        true => libc::AF_INET6,
        false => libc::AF_INET,
    };
    let (kind, protocol) = (libc::SOCK_RAW, libc::IPPROTO_TCP);
    let fd = pair.c.number(&format!("any {family} {kind} {protocol}"))?;
    for _ in 0..TIMES {
        pair.c.run(&format!("sendhex {fd} {host} {SYN}"))?;
    }
    let counted = || Ok(pair.net.b.counters()?["Tcp.InCsumErrors"]);
    let rows = settled(&pair, &pair.net.b, "TCP_CSUM", TIMES, counted)?;
    for row in &rows {
        agrees(
            row,
            &json!({"direction": "received", "flags": "SYN", "seq": 0x0102_0304, "lport": 9, "rport": 1111,
                "pid": null, "state": null, "len_bytes": 0}),
        )?;
    }
    pair.finish().map(drop)
}

/// `struct tcp_md5sig` of `include/uapi/linux/tcp.h`, in hexadecimal digits: the other end's address, and a key.
fn md5_key(from: &str) -> Result<String> {
    let mut bytes = vec![0u8; 128 + 8 + 80];
    match from.parse()? {
        IpAddr::V4(ip) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes[8..24].copy_from_slice(&ip.octets());
        }
    }
    let key = b"secret";
    bytes[130..132].copy_from_slice(&(key.len() as u16).to_ne_bytes());
    bytes[136..136 + key.len()].copy_from_slice(key);
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A listener that asks for signatures, and a client that signs nothing.
pub fn unsigned(mut pair: Pair, host: &str) -> Result<()> {
    let from = match host.starts_with('[') {
        true => "fd09::1",
        false => "10.9.0.1",
    };
    let (listener, at) = pair.s.listen(host)?;
    let (level, name, key) = (libc::IPPROTO_TCP, libc::TCP_MD5SIG, md5_key(from)?);
    let set = format!("optionhex {listener} {level} {name} {key}");
    if pair.s.attempt(&set)?.is_err() {
        return Err(Missing::Feature("CONFIG_TCP_MD5SIG").into());
    }
    let fd = pair.c.open(&at)?;
    pair.c.run(&format!("nonblock {fd}"))?;
    pair.c
        .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    let counted = || Ok(pair.net.b.counters()?["TcpExt.TCPMD5NotFound"]);
    let rows = settled(&pair, &pair.net.b, "TCP_MD5NOTFOUND", 1, counted)?;
    for row in &rows {
        agrees(row, &json!({"direction": "received", "flags": "SYN"}))?;
        if gives_sockets() {
            agrees(row, &json!({"pid": pair.s.pid(), "state": "LISTEN"}))?;
        }
    }
    pair.finish().map(drop)
}

/// Segments whose timestamp is older than the last one.
pub fn old_timestamp(mut pair: Pair, host: &str) -> Result<()> {
    needs_drops_of_connections()?;
    let (c, _) = session(&mut pair, host)?;
    let (_, port) = pair.ports(c)?;
    let now = pair
        .c
        .number(&format!("value {c} {} {TCP_TIMESTAMP}", libc::IPPROTO_TCP))?;
    let old = (now as u32).wrapping_sub(1_000_000);
    let rule = format!("tcp dport {port} tcp option timestamp tsval set {old} counter");
    filter(&pair.net.b, "prerouting", &rule)?;
    for _ in 0..2 {
        pair.c.run(&format!("send {c} 100"))?;
    }
    let counted = || Ok(pair.net.b.counters()?["TcpExt.PAWSEstab"]);
    let rows = settled(&pair, &pair.net.b, "TCP_RFC7323_PAWS", 2, counted)?;
    let owned = told(owned(&mut pair, c, true)?);
    for row in &rows {
        agrees(row, &owned)?;
        agrees(row, &json!({"direction": "received", "len_bytes": 100}))?;
    }
    pair.finish().map(drop)
}

/// Segments from far beyond the window. What comes next is known from one that a firewall threw away.
pub fn out_of_window(mut pair: Pair, host: &str) -> Result<()> {
    needs_drops_of_connections()?;
    let (c, _) = session(&mut pair, host)?;
    let (_, port) = pair.ports(c)?;
    filter(&pair.net.b, "input", "meta l4proto tcp counter drop")?;
    pair.c.run(&format!("send {c} 100"))?;
    let rows = settled(&pair, &pair.net.b, "NETFILTER_DROP", 1, || met(&pair.net.b))?;
    let next = rows[0]["seq"].as_u64().context("seq")? as u32;
    pass(&pair.net.b)?;
    let far = next.wrapping_add(1 << 29);
    let rule = format!("tcp dport {port} tcp sequence set {far} counter");
    filter(&pair.net.b, "prerouting", &rule)?;
    pair.c.run(&format!("send {c} 100"))?;
    let name = "TCP_INVALID_SEQUENCE";
    let rows = settled(&pair, &pair.net.b, name, 1, || met(&pair.net.b))?;
    let owned = told(owned(&mut pair, c, true)?);
    for row in &rows {
        agrees(row, &owned)?;
        agrees(row, &json!({"seq": far, "len_bytes": 100}))?;
    }
    pair.finish().map(drop)
}
