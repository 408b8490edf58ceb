// SPDX-License-Identifier: MIT OR Apache-2.0
//! An open that ICMP rejects while connect() still holds the socket: the error that the application gets, and the rows.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use crate::{
    net::{Net, Netns},
    pair::{filter, pass},
    peer::Agent,
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

/// What the application does between connect() and close().
#[derive(Clone, Copy, Debug)]
enum Ask {
    Nothing,
    /// SO_ERROR, which takes the error away.
    Error,
    /// The error queue, which then has it no more.
    Queue,
}

/// A firewall's answer, and what it is to an application: for IPv4, for IPv6.
const ANSWERS: [(&str, [i32; 2]); 3] = [
    ("port-unreachable", [libc::ECONNREFUSED, libc::ECONNREFUSED]),
    ("host-unreachable", [libc::EHOSTUNREACH, libc::EHOSTUNREACH]),
    ("admin-prohibited", [libc::EHOSTUNREACH, libc::EACCES]),
];

const PORT: u16 = 9999;

pub fn tests() -> Vec<Trial> {
    let one = |name: &'static str, host: &'static str, without: &'static str| {
        trial(name, move || rejected(host, without))
    };
    vec![
        one("errors::rejected_v4", "10.9.0.2", ""),
        one("errors::rejected_v6", "fd09::2", ""),
        one(
            "errors::rejected_without_ring_buffer_v4",
            "10.9.0.2",
            "ringbuf,mmap",
        ),
        one(
            "errors::rejected_without_ring_buffer_v6",
            "fd09::2",
            "ringbuf,mmap",
        ),
    ]
}

/// A socket's ports, and the error that its application got or would get.
struct Attempt {
    lport: u16,
    errno: i32,
}

fn rejected(host: &str, without: &str) -> Result<()> {
    let net = Net::new()?;
    for ns in [&net.a, &net.b] {
        ns.sysctl("ipv4/icmp_ratelimit", "0")?;
        ns.sysctl("ipv6/icmp/ratelimit", "0")?;
    }
    let mut client = net.a.agent()?;
    let netns = net.a.inode.to_string();
    let tools = ["tcpconnect", "tcplife", "tcpinfo"]
        .map(|name| Tool::start_reduced(without, name, &["--json", "--netns", &netns]));
    let mut attempts = Vec::new();
    for (answer, errnos) in ANSWERS {
        let errno = errnos[usize::from(host.contains(':'))];
        // On this host, and on the way.
        for (ns, hook) in [(&net.a, "output"), (&net.b, "input")] {
            filter(
                ns,
                hook,
                &format!("tcp dport {PORT} reject with icmpx type {answer}"),
            )?;
            for ask in [Ask::Nothing, Ask::Error, Ask::Queue] {
                attempts.push(attempt(&mut client, &net.a, host, ask, errno)?);
            }
            pass(ns)?;
        }
    }
    for (tool, key) in tools.into_iter().zip(["outcome", "close_reason", "event"]) {
        let rows = tool?.stop()?.rows()?;
        check(&rows, &attempts, key, without)?;
    }
    Ok(())
}

/// Without waiting for an answer, and an answer all the same.
fn attempt(client: &mut Agent, ns: &Netns, host: &str, ask: Ask, errno: i32) -> Result<Attempt> {
    let to = SocketAddr::new(host.parse()?, PORT);
    let fd = client.open(&to.to_string())?;
    if to.is_ipv6() {
        // Only then the error queue has an error of IPv6's.
        client.option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
    }
    client.run(&format!("nonblock {fd}"))?;
    let before = unreachables(ns)?;
    client.fails(&format!("connect {fd} {to}"), libc::EINPROGRESS)?;
    let local: SocketAddr = client.run(&format!("local {fd}"))?.parse()?;
    wait::until("the ICMP error", PATIENCE, || {
        Ok((unreachables(ns)? > before).then_some(()))
    })?;
    match ask {
        Ask::Nothing => {}
        Ask::Queue => client.run(&format!("errqueue {fd}")).map(drop)?,
        Ask::Error => {
            let got = client.run(&format!("error {fd}"))?;
            ensure!(got == errno.to_string(), "the application got {got}");
        }
    }
    client.run(&format!("close {fd}"))?;
    Ok(Attempt {
        lport: local.port(),
        errno,
    })
}

/// Received ICMP errors of both families.
fn unreachables(ns: &Netns) -> Result<u64> {
    let v6 = ns.inside(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp6")?))?;
    let line = v6
        .lines()
        .find(|line| line.starts_with("Icmp6InDestUnreachs"));
    let v6: u64 = line
        .and_then(|line| line.split_whitespace().nth(1))
        .context("no Icmp6InDestUnreachs")?
        .parse()?;
    let v4 = *ns
        .counters()?
        .get("Icmp.InDestUnreachs")
        .context("no counter")?;
    Ok(v4 + v6)
}

fn check(rows: &[Value], attempts: &[Attempt], key: &str, without: &str) -> Result<()> {
    for Attempt { lport, errno } in attempts {
        let mut found = rows.iter().filter(|row| row["lport"] == *lport);
        let (Some(row), None) = (found.next(), found.next()) else {
            bail!("not one row of {lport}: {rows:#?}");
        };
        let want = match (key, *errno) {
            ("event", _) => "attempt",
            (_, libc::ECONNREFUSED) => "refused",
            _ => "unreachable",
        };
        // Without its own programs tcpinfo has what the kernel says when the socket is gone, and that is no error.
        let untold = key == "event" && row["errno"].is_null() && !without.is_empty();
        ensure!(
            row[key] == want && (row["errno"] == *errno || untold),
            "{want} {errno}: {row}"
        );
    }
    ensure!(rows.len() == attempts.len(), "rows too many: {rows:#?}");
    Ok(())
}
