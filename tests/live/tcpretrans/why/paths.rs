// SPDX-License-Identifier: MIT OR Apache-2.0
//! Drops that neither end makes: a router's, and those behind address translation.

use anyhow::{Context, Result};
use serde_json::json;

use super::{
    DATA, agrees, arrives, counted, dropped, dropped_at_home, found, lose, netfilter, payload,
    sent_once,
};
use crate::{
    missing::Missing,
    net::{Netns, Side},
    pair::Pair,
    peer::Agent,
};

/// A router between the two, in a namespace of its own: `b` forwards to it.
fn behind_router(pair: &Pair) -> Result<Netns> {
    let far = Netns::new()?;
    let b = &pair.net.b;
    b.ip(&format!(
        "link add w0 address 02:00:00:00:08:02 type veth peer name w1 address 02:00:00:00:08:03 netns {}\naddr add 10.8.0.2/24 dev w0\n\
         addr add fd08::2/64 dev w0 nodad\nlink set w0 up\n\
         neigh replace 10.8.0.3 dev w0 lladdr 02:00:00:00:08:03 nud permanent\n\
         neigh replace fd08::3 dev w0 lladdr 02:00:00:00:08:03 nud permanent",
        far.path()
    ))?;
    far.ip(
        "addr add 10.8.0.3/24 dev w1\naddr add fd08::3/64 dev w1 nodad\nlink set w1 up\n\
            neigh replace 10.8.0.2 dev w1 lladdr 02:00:00:00:08:02 nud permanent\n\
            neigh replace fd08::2 dev w1 lladdr 02:00:00:00:08:02 nud permanent\n\
            route add 10.9.0.0/24 via 10.8.0.2\nroute add fd09::/64 via fd08::2",
    )?;
    b.sysctl("ipv4/ip_forward", "1")?;
    b.sysctl("ipv6/conf/all/forwarding", "1")?;
    pair.net
        .a
        .ip("route add 10.8.0.0/24 via 10.9.0.2\nroute add fd08::/64 via fd09::2")?;
    Ok(far)
}

/// A session with whoever listens behind the router.
fn through_router(pair: &mut Pair, host: &str) -> Result<(Netns, Agent, u64, u64)> {
    let far = behind_router(pair)?;
    let mut server = far.agent()?;
    let at = match host.starts_with('[') {
        true => "[fd08::3]:0",
        false => "10.8.0.3:0",
    };
    let (listener, at) = server.listen(at)?;
    let c = pair.c.open(&at)?;
    pair.c.run(&format!("connect {c} {at}"))?;
    let s = server.number(&format!("accept {listener}"))?;
    Ok((far, server, c, s))
}

/// Neither end drops it.
pub fn router(mut pair: Pair, host: &str) -> Result<()> {
    let (_far, mut server, c, s) = through_router(&mut pair, host)?;
    lose(&pair.net.b, "forward", DATA)?;
    pair.c.run(&format!("send {c} 700"))?;
    dropped(&pair, 2)?;
    let met = found(&pair.net.b, "inet")?;
    server.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("drained {c}"))?;
    let by = netfilter(&pair.net.b);
    counted(pair, payload(&met, host), &by)
}

/// A segment that is too large for the way behind the router: the router's answer has it sent again at once.
pub fn too_large(mut pair: Pair, host: &str) -> Result<()> {
    let (_far, mut server, c, s) = through_router(&mut pair, host)?;
    pair.net.b.ip("link set w0 mtu 1300")?;
    pair.c.run(&format!("send {c} 1400"))?;
    server.run(&format!("recv {s} 1400"))?;
    pair.c.run(&format!("drained {c}"))?;
    let b = pair.net.b.inode;
    let (rows, _) = pair.finish()?;
    let data = |row: &&serde_json::Value| row["len_bytes"].as_u64() > Some(0);
    let first = rows.iter().find(data).context("a row")?;
    agrees(
        first,
        &json!({"dropped_here": true, "drop_netns": b, "drop_reason": "PKT_TOO_BIG"}),
    )
}

/// Behind a rule that changes the port, what is dropped may be the segment.
pub fn translated(mut pair: Pair, host: &str) -> Result<()> {
    let (listener, at) = pair.s.listen(host)?;
    let (address, port) = at.rsplit_once(':').context("a port")?;
    let nat = format!(
        "table inet change {{\n chain c {{\n type nat hook prerouting priority -100;\n tcp dport 9 redirect to :{port}\n }}\n}}\n"
    );
    if pair.net.b.nft(&nat).is_err() {
        return Err(Missing::Feature("CONFIG_NFT_REDIR").into());
    }
    let (c, s) = pair.connect(&format!("{address}:9"), listener)?;
    lose(&pair.net.b, "input", DATA)?;
    pair.c.run(&format!("send {c} 700"))?;
    let row = pair.row("a retransmission", |row| !row["drop_unknown"].is_null())?;
    found(&pair.net.b, "inet")?;
    arrives(&mut pair, c, s, 700)?;
    agrees(
        &row,
        &json!({"dropped_here": null, "drop_unknown": "translated", "drop_reason": "NETFILTER_DROP",
            "drop_netns": pair.net.b.inode}),
    )
}

/// A VXLAN tunnel between the two, over the link that they have.
fn dig_tunnel(pair: &Pair) -> Result<()> {
    for (side, own, other) in [(Side::A, 1, 2), (Side::B, 2, 1)] {
        let ns = pair.net.side(side);
        let link = format!(
            "link add x0 type vxlan id 7 dstport 4789 local 10.9.0.{own} remote 10.9.0.{other} dev v0\n"
        );
        if ns.ip(&link).is_err() {
            return Err(Missing::Feature("CONFIG_VXLAN").into());
        }
        ns.ip(&format!(
            "addr add 10.7.0.{own}/24 dev x0\naddr add fd07::{own}/64 dev x0 nodad\nlink set x0 up"
        ))?;
    }
    Ok(())
}

/// Inside a tunnel, whose packet is dropped: the addresses are those of the segment, not the tunnel's.
pub fn tunnel(mut pair: Pair, host: &str) -> Result<()> {
    dig_tunnel(&pair)?;
    let inside = match host.starts_with('[') {
        true => "[fd07::2]:0",
        false => "10.7.0.2:0",
    };
    let (c, s) = sent_once(&mut pair, inside)?;
    lose(&pair.net.a, "output", "udp dport 4789 meta length > 300")?;
    dropped_at_home(&pair, 2)?;
    pair.s.run(&format!("undrop {s}"))?;
    let met = found(&pair.net.a, "inet")?;
    arrives(&mut pair, c, s, 700)?;
    let by = netfilter(&pair.net.a);
    counted(pair, met.packets * 700, &by)
}
