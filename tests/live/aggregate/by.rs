// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--by`: whoever made the connections is counted, and the counts add up to the kernel's own.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use crate::{
    cgroups::{Tree, root},
    net::Netns,
    pair::{Pair, filter, trials},
    peer::Agent,
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![
        trial("sums::by_name", by_name),
        trial("sums::by_several", by_several),
        trial("sums::by_container", by_container),
        trial("sums::by_interval", by_interval),
        trial("sums::by_records", by_records),
        trial("sums::sorted", sorted),
    ];
    tests.extend(trials("tcpretrans", &[], "sums_by_name", retransmissions));
    tests.extend(trials("tcpreset", &[], "sums_by_name", resets));
    tests
}

/// Names that would draw on a terminal, of as many bytes as a name has, and with blanks; each with how rows show it, and how
/// many connections it opens.
const NAMES: [(&str, &str, u64); 4] = [
    ("\u{1b}[2J\u{1b}[31mred", r"\x1b[2J\x1b[31mred", 7),
    ("exactly-15-byte", "exactly-15-byte", 5),
    ("two words", "two words", 3),
    ("a,b\u{202e}c", r"a\x2cb\xe2\x80\xaec", 2),
];

const LOOPBACK: &str = "127.0.0.1";

/// Opens and closes so many connections to a port.
fn connects(agent: &mut Agent, at: &str, count: u64) -> Result<()> {
    for _ in 0..count {
        let fd = agent.open(at)?;
        agent.run(&format!("connect {fd} {at}"))?;
        agent.run(&format!("close {fd}"))?;
    }
    Ok(())
}

/// So many connections of each name, to a listener in the same namespace; one more of the last is refused. The last agent
/// that is returned is the server.
fn generate(ns: &Netns, host: &str) -> Result<Vec<Agent>> {
    let mut server = ns.agent()?;
    server.comm("server")?;
    let (listener, at) = server.listen(&format!("{host}:0"))?;
    let mut clients = Vec::new();
    for (name, _, count) in NAMES {
        let mut client = ns.agent()?;
        client.comm(name)?;
        connects(&mut client, &at, count)?;
        clients.push(client);
    }
    server.run(&format!("close {listener}"))?;
    let last = clients.last_mut().context("a client")?;
    let fd = last.open(&at)?;
    last.fails(&format!("connect {fd} {at}"), libc::ECONNREFUSED)?;
    clients.push(server);
    Ok(clients)
}

/// What each key of rows adds up to.
pub(super) fn sums(rows: &[Value], keys: &[&str], figure: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for row in rows {
        let text = |key: &&str| match &row[*key] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let key = keys.iter().map(text).collect::<Vec<_>>().join(" ");
        *sums.entry(key).or_default() += row[figure].as_u64().unwrap_or(0);
    }
    sums
}

fn truth(last: u64) -> BTreeMap<String, u64> {
    let mut truth: BTreeMap<_, _> = NAMES
        .map(|(_, shown, count)| (shown.to_owned(), count))
        .into();
    *truth.entry(NAMES[3].1.to_owned()).or_default() += last;
    truth
}

/// Who makes all these connections: each name as often as it did, and all as often as ActiveOpens says. No name draws.
fn by_name() -> Result<()> {
    let ns = Netns::new()?;
    let inode = ns.inode.to_string();
    let watch = |args: &[&str]| {
        let count = ["-c", "--by", "comm", "--netns", &inode];
        Tool::start("tcpconnect", &[&count, args].concat())
    };
    let tools = [
        watch(&["--json"])?,
        watch(&[])?,
        watch(&["-w"])?,
        watch(&["--csv"])?,
    ];
    let agents = generate(&ns, LOOPBACK)?;
    let opens = ns.counters()?["Tcp.ActiveOpens"];
    drop(agents);
    let [json, tables @ ..] = tools;
    let rows = json.stop()?.rows()?;
    ensure!(sums(&rows, &["comm"], "count") == truth(1), "{rows:?}");
    ensure!(rows.iter().all(|row| row["by"] == "comm"), "{rows:?}");
    let refused = rows.iter().filter(|row| row["outcome"] == "refused");
    ensure!(
        refused.count() == 1 && rows.len() == NAMES.len() + 1,
        "{rows:?}"
    );
    let counted: u64 = sums(&rows, &["tool"], "count").values().sum();
    ensure!(counted == opens, "{opens} opens: {rows:?}");
    for table in tables {
        let run = table.stop()?;
        for line in &run.lines {
            ensure!(!line.contains(char::is_control), "{line:?}");
            ensure!(!line.contains('\u{202e}'), "{line:?}");
        }
        ensure!(run.lines.len() == rows.len() + 1, "{:?}", run.lines);
        let whole = run
            .lines
            .iter()
            .any(|line| line.starts_with("exactly-15-byte ") || line.contains(",exactly-15-byte,"));
        ensure!(whole, "{:?}", run.lines);
    }
    Ok(())
}

/// Several keys: each combination is a group. Everything else of a flow is left out.
fn by_several() -> Result<()> {
    let ns = Netns::new()?;
    let inode = ns.inode.to_string();
    let watch = |by: &str| {
        let args = ["--json", "-c", "--by", by, "--netns", &inode];
        Tool::start("tcpconnect", &args)
    };
    let (both, pids) = (watch("comm,pid,raddr")?, watch("pid")?);
    let (flows, units) = (watch("flow")?, watch("cgroup,uid,netns")?);
    let agents = generate(&ns, LOOPBACK)?;
    let truth: BTreeMap<_, _> = NAMES
        .iter()
        .zip(&agents)
        .map(|((_, shown, count), agent)| {
            let refused = u64::from(*shown == NAMES[3].1);
            let key = format!("{shown} {} 127.0.0.1", agent.pid());
            (key, count + refused)
        })
        .collect();
    let rows = both.stop()?.rows()?;
    let told = sums(&rows, &["comm", "pid", "raddr"], "count");
    ensure!(told == truth, "{truth:?}: {rows:?}");
    ensure!(
        rows.iter().all(|row| row.get("rport").is_none()),
        "{rows:?}"
    );
    let pids = pids.stop()?.rows()?;
    ensure!(
        sums(&pids, &["pid"], "count").len() == NAMES.len(),
        "{pids:?}"
    );
    let flows = flows.stop()?.rows()?;
    let opens = ns.counters()?["Tcp.ActiveOpens"];
    ensure!(flows.len() as u64 == opens, "{opens}: {flows:?}");
    ensure!(
        flows.iter().all(|row| row["netns"] == ns.inode),
        "{flows:?}"
    );
    let units = units.stop()?.rows()?;
    // All are of one cgroup and one user.
    let key = ["cgroup", "uid", "netns"];
    let told = sums(&units, &key, "count");
    ensure!(
        told.len() == 1 && told.values().sum::<u64>() == opens,
        "{units:?}"
    );
    Ok(())
}

/// A container that made connections is told from the host's own processes when it is gone, and by its cgroup's path, too.
fn by_container() -> Result<()> {
    let (ns, tree) = (Netns::new()?, Tree::new()?);
    let inode = ns.inode.to_string();
    let watch = |by: &str| {
        let args = ["--json", "-c", "--by", by, "--netns", &inode];
        Tool::start("tcpconnect", &args)
    };
    let (containers, cgroups) = (watch("container")?, watch("cgroup,container")?);
    let id = format!(
        "{:064x}",
        0xc01_0000_0000u64 + u64::from(std::process::id())
    );
    let mut server = ns.agent()?;
    let (_listener, at) = server.listen("127.0.0.1:0")?;
    let mut client = ns.agent()?;
    connects(&mut client, &at, 2)?;
    // It is started again: another cgroup, and the same container.
    for _ in 0..2 {
        let cgroup = tree.make(format!("docker-{id}.scope"))?;
        client.run(&format!("cgroup {}", cgroup.display()))?;
        connects(&mut client, &at, 3)?;
        client.run(&format!("cgroup {}", root()?))?;
        tree.remove(&cgroup)?;
    }
    let truth = BTreeMap::from([(id.clone(), 6), ("null".to_owned(), 2)]);
    let rows = containers.stop()?.rows()?;
    ensure!(sums(&rows, &["container"], "count") == truth, "{rows:?}");
    ensure!(rows.len() == 2, "{rows:?}");
    let rows = cgroups.stop()?.rows()?;
    ensure!(sums(&rows, &["container"], "count") == truth, "{rows:?}");
    let path = format!("/{}/docker-{id}.scope", tree.name);
    let told = rows.iter().filter(|row| {
        row["cgroup"]
            .as_str()
            .is_some_and(|cgroup| cgroup.ends_with(&path))
    });
    ensure!(told.count() == 1 && rows.len() == 2, "{path}: {rows:?}");
    Ok(())
}

/// An interval has the counts of its own time, whatever they are by.
fn by_interval() -> Result<()> {
    let ns = Netns::new()?;
    let inode = ns.inode.to_string();
    let args = ["--json", "-c=100ms", "--by", "comm", "--netns", &inode];
    let tool = Tool::start("tcpconnect", &args)?;
    let agents = generate(&ns, LOOPBACK)?;
    wait::until("a row", PATIENCE, || {
        Ok((!tool.seen()?.is_empty()).then_some(()))
    })?;
    let rows = tool.stop()?.rows()?;
    drop(agents);
    ensure!(sums(&rows, &["comm"], "count") == truth(1), "{rows:?}");
    Ok(())
}

/// Without type information counts are made in user space, by the same keys.
fn by_records() -> Result<()> {
    let ns = Netns::new()?;
    // An address that no other test has, as records do not tell the namespace.
    let host = "127.73.19.1";
    // All events of the host are in the buffer.
    let buffer = ["--buffer", "16384"];
    let args = ["--json", "-c", "--by", "comm,raddr", "--raddr", host];
    let args = [&args[..], &buffer].concat();
    let tool = Tool::start_reduced("btf", "tcpconnect", &args)?;
    let agents = generate(&ns, host)?;
    let rows = tool.stop()?.rows()?;
    drop(agents);
    ensure!(sums(&rows, &["comm"], "count") == truth(1), "{rows:?}");
    ensure!(rows.iter().all(|row| row["raddr"] == host), "{rows:?}");
    Ok(())
}

/// The order that was asked for.
fn sorted() -> Result<()> {
    let ns = Netns::new()?;
    let inode = ns.inode.to_string();
    let watch = |sort: &[&str]| {
        let args = ["--json", "-c", "--by", "comm", "--netns", &inode];
        Tool::start("tcpconnect", &[&args, sort].concat())
    };
    let (usual, up) = (watch(&[])?, watch(&["--sort", "+count"])?);
    let names = watch(&["--sort", "comm,-outcome"])?;
    let agents = generate(&ns, LOOPBACK)?;
    let counts = |tool: Tool| -> Result<Vec<_>> {
        let rows = tool.stop()?.rows()?;
        Ok(rows
            .iter()
            .filter_map(|row| row["count"].as_u64())
            .collect())
    };
    let usual = counts(usual)?;
    ensure!(usual == [7, 5, 3, 2, 1], "{usual:?}");
    let up = counts(up)?;
    ensure!(up == [1, 2, 3, 5, 7], "{up:?}");
    let rows = names.stop()?.rows()?;
    drop(agents);
    let order: Vec<_> = rows
        .iter()
        .map(|row| (row["comm"].to_string(), row["outcome"].to_string()))
        .collect();
    let mut want = order.clone();
    want.sort_by(|(a, x), (b, y)| a.cmp(b).then_with(|| y.cmp(x)));
    ensure!(order.len() == 5 && order == want, "{order:?}");
    Ok(())
}

/// Segments that were sent again are charged to whoever sent them, in counts as in totals.
fn retransmissions(mut pair: Pair, host: &str) -> Result<()> {
    let inodes = pair.net.inodes();
    let watch = |args: &[&str]| {
        let all = [&["--json", "--by", "comm,raddr", "--netns", &inodes], args];
        Tool::start("tcpretrans", &all.concat())
    };
    let (counts, totals) = (watch(&["-c"])?, watch(&["--summary"])?);
    let (_, at) = pair.s.listen(host)?;
    filter(&pair.net.b, "prerouting", "meta l4proto tcp drop")?;
    let fd = pair.c.open(&at)?;
    pair.c.run(&format!("nonblock {fd}"))?;
    pair.c
        .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
    pair.row("a retransmission", |row| row["kind"] == "syn")?;
    pair.c.run(&format!("close {fd}"))?;
    let (counts, totals) = (counts.stop()?.rows()?, totals.stop()?.rows()?);
    let kernel = pair.net.a.counters()?["Tcp.RetransSegs"];
    let raddr = if host.starts_with('[') {
        "fd09::2"
    } else {
        "10.9.0.2"
    };
    let truth = BTreeMap::from([(format!("client {raddr}"), kernel)]);
    let by = ["comm", "raddr"];
    ensure!(
        sums(&counts, &by, "count") == truth,
        "{truth:?}: {counts:?}"
    );
    ensure!(
        sums(&totals, &by, "retrans_segs") == truth,
        "{truth:?}: {totals:?}"
    );
    Ok(())
}

/// The same of resets, with a key of their own.
fn resets(mut pair: Pair, host: &str) -> Result<()> {
    let inodes = pair.net.inodes();
    let args = [
        "--json",
        "--summary",
        "--by",
        "comm,direction",
        "--netns",
        &inodes,
    ];
    let counts = Tool::start("tcpreset", &args)?;
    let (c, s) = pair.session(host)?;
    pair.c.run(&format!("linger0 {c}"))?;
    pair.c.run(&format!("close {c}"))?;
    pair.row("a reset", |row| row["direction"] == "received")?;
    pair.s.run(&format!("close {s}"))?;
    let rows = counts.stop()?.rows()?;
    let truth = BTreeMap::from([
        ("client sent".to_owned(), 1),
        ("server received".to_owned(), 1),
    ]);
    let told = sums(&rows, &["comm", "direction"], "count");
    ensure!(told == truth, "{rows:?}");
    ensure!(
        rows.iter().all(|row| row["by"] == "comm,direction"),
        "{rows:?}"
    );
    Ok(())
}
