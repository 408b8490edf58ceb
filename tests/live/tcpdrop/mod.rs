// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpdrop against what the test has made the kernel throw away: reason by reason, and row by row of the namespace's own
//! counters.

mod paths;
mod segments;
mod shapes;
mod sockets;

use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::{Value, json};
use tcptools::kernel::{enums::Names, tracepoints::arguments};

use crate::{
    missing::Missing,
    net::Netns,
    pair::{Pair, trials},
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let all = |name, play| trials("tcpdrop", &[], name, play);
    let v4_only = |name, play| all(name, play).into_iter().take(1).collect();
    [
        all("firewall_input", paths::firewall_input),
        all("firewall_output", paths::firewall_output),
        all("firewall_forward", paths::firewall_forward),
        all("no_route", paths::no_route),
        v4_only("reverse_path", paths::reverse_path),
        all("bad_checksum", segments::bad_checksum),
        all("old_timestamp", segments::old_timestamp),
        all("out_of_window", segments::out_of_window),
        all("unsigned", segments::unsigned),
        all("listen_overflow", sockets::listen_overflow),
        all("no_socket", sockets::no_socket),
        all("backlog", sockets::backlog),
        all("socket_filter", sockets::socket_filter),
        all("healthy", shapes::healthy),
        trials("tcpdrop", &["--all"], "harmless", shapes::harmless),
        trials(
            "tcpdrop",
            &["--reason", "NO_SOCKET"],
            "chosen",
            shapes::chosen,
        ),
        trials("tcpdrop", &["--summary"], "sums", shapes::sums),
        trials("tcpdrop", &["--stack"], "stacks", shapes::stacks),
        trials(
            "tcpdrop",
            &["--comm", "server"],
            "filtered",
            shapes::filtered,
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether the kernel gives reasons (since 5.17).
fn gives_reasons() -> bool {
    arguments::arguments("kfree_skb") > 2
}

/// Whether it says which socket a segment was for (since 6.11).
fn gives_sockets() -> bool {
    arguments::arguments("kfree_skb") > 3
}

/// Whether the kernel has a reason of this name.
fn knows(name: &str) -> bool {
    static NAMES: LazyLock<Names> =
        LazyLock::new(|| Names::from_kernel("skb_drop_reason", "SKB_DROP_REASON_"));
    NAMES.number(name).is_some()
}

/// The kernel reports what TCP throws away of a connection.
fn needs_drops_of_connections() -> Result<()> {
    match knows("TCP_OVERWINDOW") {
        true => Ok(()),
        false => Err(Missing::Feature("drops of connections as kfree_skb (since 5.18)").into()),
    }
}

/// A reason in a row that is expected: what an older kernel has no name for is NOT_SPECIFIED there, or nothing at all.
fn reason(name: &str) -> Value {
    match knows(name) {
        _ if !gives_reasons() => Value::Null,
        true => json!(name),
        false => json!("NOT_SPECIFIED"),
    }
}

/// The rows with this reason, of one side; of a kernel without reasons, all of that side.
fn of<'r>(rows: &'r [Value], ns: &Netns, name: &str) -> Vec<&'r Value> {
    let wanted = reason(name);
    let is = |row: &&Value| row["netns"] == ns.inode && row["reason"] == wanted;
    rows.iter().filter(is).collect()
}

/// Waits until there are so many rows with this reason, or more, and as many as the kernel says. Their number may grow
/// meanwhile: what was thrown away is sent again.
fn settled(
    pair: &Pair,
    ns: &Netns,
    name: &str,
    least: u64,
    counted: impl Fn() -> Result<u64>,
) -> Result<Vec<Value>> {
    let both = || -> Result<(Vec<Value>, u64)> {
        let before = counted()?;
        let rows = pair.tool.seen()?;
        Ok((of(&rows, ns, name).into_iter().cloned().collect(), before))
    };
    let equal = wait::until(name, PATIENCE, || {
        let (rows, counted) = both()?;
        let is = counted >= least && rows.len() as u64 == counted;
        Ok(is.then_some(rows))
    });
    equal.with_context(|| format!("{:#?} of {:#?}", both().ok(), pair.tool.seen().ok()))
}

/// Each of these fields.
fn agrees(row: &Value, want: &Value) -> Result<()> {
    for (key, value) in want.as_object().context("an object")? {
        ensure!(row[key] == *value, "{key} is not {value}: {row:#}");
    }
    Ok(())
}

/// How often the rule with a counter in the table `trouble` was met.
fn met(ns: &Netns) -> Result<u64> {
    let text = ns.feed(&["nft", "list", "table", "inet", "trouble"], "")?;
    let (_, after) = text.split_once("counter packets ").context("a counter")?;
    let number = after.split_whitespace().next().context("a number")?;
    Ok(number.parse()?)
}

/// A session that sends nothing again by itself, and every segment at once.
fn session(pair: &mut Pair, host: &str) -> Result<(u64, u64)> {
    pair.net.be_patient()?;
    let (c, s) = pair.session(host)?;
    pair.c.option(c, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    Ok((c, s))
}

/// Fields of a row of the server's, or the client's, end of a session.
fn owned(pair: &mut Pair, fd: u64, server: bool) -> Result<Value> {
    let (lport, rport) = pair.ports(fd)?;
    Ok(match server {
        true => {
            json!({"lport": rport, "rport": lport, "comm": "server", "pid": pair.s.pid(), "state": "ESTABLISHED"})
        }
        false => {
            json!({"lport": lport, "rport": rport, "comm": "client", "pid": pair.c.pid(), "state": "ESTABLISHED"})
        }
    })
}

/// The same, of a socket that only newer kernels tell.
fn told(owned: Value) -> Value {
    match gives_sockets() {
        true => owned,
        false => json!({"lport": owned["lport"], "rport": owned["rport"]}),
    }
}
