// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connections that follow one another without a rest, on all processors, with few slots for them.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{HOSTS, Pair, owners_are_right, watch};
use crate::{missing, net::Net, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        // One bucket, one of some, and as many as usual.
        trial("table::storm_one_bucket", || counted(&["--sockets", "1"])),
        trial("table::storm_few_buckets", || counted(&["--sockets", "32"])),
        trial("table::storm", || counted(&[])),
        trial("table::storm_visited_one_bucket", || {
            visited(&["--sockets", "1"])
        }),
        trial("table::storm_visited", || visited(&[])),
        trial("table::storm_preempted", preempted),
    ]
}

/// Opens of a pair for each host.
const OPENS: u64 = 1200;

/// The kernel's own counters of both namespaces.
fn counters(net: &Net) -> Result<[HashMap<String, u64>; 2]> {
    Ok([net.a.counters()?, net.b.counters()?])
}

/// How a pair runs, by its number.
type Prepare = fn(usize) -> Vec<String>;

/// On a processor of its own, as far as there are some.
fn apart(number: usize) -> Vec<String> {
    vec![format!("pin {number}")]
}

/// So many pairs at the same time, to each host in turn.
fn rage(net: &Net, count: usize, prepare: Prepare) -> Result<Vec<Pair>> {
    let mut all = Vec::new();
    for (turn, host) in HOSTS.iter().enumerate() {
        let number = |index| (turn * count + index) as u64;
        let pairs = (0..count).map(|index| Pair::new(net, number(index), host));
        let mut pairs = pairs.collect::<Result<Vec<_>>>()?;
        for (index, pair) in pairs.iter_mut().enumerate() {
            for command in prepare(index) {
                pair.c.run(&command)?;
                pair.s.run(&command)?;
            }
        }
        for Pair {
            c,
            s,
            listener,
            at,
            refuses,
            ..
        } in &mut pairs
        {
            s.begin(&format!("serve {listener} {OPENS}"))?;
            c.begin(&format!("storm {at} {host}:{refuses} {OPENS}"))?;
        }
        for pair in &mut pairs {
            for agent in [&mut pair.c, &mut pair.s] {
                let done = agent.finish()?;
                ensure!(done.is_ok(), "{done:?}");
            }
            pair.s.run(&format!("close {}", pair.listener))?;
        }
        all.extend(pairs);
    }
    Ok(all)
}

fn of(rows: &[Value], netns: u64) -> impl Iterator<Item = &Value> {
    rows.iter().filter(move |row| row["netns"] == netns)
}

/// A change to CLOSE that the kernel counts in EstabResets (net/ipv4/tcp.c: tcp_set_state).
fn is_estab_reset(state: &Value) -> bool {
    state == "ESTABLISHED" || state == "CLOSE_WAIT"
}

/// Two processors take slots of one bucket at once: each command's rows are as many as the kernel counts, and no row is
/// of the process that had, or gets, the slot.
fn counted(args: &[&str]) -> Result<()> {
    missing::needs_storage()?;
    let net = Net::new()?;
    let args = [&["--buffer", "16384"], args].concat();
    let start = |name| watch(&net, name, &args);
    let names = ["tcplife", "tcpconnect", "tcpaccept", "tcpstates", "tcpinfo"];
    let tools = names.map(start).into_iter().collect::<Result<Vec<_>>>()?;
    // Holds each file for a moment, and so is the last to have some that are closed meanwhile.
    let visitor = watch(&net, "tcplife", &[&args[..], &["--active=5ms"]].concat())?;
    let pairs = rage(&net, 2, apart)?;
    net.quiet()?;
    visitor.stop()?;
    let kernel = counters(&net)?;
    let rows = tools
        .into_iter()
        .map(|tool| tool.stop()?.rows())
        .collect::<Result<Vec<_>>>()?;
    for (name, rows) in names.iter().zip(&rows) {
        // A row of a child before it is established may have its listener's owner, which is the same.
        owners_are_right(rows, &pairs, false).context(*name)?;
    }
    let [lives, opens, accepts, states, infos] = &rows[..] else {
        unreachable!("as many as commands");
    };
    for (ns, kernel) in [&net.a, &net.b].into_iter().zip(&kernel) {
        let counter = |name: &str| kernel.get(name).copied().context("no counter");
        let (active, passive) = (counter("Tcp.ActiveOpens")?, counter("Tcp.PassiveOpens")?);
        let resets = counter("Tcp.EstabResets")?;
        let count = |rows: &[Value]| of(rows, ns.inode).count() as u64;
        let reset = of(lives, ns.inode).filter(|row| is_estab_reset(&row["state"]));
        let changed = of(states, ns.inode).filter(|row| row["new_state"] == "CLOSE");
        let changed = changed.filter(|row| is_estab_reset(&row["old_state"]));
        let found = [
            count(lives),
            count(opens),
            count(accepts),
            reset.count() as u64,
            changed.count() as u64,
            count(infos),
        ];
        let wanted = [
            active + passive,
            active,
            passive,
            resets,
            resets,
            active + passive,
        ];
        ensure!(found == wanted, "{found:?} rows, not {wanted:?}");
    }
    Ok(())
}

/// Sockets end, and others take their slots, while an iterator visits them.
fn visited(args: &[&str]) -> Result<()> {
    missing::needs_storage()?;
    let net = Net::new()?;
    let args = [&["--buffer", "16384", "--active=5ms"], args].concat();
    let tool = watch(&net, "tcplife", &args)?;
    // What is open meanwhile makes a visit long.
    let mut idle = Pair::new(&net, 100, HOSTS[0])?;
    idle.s.begin(&format!("welcome 2000 {}", idle.listener))?;
    idle.c.run(&format!("crowd 2000 {}", idle.at))?;
    ensure!(idle.s.finish()?.is_ok());
    let mut pairs = rage(&net, 2, apart)?;
    idle.c.run("disperse")?;
    idle.s.run("disperse")?;
    pairs.push(idle);
    net.quiet()?;
    let rows = tool.stop()?.rows()?;
    let (open, ended): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row["event"] == "active");
    ensure!(open.len() > 2000, "{} visits", open.len());
    // One that is just being made has no owner yet.
    owners_are_right(&open, &pairs, true).context("visited")?;
    owners_are_right(&ended, &pairs, false)?;
    // The same socket, whether it is visited or ends.
    let name = |row: &Value| ["cookie", "lport", "rport"].map(|key| row[key].to_string());
    let ended: HashSet<_> = ended.iter().map(name).collect();
    let stranger = open.iter().find(|row| !ended.contains(&name(row)));
    ensure!(stranger.is_none(), "{stranger:?}");
    let [a, b] = counters(&net)?;
    let opens = a["Tcp.ActiveOpens"] + b["Tcp.PassiveOpens"];
    ensure!(ended.len() as u64 == opens, "{} of {opens}", ended.len());
    Ok(())
}

/// On one processor, of different priority: one is preempted inside a program, and another takes the slot.
fn urgent(number: usize) -> Vec<String> {
    let priority = (number > 0).then(|| format!("realtime {number}"));
    [String::from("pin 0")]
        .into_iter()
        .chain(priority)
        .collect()
}

/// What all programs miss is said; nothing is of another process.
fn preempted() -> Result<()> {
    missing::needs_preemptible_tracepoints()?;
    let net = Net::new()?;
    let args = ["--buffer", "16384", "--sockets", "1"];
    let tool = watch(&net, "tcplife", &args)?;
    let pairs = rage(&net, 3, urgent)?;
    net.quiet()?;
    let run = tool.stop()?;
    let rows = run.rows()?;
    owners_are_right(&rows, &pairs, true)?;
    let [a, b] = counters(&net)?;
    let opens = a["Tcp.ActiveOpens"] + b["Tcp.PassiveOpens"];
    let records = run.records()?;
    let skipped = records.last().and_then(|last| last["skipped"].as_u64());
    let (rows, skipped) = (rows.len() as u64, skipped.context("no summary")?);
    ensure!(
        rows <= opens && rows + skipped >= opens,
        "{rows} rows and {skipped} skipped of {opens}"
    );
    Ok(())
}
