// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcprcvspace against TCP_INFO, SO_MEMINFO, the sysctls and the number of reads.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::libc::{SO_RCVBUF, SOL_SOCKET};
use serde_json::{Value, json};

use crate::{
    aggregate::keys::{Summed, Watch},
    missing,
    net::{Net, Side},
    peer::Agent,
    tool::{Tool, run},
    trial, wait,
};

pub fn tests() -> Vec<Trial> {
    let both = |name: &str, test: fn(&str) -> Result<()>| {
        trial(format!("tcprcvspace::{name}"), move || {
            test("10.9.0.2:0").context("IPv4")?;
            test("[fd09::2]:0").context("IPv6")
        })
    };
    vec![
        both("reads", reads),
        both("growth", growth),
        both("steps", steps),
        both("sampling", sampling),
        both("limited", limited),
        both("limited_at_interval", limited_at_interval),
        both("limited_by_every_key", limited_by_every_key),
        trial("tcprcvspace::arguments", arguments),
    ]
}

struct Pair {
    net: Net,
    c: Agent,
    s: Agent,
}

impl Pair {
    fn new() -> Result<Self> {
        let net = Net::new()?;
        let (c, s) = (net.a.agent()?, net.b.agent()?);
        Ok(Self { net, c, s })
    }

    fn watch(&self, args: &[&str]) -> Result<Tool> {
        let inode = self.net.b.inode.to_string();
        Tool::start(
            "tcprcvspace",
            &[&["--json", "--netns", &inode], args].concat(),
        )
    }

    /// The client's and the server's descriptor; `rcvbuf` is for the server, which then is not tuned.
    fn session(&mut self, host: &str, rcvbuf: Option<i32>) -> Result<(u64, u64)> {
        let listener = self.s.open(host)?;
        if let Some(bytes) = rcvbuf {
            self.s.option(listener, SOL_SOCKET, SO_RCVBUF, bytes)?;
        }
        self.s.run(&format!("bind {listener} {host}"))?;
        self.s.run(&format!("listen {listener} 8"))?;
        let at = self.s.run(&format!("local {listener}"))?;
        let fd = self.c.open(host)?;
        self.c.run(&format!("connect {fd} {at}"))?;
        let accepted = self.s.number(&format!("accept {listener}"))?;
        self.s.run(&format!("close {listener}"))?;
        // Where the command cannot give it one, rows have the cookie that it has already.
        if !missing::cookies() {
            self.s.run(&format!("cookie {accepted}"))?;
        }
        Ok((fd, accepted))
    }

    fn read(&mut self, (fd, accepted): (u64, u64), bytes: usize) -> Result<()> {
        self.c.run(&format!("send {fd} {bytes}"))?;
        self.c.run(&format!("drained {fd}"))?;
        self.s.run(&format!("recv {accepted} {bytes}")).map(drop)
    }

    fn rcvbuf(&mut self, fd: u64) -> Result<u64> {
        let text = self.s.run(&format!("meminfo {fd}"))?;
        let field = text
            .split(' ')
            .find_map(|word| word.strip_prefix("rcvbuf="));
        Ok(field.context("rcvbuf")?.parse()?)
    }
}

fn agrees(row: &Value, expected: &Value) -> Result<()> {
    for (key, value) in expected.as_object().context("an object")? {
        ensure!(&row[key] == value, "{key}: expected {value}; {row}");
    }
    Ok(())
}

/// A row per read of a segment, each with what the socket had when the tuning began.
fn reads(host: &str) -> Result<()> {
    const SIZES: [usize; 6] = [1000, 200, 1400, 1, 1400, 1300];
    let mut pair = Pair::new()?;
    let tool = pair.watch(&[])?;
    let ends = pair.session(host, None)?;
    let mut before = Vec::new();
    let mut copied = 0;
    for bytes in SIZES {
        let space = pair.s.info(ends.1)?["rcv_space"];
        let rcvbuf = pair.rcvbuf(ends.1)?;
        pair.read(ends, bytes)?;
        copied += bytes;
        before.push((space, rcvbuf, bytes, copied));
    }
    let cookie = pair.s.number(&format!("cookie {}", ends.1))?;
    let maximum = pair.net.b.inside(|| {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_rmem")?;
        let last = text.split_whitespace().last().context("three numbers")?;
        Ok(last.parse::<u64>()?)
    })?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == SIZES.len(), "{} rows: {rows:#?}", rows.len());
    for (i, (row, (space, rcvbuf, bytes, copied))) in rows.iter().zip(before).enumerate() {
        agrees(
            row,
            &json!({"event": "adjust", "cookie": cookie, "rcv_space_bytes": space, "rcvbuf_bytes": rcvbuf, "calls": i + 1,
                "queued_bytes": 0, "growth": "open", "tcp_rmem_max_bytes": maximum, "pid": pair.s.pid(),
                "pid_source": "socket"}),
        )?;
        let measured = row["copied_bytes"].as_u64().context("copied")?;
        ensure!((bytes as u64..=copied as u64).contains(&measured), "{row}");
    }
    Ok(())
}

/// Whether the buffer can still grow, for each reason that it cannot.
fn growth(host: &str) -> Result<()> {
    let mut pair = Pair::new()?;
    let tool = pair.watch(&[])?;
    let mut expected = Vec::new();
    let mut step = |pair: &mut Pair, rcvbuf, growth: &'static str| -> Result<()> {
        let ends = pair.session(host, rcvbuf)?;
        pair.read(ends, 500)?;
        expected.push((growth, pair.rcvbuf(ends.1)?));
        Ok(())
    };
    step(&mut pair, None, "open")?;
    step(&mut pair, Some(50_000), "locked")?;
    pair.net.b.sysctl("ipv4/tcp_rmem", "4096 30000 30000")?;
    step(&mut pair, None, "max")?;
    pair.net.b.sysctl("ipv4/tcp_moderate_rcvbuf", "0")?;
    step(&mut pair, None, "off")?;
    step(&mut pair, Some(50_000), "locked")?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == expected.len(), "{rows:#?}");
    for (row, (growth, rcvbuf)) in rows.iter().zip(expected) {
        agrees(row, &json!({"growth": growth, "rcvbuf_bytes": rcvbuf}))?;
    }
    Ok(())
}

/// The steps of a buffer that grows are a chain from its first size to its last; one that is locked stays as it is.
fn steps(host: &str) -> Result<()> {
    missing::needs_growth_steps()?;
    let mut pair = Pair::new()?;
    let tool = pair.watch(&["--grow"])?;
    let tuned = pair.session(host, None)?;
    let first = pair.rcvbuf(tuned.1)?;
    slowly(&mut pair, tuned, 2_000_000)?;
    let last = pair.rcvbuf(tuned.1)?;
    let tuned_cookie = pair.s.number(&format!("cookie {}", tuned.1))?;
    let locked = pair.session(host, Some(60_000))?;
    slowly(&mut pair, locked, 300_000)?;
    let locked_cookie = pair.s.number(&format!("cookie {}", locked.1))?;
    let size = pair.rcvbuf(locked.1)?;
    for fd in [tuned.1, locked.1] {
        pair.s.run(&format!("linger0 {fd}"))?;
        pair.s.run(&format!("close {fd}"))?;
    }
    let rows = tool.stop()?.rows()?;
    let of = |cookie: u64| rows.iter().filter(move |row| row["cookie"] == cookie);
    let mut at = first;
    for row in of(tuned_cookie) {
        agrees(
            row,
            &json!({"event": "grow", "old_rcvbuf_bytes": at, "measured": true, "pid": pair.s.pid()}),
        )?;
        at = row["rcvbuf_bytes"].as_u64().context("a size")?;
        ensure!(
            row["copied_bytes"].as_u64() > row["rcv_space_bytes"].as_u64(),
            "{row}"
        );
    }
    ensure!(at == last && last > first, "{first} to {last}: {rows:#?}");
    for row in of(locked_cookie) {
        agrees(
            row,
            &json!({"old_rcvbuf_bytes": size, "rcvbuf_bytes": size, "growth": "locked"}),
        )?;
    }
    ensure!(of(locked_cookie).count() > 0, "{rows:#?}");
    Ok(())
}

/// Of 20 reads by each of two sockets.
fn sampling(host: &str) -> Result<()> {
    let mut pair = Pair::new()?;
    let tools = [
        pair.watch(&["--every", "5"])?,
        pair.watch(&["--interval", "1h"])?,
        pair.watch(&["--changes"])?,
    ];
    for _ in 0..2 {
        let ends = pair.session(host, None)?;
        for _ in 0..20 {
            pair.read(ends, 1300)?;
        }
    }
    let [every, interval, changes] = tools.map(Tool::stop);
    let reads = |rows: &[Value]| {
        rows.iter()
            .map(|row| row["calls"].as_u64())
            .collect::<Vec<_>>()
    };
    let once = [1, 6, 11, 16].map(Some);
    ensure!(reads(&every?.rows()?) == [once, once].concat());
    ensure!(reads(&interval?.rows()?) == [Some(1), Some(1)]);
    let rows = changes?.rows()?;
    ensure!((2..40).contains(&rows.len()), "{}", rows.len());
    for pair in rows
        .windows(2)
        .filter(|pair| pair[0]["cookie"] == pair[1]["cookie"])
    {
        let window = |row: &Value| (row["rcvbuf_bytes"].clone(), row["rcv_space_bytes"].clone());
        ensure!(window(&pair[0]) != window(&pair[1]), "{pair:#?}");
    }
    Ok(())
}

/// Sends so much over a cable on which what the client sends waits, again and again: round trips of milliseconds.
fn slowly(pair: &mut Pair, ends: (u64, u64), bytes: usize) -> Result<()> {
    let done = AtomicBool::new(false);
    let Pair { net, c, s } = pair;
    thread::scope(|scope| {
        let cable = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                net.hold(Side::A)?;
                thread::sleep(Duration::from_millis(10));
                net.release(Side::A)?;
            }
            Ok(())
        });
        c.begin(&format!("send {} {bytes}", ends.0))?;
        let read = s.run(&format!("recv {} {bytes}", ends.1));
        done.store(true, Ordering::Relaxed);
        cable.join().expect("no panic")?;
        read?;
        c.finish()?.map_err(|errno| anyhow::anyhow!("{errno:?}"))
    })?;
    Ok(())
}

/// A session whose small locked buffer limits it. On a busy host the reader may be late each time, and so be the limit
/// itself: until the command says that it is not.
fn limited_session(pair: &mut Pair, host: &str) -> Result<(u64, u64)> {
    const TIMES: usize = 20;
    let tool = pair.watch(&["--summary=50ms"])?;
    let small = pair.session(host, Some(8192))?;
    for _ in 0..TIMES {
        slowly(pair, small, 150_000)?;
        let cookie = pair.s.number(&format!("cookie {}", small.1))?;
        let shown = || {
            Ok(tool
                .seen()?
                .iter()
                .any(|row| row["cookie"] == cookie)
                .then_some(()))
        };
        if wait::until("the row", Duration::from_secs(1), shown).is_ok() {
            return Ok(small);
        }
    }
    bail!("the buffer never limits the session")
}

/// The socket with a small locked buffer is in the summary, open or closed; the tuned one and the idle one are not.
fn limited(host: &str) -> Result<()> {
    let mut pair = Pair::new()?;
    let tool = pair.watch(&["--summary"])?;
    let mut wants = Vec::new();
    for event in ["limited", "active"] {
        let small = limited_session(&mut pair, host)?;
        let cookie = pair.s.number(&format!("cookie {}", small.1))?;
        let rcvbuf = pair.rcvbuf(small.1)?;
        wants.push(
            json!({"event": event, "cookie": cookie, "rcvbuf_bytes": rcvbuf, "growth": "locked",
            "pid": pair.s.pid()}),
        );
        if event == "limited" {
            pair.s.run(&format!("linger0 {}", small.1))?;
            pair.s.run(&format!("close {}", small.1))?;
        }
    }
    let tuned = pair.session(host, None)?;
    slowly(&mut pair, tuned, 150_000)?;
    let idle = pair.session(host, Some(8192))?;
    pair.read(idle, 10)?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == wants.len(), "{rows:#?}");
    for (row, want) in rows.iter().zip(&wants) {
        agrees(row, want)?;
        let number = |key: &str| row[key].as_u64().with_context(|| key.to_owned());
        ensure!(
            number("limited")? > 0 && number("limited")? <= number("measures")?,
            "{row}"
        );
        ensure!(number("measures")? <= number("calls")?, "{row}");
        // One window in a round trip, which took milliseconds here.
        let expected = number("rcv_ssthresh_bytes")? * 1_000_000 / number("rcv_rtt_us")?;
        ensure!(number("window_rate_bytes_per_s")? == expected, "{row}");
    }
    Ok(())
}

/// A socket that stays open is shown at each interval, and its numbers are those since the start.
fn limited_at_interval(host: &str) -> Result<()> {
    let mut pair = Pair::new()?;
    let tool = pair.watch(&["--summary=50ms"])?;
    limited_session(&mut pair, host)?;
    let shown = tool.seen()?.len();
    tool.wait_lines(shown + 3)?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() > shown + 3, "not once more on exit: {rows:#?}");
    ensure!(rows.iter().all(|row| row["event"] == "active"), "{rows:#?}");
    for key in ["limited", "calls", "watched_us"] {
        let numbers = rows.iter().map(|row| row[key].as_u64());
        ensure!(numbers.is_sorted(), "{key}: {rows:#?}");
    }
    Ok(())
}

/// Sums of limited sockets, by whatever they are made, are those of their rows.
fn limited_by_every_key(host: &str) -> Result<()> {
    let mut pair = Pair::new()?;
    pair.s.comm("slow")?;
    let how = Summed {
        tool: "tcprcvspace",
        rows: &["--summary"],
        counts: |_| 1,
        sums: &["--summary"],
        event: "total",
        figure: "sockets",
    };
    let watch = Watch::start(how, &pair.net.b.inode.to_string())?;
    for end in [true, false] {
        let small = limited_session(&mut pair, host)?;
        if end {
            pair.s.run(&format!("linger0 {}", small.1))?;
            pair.s.run(&format!("close {}", small.1))?;
        }
    }
    watch.check(&BTreeMap::from([("slow".to_owned(), 2)]))
}

/// What would have no effect is refused.
fn arguments() -> Result<()> {
    for (args, reason) in [
        (&["--summary", "--every", "2"][..], "--every"),
        (&["--mptcp"], "MPTCP"),
        (&["--every", "0"], "0"),
        (&["--grow", "--summary"], "--grow"),
        (&["--grow", "--every", "2"], "--grow"),
        (&["--summary=0"], "'0'"),
        (&["--summary", "--columns", "measured"], "'measured'"),
    ] {
        let run = run("tcprcvspace", args)?;
        ensure!(run.status.code() == Some(2), "{args:?}: {run:?}");
        ensure!(
            run.stderr.contains(reason) && run.stderr.lines().count() == 1,
            "{run:?}"
        );
    }
    Ok(())
}
