// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is summed up instead of shown: nothing is left out in silence, no number is rounded to nothing, and the memory
//! for it is bounded.

mod by;
mod columns;
mod every_key;
pub mod keys;

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::{libc, sys::signal::Signal};
use serde_json::Value;

use crate::{
    net::Netns,
    pair::{Pair, filter, pass, trials},
    tool::{Run, Tool},
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![
        trial("sums::after_a_pause", after_a_pause),
        trial("sums::small_rates", small_rates),
        trial("sums::memory", memory),
    ];
    tests.extend(trials("tcpretrans", &[], "sums_of_segments", segments));
    tests.extend(trials("tcpretrans", &[], "sums_omitted", limits));
    tests.extend(by::tests());
    tests.extend(columns::tests());
    tests.extend(every_key::tests());
    tests
}

fn sum(rows: &[Value], key: &str) -> u64 {
    rows.iter().filter_map(|row| row[key].as_u64()).sum()
}

/// One retransmission may be several segments: counts and totals are of segments, as the kernel's counter is.
fn segments(mut pair: Pair, host: &str) -> Result<()> {
    let inodes = pair.net.inodes();
    let watch = |args: &[&str]| {
        Tool::start(
            "tcpretrans",
            &[&["--json", "--netns", &inodes], args].concat(),
        )
    };
    let (counts, totals) = (watch(&["-c"])?, watch(&["--summary", "--by", "flow"])?);
    let (c, s) = pair.session(host)?;
    let transfer = |pair: &mut Pair, loss: &dyn Fn(&Pair) -> Result<()>| {
        pair.c.begin(&format!("send {c} 300000"))?;
        loss(pair)?;
        pair.s.run(&format!("recv {s} 300000"))?;
        ensure!(pair.c.finish()?.is_ok());
        pair.c.run(&format!("drained {c}")).map(drop)
    };
    // The window has grown when all that it lets out is lost: what is sent again grows with it.
    transfer(&mut pair, &|_| Ok(()))?;
    filter(&pair.net.b, "prerouting", "meta l4proto tcp drop")?;
    transfer(&mut pair, &|pair| {
        wait::until("a timeout", PATIENCE, || {
            let kernel = pair.net.a.counters()?;
            Ok((kernel["TcpExt.TCPTimeouts"] > 0).then_some(()))
        })?;
        pass(&pair.net.b)
    })?;
    let (counts, totals) = (counts.stop()?.rows()?, totals.stop()?.rows()?);
    let (rows, sides) = pair.finish()?;
    let kernel = sides[0].counter("Tcp.RetransSegs")?;
    ensure!((rows.len() as u64) < kernel, "no train: {}", rows.len());
    let mine = |rows: &[Value], key| {
        let mine: Vec<_> = rows
            .iter()
            .filter(|row| sides[0].is(row))
            .cloned()
            .collect();
        sum(&mine, key)
    };
    ensure!(mine(&counts, "count") == kernel, "{kernel}: {counts:?}");
    ensure!(
        counts.iter().all(|row| row["count_unit"] == "segments"),
        "{counts:?}"
    );
    ensure!(
        sum(&totals, "retrans_segs") >= kernel,
        "{kernel}: {totals:?}"
    );
    let both = kernel + sides[1].counter("Tcp.RetransSegs")?;
    ensure!(sum(&totals, "retrans_segs") == both, "{both}: {totals:?}");
    Ok(())
}

/// How many flows; a table shows 20.
const FLOWS: usize = 24;

/// The lines of a table without its header, and the message about omitted ones.
fn shown(run: &Run) -> (usize, Vec<&str>) {
    let said = run.stderr.lines().filter(|line| line.contains("not shown"));
    (run.lines.len() - 1, said.collect())
}

/// A table reports how many totals it omits; JSON and CSV have all.
fn limits(mut pair: Pair, host: &str) -> Result<()> {
    let inodes = pair.net.inodes();
    let watch = |args: &[&str]| {
        let by = ["--summary", "--by", "lport", "--netns", &inodes];
        Tool::start("tcpretrans", &[&by, args].concat())
    };
    let json = watch(&["--json"])?;
    let others: Result<Vec<_>> = [
        &[][..],
        &["--top", "0"],
        &["--csv"],
        &["--top", "7"],
        &["--csv", "--top", "7"],
    ]
    .map(watch)
    .into_iter()
    .collect();
    let (_, at) = pair.s.listen(host)?;
    filter(&pair.net.b, "prerouting", "meta l4proto tcp drop")?;
    let mut opens = Vec::new();
    for _ in 0..FLOWS {
        let fd = pair.c.open(&at)?;
        pair.c.run(&format!("nonblock {fd}"))?;
        pair.c
            .fails(&format!("connect {fd} {at}"), libc::EINPROGRESS)?;
        opens.push(fd);
    }
    wait::until("a retransmission of each", PATIENCE, || {
        let rows = pair.tool.seen()?;
        let ports: BTreeSet<_> = rows.iter().map(|row| row["lport"].to_string()).collect();
        Ok((ports.len() == FLOWS).then_some(()))
    })?;
    for fd in opens {
        pair.c.run(&format!("close {fd}"))?;
    }
    let rows = json.stop()?.rows()?;
    let kernel = pair.net.a.counters()?["Tcp.RetransSegs"];
    ensure!(rows.len() == FLOWS, "{rows:?}");
    ensure!(sum(&rows, "retrans_segs") == kernel, "{kernel}: {rows:?}");
    let runs: Result<Vec<_>> = others?.into_iter().map(Tool::stop).collect();
    let four = "tcpretrans: 4 more totals not shown (--top 20); --top 0 shows all";
    let rest = "tcpretrans: 17 more totals not shown (--top 7); --top 0 shows all";
    let want = [
        (20, vec![four]),
        (FLOWS, vec![]),
        (FLOWS, vec![]),
        (7, vec![rest]),
        (7, vec![rest]),
    ];
    for (run, want) in runs?.iter().zip(want) {
        ensure!(shown(run) == want, "{want:?}: {run:?}");
    }
    Ok(())
}

/// After a pause there is one table for all the time that passed, and then one for each interval.
fn after_a_pause() -> Result<()> {
    let ns = Netns::new()?;
    let mut agent = ns.agent()?;
    agent.listen("127.0.0.1:0")?;
    let inode = ns.inode.to_string();
    let args = ["--json", "--summary=200ms", "--netns", &inode];
    let tool = Tool::start("tcpstates", &args)?;
    tool.wait_lines(2)?;
    tool.signal(Signal::SIGSTOP)?;
    sleep(Duration::from_millis(1500));
    let seen = tool.seen()?.len();
    tool.signal(Signal::SIGCONT)?;
    tool.wait_lines(seen + 5)?;
    let rows = tool.stop()?.rows()?;
    let times: Vec<_> = rows
        .iter()
        .filter_map(|row| row["boot_ns"].as_u64())
        .collect();
    let after = times.get(seen..seen + 5).context("five tables")?;
    // From the first, which was late, to the second it may be less, and then an interval each.
    let whole = after[4] - after[1];
    ensure!(whole >= 500_000_000, "caught up in {whole} ns: {after:?}");
    Ok(())
}

/// One open in two seconds is not none.
fn small_rates() -> Result<()> {
    let ns = Netns::new()?;
    let (mut c, mut s) = (ns.agent()?, ns.agent()?);
    let inode = ns.inode.to_string();
    let tool = Tool::start("tcpaccept", &["--json", "--summary", "--netns", &inode])?;
    let (listener, at) = s.listen("127.0.0.1:0")?;
    let fd = c.open(&at)?;
    c.run(&format!("connect {fd} {at}"))?;
    s.number(&format!("accept {listener}"))?;
    sleep(Duration::from_millis(2100));
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 1 && rows[0]["accepts"] == 1, "{rows:?}");
    let us = rows[0]["interval_us"].as_f64().context("interval_us")?;
    let told = rows[0]["accepts_per_s"].as_f64().context("a rate")?;
    let want = 1e6 / us;
    ensure!(
        (told - want).abs() < 0.001 && told > 0.0 && want < 0.5,
        "{rows:?}"
    );
    Ok(())
}

/// So many connections within the namespace, each to another address and ended by an RST so that none waits.
fn flood(ns: &Netns, count: u32) -> Result<()> {
    ns.inside(|| {
        let listener = TcpListener::bind("0.0.0.0:0")?;
        let port = listener.local_addr()?.port();
        for n in 1..=count {
            let at = (Ipv4Addr::from(0x7f01_0000 + n), port);
            let client = match TcpStream::connect(at) {
                Ok(client) => client,
                Err(e) if e.kind() == ErrorKind::AddrInUse => bail!("no port is left"),
                Err(e) => return Err(e.into()),
            };
            let (server, _) = listener.accept()?;
            let abort = libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            // SAFETY: the option is of the size that is said, and lives through the call.
            let set = unsafe {
                libc::setsockopt(
                    client.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_LINGER,
                    (&raw const abort).cast(),
                    size_of::<libc::linger>() as u32,
                )
            };
            ensure!(set == 0, "SO_LINGER");
            drop((client, server));
        }
        Ok(())
    })
}

fn rss_kib(tool: &Tool) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", tool.child.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("VmRSS")?.parse()?)
}

/// Connections of which nothing was sent again take no memory, whatever totals are made of.
fn memory() -> Result<()> {
    let ns = Netns::new()?;
    let inode = ns.inode.to_string();
    let watch = |by: &str| {
        let args = ["--json", "--summary", "--by", by, "--netns", &inode];
        Tool::start("tcpretrans", &args)
    };
    let tools = [watch("flow")?, watch("comm")?];
    flood(&ns, 2000)?;
    let before: Vec<_> = tools.iter().map(rss_kib).collect::<Result<_>>()?;
    flood(&ns, 20_000)?;
    for (tool, before) in tools.iter().zip(&before) {
        let grown = rss_kib(tool)?.saturating_sub(*before);
        ensure!(grown < 1000, "{before} KiB, and {grown} more");
    }
    for tool in tools {
        ensure!(tool.stop()?.rows()?.is_empty());
    }
    Ok(())
}
