// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcpcong against losses that the test makes, TCP_INFO's state, and the kernel's own counters.

mod rows;
mod sums;

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    missing::needs_tracepoint_of,
    pair::{self, Pair, Side, filter, pass},
    tool::run,
    trial,
    wait::{self, PATIENCE},
};

/// Congestion states by their numbers in TCP_INFO.
const STATES: [&str; 5] = ["open", "disorder", "cwr", "recovery", "loss"];

pub fn tests() -> Vec<Trial> {
    [rows::tests(), sums::tests()]
        .into_iter()
        .flatten()
        .chain([trial("tcpcong::arguments", arguments)])
        .collect()
}

/// As of every command that shows trouble, where the kernel has the tracepoint.
fn trials(
    args: &'static [&'static str],
    name: &str,
    play: fn(Pair, &str) -> Result<()>,
) -> Vec<Trial> {
    match needs_tracepoint_of("tcpcong") {
        Ok(()) => pair::trials("tcpcong", args, name, play),
        Err(_) => vec![trial(format!("tcpcong::{name}"), || {
            needs_tracepoint_of("tcpcong")
        })],
    }
}

/// The oldest algorithm, which sets a threshold, whatever the host's is.
fn reno(pair: &Pair) -> Result<()> {
    for ns in [&pair.net.a, &pair.net.b] {
        ns.sysctl("ipv4/tcp_congestion_control", "reno")?;
    }
    Ok(())
}

/// The state of the client's socket, as TCP_INFO has it.
fn ca_state(pair: &mut Pair, fd: u64) -> Result<&'static str> {
    let state = pair.c.info(fd)?["ca_state"];
    STATES.get(state as usize).copied().context("a state")
}

/// Waits until one of the client's counters has grown so far.
fn until(pair: &Pair, counter: &str, least: u64) -> Result<()> {
    wait::until(counter, PATIENCE, || {
        Ok((pair.net.a.counters()?[counter] >= least).then_some(()))
    })
}

/// The client sends what is lost until the timer has fired so often.
fn time_out(pair: &mut Pair, (c, s): (u64, u64), timeouts: u64) -> Result<()> {
    pair.s.run(&format!("drop {s}"))?;
    pair.c.run(&format!("send {c} 700"))?;
    until(pair, "TcpExt.TCPTimeouts", timeouts)
}

/// It arrives at last.
fn recover(pair: &mut Pair, (c, s): (u64, u64)) -> Result<()> {
    pair.s.run(&format!("undrop {s}"))?;
    pair.s.run(&format!("recv {s} 700"))?;
    pair.c.run(&format!("drained {c}")).map(drop)
}

/// Much, some of which is lost on its way, and more than once.
fn lossy(pair: &mut Pair, (c, s): (u64, u64)) -> Result<()> {
    // Small trains of segments: enough of them to lose some.
    pair.net.a.ip("link set v0 gso_max_segs 2")?;
    filter(
        &pair.net.b,
        "prerouting",
        "meta l4proto tcp numgen random mod 100 < 3 drop",
    )?;
    pair.c.begin(&format!("send {c} 3000000"))?;
    pair.s.run(&format!("recv {s} 3000000"))?;
    ensure!(pair.c.finish()?.is_ok());
    pair.c.run(&format!("drained {c}"))?;
    pass(&pair.net.b)
}

/// Nothing of either end is left.
fn close(pair: &mut Pair, (c, s): (u64, u64)) -> Result<()> {
    let (local, remote) = pair.ports(c)?;
    pair.c.run(&format!("close {c}"))?;
    pair.s.run(&format!("eof {s}"))?;
    pair.s.run(&format!("close {s}"))?;
    pair.net.a.over(local, remote)?;
    pair.net.b.over(remote, local)
}

/// How often a state was entered, by the kernel's counters: all but the second are exact.
fn entered(side: &Side) -> Result<HashMap<&'static str, u64>> {
    let counter = |name: &str| side.counter(&format!("TcpExt.{name}"));
    Ok(HashMap::from([
        (
            "recovery",
            counter("TCPSackRecovery")? + counter("TCPRenoRecovery")?,
        ),
        ("loss", counter("TCPTimeouts")?),
    ]))
}

fn number(row: &Value, key: &str) -> Result<u64> {
    row[key].as_u64().with_context(|| format!("{key} of {row}"))
}

/// What would have no effect is refused.
fn arguments() -> Result<()> {
    for (args, reason) in [
        (&["--old", "established"][..], "not a congestion state"),
        (&["--old", "closed"], "'closed'"),
        (&["--new", "loss,"], "empty element"),
        (&["--min-ms", "x"], "--min-ms"),
        (&["--summary", "--min-ms", "1"], "--min-ms"),
        (&["--summary", "--hist"], "--hist"),
        (&["--hist", "--new", "loss"], "--new"),
        (&["--by", "comm"], "--summary"),
        (&["--top", "3"], "--summary"),
        (&["--refresh", "1"], "--hist"),
        (&["--hist", "--columns", "pid"], "no columns"),
        (&["--summary=0"], "'0'"),
        (&["--mptcp"], "subflows"),
    ] {
        let run = run("tcpcong", args)?;
        ensure!(run.status.code() == Some(2), "{args:?}: {run:?}");
        ensure!(
            run.stderr.contains(reason) && run.stderr.lines().count() == 1,
            "{args:?}: {run:?}"
        );
    }
    Ok(())
}
