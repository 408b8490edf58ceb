// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments that find no way: firewalls, routes.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use nix::libc;
use serde_json::{Value, json};

use super::{agrees, met, owned, reason, session, settled};
use crate::{
    net::Netns,
    pair::{Pair, filter},
    wait::{self, PATIENCE},
};

const DROP: &str = "meta l4proto tcp counter drop";

/// Where it is thrown away: nftables does it itself since 6.8 or so.
fn is_firewalls(row: &Value) -> Result<()> {
    let places = ["nft_do_chain", "nf_hook_slow"];
    ensure!(places.iter().any(|place| row["where"] == *place), "{row}");
    Ok(())
}

/// The receiver's firewall, behind the look for the socket of an established connection.
pub fn firewall_input(mut pair: Pair, host: &str) -> Result<()> {
    let (c, _) = session(&mut pair, host)?;
    filter(&pair.net.b, "input", DROP)?;
    for _ in 0..3 {
        pair.c.run(&format!("send {c} 100"))?;
    }
    let rows = settled(&pair, &pair.net.b, "NETFILTER_DROP", 3, || met(&pair.net.b))?;
    let owned = owned(&mut pair, c, true)?;
    let first = rows[0]["seq"].as_u64().context("seq")?;
    let mut sent = BTreeSet::new();
    for row in &rows {
        agrees(row, &owned)?;
        agrees(
            row,
            &json!({"event": "drop", "direction": "received", "flags": "PSH|ACK", "len_bytes": 100, "segs": 1,
                "ifname": "v0", "uid": 0}),
        )?;
        is_firewalls(row)?;
        ensure!(!row["ifindex"].is_null(), "{row}");
        let seq = row["seq"].as_u64().context("seq")?;
        sent.insert(seq.wrapping_sub(first) & 0xffff_ffff);
    }
    // A loss probe sends the last one again.
    ensure!(sent.into_iter().eq([0, 100, 200]), "{rows:#?}");
    pair.finish().map(drop)
}

/// The sender's.
pub fn firewall_output(mut pair: Pair, host: &str) -> Result<()> {
    let (c, _) = session(&mut pair, host)?;
    filter(&pair.net.a, "output", DROP)?;
    pair.c.run(&format!("send {c} 100"))?;
    let rows = settled(&pair, &pair.net.a, "NETFILTER_DROP", 1, || met(&pair.net.a))?;
    let owned = owned(&mut pair, c, false)?;
    for row in &rows {
        agrees(row, &owned)?;
        agrees(row, &json!({"direction": "sent", "len_bytes": 100}))?;
        is_firewalls(row)?;
    }
    pair.finish().map(drop)
}

/// A router's: neither end is here.
pub fn firewall_forward(mut pair: Pair, host: &str) -> Result<()> {
    let far = Netns::new()?;
    let b = &pair.net.b;
    b.ip(&format!(
        "link add w0 type veth peer name w1 netns {}\naddr add 10.8.0.2/24 dev w0\n\
         addr add fd08::2/64 dev w0 nodad\nlink set w0 up",
        far.path()
    ))?;
    far.ip("addr add 10.8.0.3/24 dev w1\naddr add fd08::3/64 dev w1 nodad\nlink set w1 up")?;
    b.sysctl("ipv4/ip_forward", "1")?;
    b.sysctl("ipv6/conf/all/forwarding", "1")?;
    pair.net
        .a
        .ip("route add 10.8.0.0/24 via 10.9.0.2\nroute add fd08::/64 via fd09::2")?;
    filter(b, "forward", DROP)?;
    let (at, to, from) = match host.starts_with('[') {
        true => ("[fd08::3]:9", "fd08::3", "fd09::1"),
        false => ("10.8.0.3:9", "10.8.0.3", "10.9.0.1"),
    };
    let fd = pair.c.open(at)?;
    pair.c.run(&format!("nonblock {fd}"))?;
    pair.c
        .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    let rows = settled(&pair, &pair.net.b, "NETFILTER_DROP", 1, || met(&pair.net.b))?;
    for row in &rows {
        agrees(
            row,
            &json!({"direction": "forwarded", "laddr": to, "lport": 9, "raddr": from, "flags": "SYN",
                "pid": null, "comm": null, "uid": null, "cookie": null, "state": null, "len_bytes": 0}),
        )?;
    }
    pair.finish().map(drop)
}

/// Segments for which there was no route, as the kernel counts them.
fn out_no_routes(ns: &Netns, v6: bool) -> Result<u64> {
    if !v6 {
        return Ok(ns.counters()?["Ip.OutNoRoutes"]);
    }
    let text = ns.inside(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp6")?))?;
    let line = text.lines().find_map(|l| l.strip_prefix("Ip6OutNoRoutes"));
    Ok(line.context("a counter")?.trim().parse()?)
}

/// The route of a session is taken away.
pub fn no_route(mut pair: Pair, host: &str) -> Result<()> {
    let v6 = host.starts_with('[');
    let (c, _) = session(&mut pair, host)?;
    let before = out_no_routes(&pair.net.a, v6)?;
    pair.net.a.ip(match v6 {
        true => "route del fd09::/64 dev v0",
        false => "route del 10.9.0.0/24 dev v0",
    })?;
    pair.c.run(&format!("send {c} 100"))?;
    let place = match v6 {
        true => "inet6_csk_xmit",
        false => "__ip_queue_xmit",
    };
    let first = wait::until("a segment without a route", PATIENCE, || {
        let rows = pair.tool.seen()?;
        let mut ours = rows.iter().filter(|row| row["where"] == place);
        Ok(ours.next().map(|row| row["reason"].clone()))
    })?;
    // Of IPv6 the kernel gives a reason since 7.0 or so.
    let name = match v6 && first == "NOT_SPECIFIED" {
        true => "NOT_SPECIFIED",
        false => "IP_OUTNOROUTES",
    };
    let counted = || Ok(out_no_routes(&pair.net.a, v6)? - before);
    let rows = settled(&pair, &pair.net.a, name, 1, counted)?;
    let owned = owned(&mut pair, c, false)?;
    for row in &rows {
        agrees(row, &owned)?;
        agrees(
            row,
            &json!({"direction": "sent", "len_bytes": 100, "where": place, "ifname": null}),
        )?;
    }
    pair.finish().map(drop)
}

/// A source to which the way leads elsewhere.
pub fn reverse_path(mut pair: Pair, host: &str) -> Result<()> {
    for of in ["all", "v0"] {
        let path = format!("ipv4/conf/{of}/rp_filter");
        pair.net.b.sysctl(&path, "1")?;
    }
    pair.net.a.ip("addr add 10.88.0.1/24 dev v0")?;
    let at = host.replace(":0", ":9");
    let fd = pair.c.open(&at)?;
    pair.c.run(&format!("bind {fd} 10.88.0.1:0"))?;
    pair.c.run(&format!("nonblock {fd}"))?;
    pair.c
        .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    let counted = || Ok(pair.net.b.counters()?["TcpExt.IPReversePathFilter"]);
    let rows = settled(&pair, &pair.net.b, "IP_RPFILTER", 1, counted)?;
    for row in &rows {
        agrees(
            row,
            &json!({"direction": "received", "raddr": "10.88.0.1", "lport": 9, "flags": "SYN", "pid": null,
                "ifname": "v0", "reason": reason("IP_RPFILTER")}),
        )?;
    }
    pair.finish().map(drop)
}
