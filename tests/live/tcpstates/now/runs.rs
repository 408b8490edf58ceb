// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filters, intervals, the table, and what is refused.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    HOSTS, Named, look, named, port, ss, stages, stuck,
    times::{COARSE_US, now, since},
};
use crate::{
    tcpstates::fixture::Fixture,
    tool::{self, Tool},
};

/// net/ipv4: TCP_TIMEWAIT_LEN, and some seconds less.
const TIME_WAIT: Duration = Duration::from_secs(50);

type Chosen<'c> = &'c dyn Fn(&Value) -> bool;

/// Each shows exactly the rows that a look without it says match.
pub fn filters() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let stage = stages(&mut fixture)?.remove(0);
    stuck(&mut fixture)?;
    std::thread::sleep(Duration::from_millis(300));
    // One in TIME_WAIT goes after a minute, which a dozen commands take on an emulated machine.
    let begun = Instant::now();
    let lasts = |row: &&Value| row["state"] != "TIME_WAIT" || begun.elapsed() < TIME_WAIT;
    let all = look(&fixture, &[])?;
    let (s, listening) = (fixture.s.pid(), port(&stage.to)?);
    let (pid, at) = (s.to_string(), listening.to_string());
    let is = |row: &Value, state: &str| row["state"] == state;
    let old = |row: &Value| row["in_state_us"].as_u64() >= Some(100_000);
    let cases: [(&[&str], Chosen<'_>); 12] = [
        (&["--state", "time_wait"], &|row| is(row, "TIME_WAIT")),
        (&["-D", &at, "--state", "time-wait"], &|row| {
            row["rport"] == listening && is(row, "TIME_WAIT")
        }),
        (&["--state", "syn-recv,LISTEN"], &|row| {
            is(row, "SYN_RECV") || is(row, "LISTEN")
        }),
        (&["--state", "!established,time_wait"], &|row| {
            !is(row, "ESTABLISHED") && !is(row, "TIME_WAIT")
        }),
        (&["-p", &pid], &|row| row["pid"] == s),
        (&["--comm", "server"], &|row| row["comm"] == "server"),
        // Nobody's is not another's.
        (&["--comm", "!server"], &|row| row["comm"] == "client"),
        (&["-u", "0"], &|row| row["uid"] == 0),
        (&["-u", "!0"], &|_| false),
        (&["-L", &at], &|row| row["lport"] == listening),
        (&["-6"], &|row| row["family"] == 6),
        (&["--min-ms", "100"], &old),
    ];
    for (args, matches) in cases {
        let rows = look(&fixture, args)?;
        let wants = all.iter().filter(|row| matches(row)).filter(lasts);
        let mut wants: Vec<_> = wants.map(name).collect();
        let mut seen: Vec<_> = rows.iter().filter(lasts).map(name).collect();
        wants.sort();
        // What was too young before may be old enough now.
        if matches(&all[0]) && args == ["--min-ms", "100"] {
            ensure!(wants.iter().all(|one| seen.contains(one)) && rows.iter().all(old));
            let waits = rows.iter().any(|row| is(row, "TIME_WAIT"));
            ensure!(waits || begun.elapsed() > TIME_WAIT, "{rows:#?}");
            continue;
        }
        seen.sort();
        ensure!(seen == wants, "{args:?}: {seen:#?}\nnot {wants:#?}");
    }
    let rows = look(&fixture, &["--top", "3"])?;
    let first = all.iter().filter(lasts).take(3).map(name);
    ensure!(rows.iter().map(name).eq(first), "{rows:#?}");
    let netns = fixture.net.b.inode.to_string();
    let rows = tool::run("tcpstates", &["--active", "--json", "--netns", &netns])?.rows()?;
    let rows = rows.iter().filter(lasts).count();
    let mine = all.iter().filter(|row| row["netns"] == fixture.net.b.inode);
    ensure!(rows > 0 && rows == mine.filter(lasts).count(), "{rows}");
    Ok(())
}

fn name(row: &Value) -> [String; 6] {
    ["netns", "state", "laddr", "lport", "raddr", "rport"].map(|key| row[key].to_string())
}

/// At once, and then again and again; each look shows every socket once, those that are there longest first.
pub fn intervals() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let (listener, to) = fixture.listen(HOSTS[0])?;
    let first = fixture.connect(listener, &to)?;
    let inodes = fixture.net.inodes();
    let args = ["--active=200ms", "--json", "--netns", &inodes];
    let tool = Tool::start("tcpstates", &args)?;
    tool.wait_lines(3)?;
    let second = fixture.connect(listener, &to)?;
    fixture.half_close(second)?;
    let shown = tool.line_count();
    tool.wait_lines(shown + 10)?;
    let rows = tool.stop()?.rows()?;
    let of = |cookie: u64| {
        let rows: Vec<_> = rows.iter().filter(|row| row["cookie"] == cookie).collect();
        let at = |row: &Value| row["boot_ns"].as_u64().context("a time");
        for pair in rows.windows(2) {
            ensure!(at(pair[1])? - at(pair[0])? > 100_000_000, "{pair:#?}");
            let in_state = [
                pair[0]["in_state_us"].as_u64(),
                pair[1]["in_state_us"].as_u64(),
            ];
            let same = pair[0]["state"] == pair[1]["state"];
            ensure!(!same || in_state[0] < in_state[1], "{pair:#?}");
        }
        Ok(rows)
    };
    ensure!(of(first.c_cookie)?.len() >= 3, "{rows:#?}");
    ensure!(of(second.s_cookie)?.len() >= 2, "{rows:#?}");
    for pair in rows.windows(2) {
        let since =
            |row: &Value| Some(row["boot_ns"].as_u64()? / 1000 - row["in_state_us"].as_u64()?);
        let listens = |row: &Value| row["state"] == "LISTEN";
        // A microsecond is rounded; after the listener the next look begins.
        let sorted = since(&pair[0]) <= since(&pair[1]).map(|us| us + 1);
        ensure!(
            listens(&pair[0]) || listens(&pair[1]) || sorted,
            "{pair:#?}"
        );
    }
    // A single look ends by itself, also with as many rows as are wanted.
    let run = tool::run(
        "tcpstates",
        &["--active", "--json", "--netns", &inodes, "-n", "1"],
    )?;
    ensure!(run.rows()?.len() == 1, "{run:?}");
    Ok(())
}

/// The columns fit, `>` marks a lower bound, and what is left out is said.
pub fn table() -> Result<()> {
    let mut fixture = Fixture::new()?;
    stages(&mut fixture)?;
    let inodes = fixture.net.inodes();
    let run = tool::run("tcpstates", &["--active", "--netns", &inodes])?;
    let header = "PID     COMM       LPORT RADDR           RPORT STATE             MS  IDLE_MS";
    ensure!(run.lines[0] == header, "{:?}", run.lines[0]);
    ensure!(run.said_nothing() && run.lines.len() > 15, "{run:?}");
    let too_wide = run.lines.iter().find(|line| line.chars().count() > 80);
    ensure!(too_wide.is_none(), "{too_wide:?}");
    let marked = |line: &&String| line.contains('>');
    let (least, exact): (Vec<_>, Vec<_>) = run.lines[1..].iter().partition(marked);
    ensure!(
        least.iter().any(|line| line.contains("CLOSE_WAIT")),
        "{run:?}"
    );
    ensure!(
        exact.iter().any(|line| line.contains("TIME_WAIT")),
        "{run:?}"
    );
    ensure!(
        run.lines.last().is_some_and(|line| line.contains("LISTEN")),
        "{run:?}"
    );
    let run = tool::run("tcpstates", &["--active", "--netns", &inodes, "--top", "2"])?;
    ensure!(
        run.lines.len() == 3 && run.stderr.contains("more sockets"),
        "{run:?}"
    );
    let run = tool::run(
        "tcpstates",
        &["--active", "-w", "--skaddr", "--netns", &inodes],
    )?;
    ensure!(run.lines[0].starts_with("SKADDR "), "{:?}", run.lines[0]);
    ensure!(
        run.lines.iter().all(|line| line.chars().count() <= 220),
        "{run:?}"
    );
    Ok(())
}

pub fn refused() -> Result<()> {
    for (args, says) in [
        (&["--active", "--summary"][..], "--summary"),
        (&["--active", "--old", "listen"], "--old"),
        (&["--active", "-Y"], "--journal"),
        (&["--active", "--state", "NEW_SYN_RECV"], "NEW_SYN_RECV"),
        (&["--active=0"], "0"),
        (&["--state", "listen"], "--active"),
        (&["--top", "3"], "--active"),
    ] {
        let run = tool::run("tcpstates", args)?;
        ensure!(
            run.status.code() == Some(2) && run.lines.is_empty(),
            "{args:?}: {run:?}"
        );
        let one = run.stderr.lines().count() == 1 && run.stderr.contains(says);
        ensure!(one, "{args:?}: {run:?}");
    }
    // What only the programs know.
    for args in [
        &["--summary"][..],
        &["--active", "--skaddr"],
        &["--active", "--unit", "x"],
    ] {
        let run = tool::run_without("btf", "tcpstates", args)?;
        let says = args.iter().find(|arg| run.stderr.contains(**arg));
        ensure!(
            run.status.code() == Some(2) && says.is_some(),
            "{args:?}: {run:?}"
        );
        ensure!(run.stderr.lines().count() == 1, "{args:?}: {run:?}");
    }
    Ok(())
}

/// Without type information inet_diag tells the same of the same sockets, but fewer times.
pub fn without_btf() -> Result<()> {
    let begin = now()?;
    let mut fixture = Fixture::new()?;
    stages(&mut fixture)?;
    stuck(&mut fixture)?;
    let inodes = fixture.net.inodes();
    let args = ["--active", "--json", "--netns", &inodes];
    let rows = tool::run_without("btf", "tcpstates", &args)?.rows()?;
    let mut told = Named::new();
    ss(&fixture.net.a, &mut told)?;
    ss(&fixture.net.b, &mut told)?;
    let seen = named(&rows)?;
    ensure!(seen == told, "{seen:#?}\nss: {told:#?}");
    let all = look(&fixture, &[])?;
    for row in &rows {
        let same = all.iter().find(|other| name(other) == name(row));
        let same = same.with_context(|| format!("{row:#}"))?;
        for key in ["pid", "comm", "pid_source", "held_by", "uid", "cookie"] {
            let known = !row[key].is_null();
            ensure!(
                row[key] == same[key] || key == "cookie" && !known,
                "{key} {}: {row:#}",
                same[key]
            );
        }
        // Read from inet_diag's answer, a time may be shorter by what that took.
        let exact = row["in_state_at_least"] == false;
        let earliest = if exact { since(same)? } else { begin };
        ensure!(
            since(row)? + COARSE_US >= earliest,
            "{earliest}, {same:#}: {row:#}"
        );
        ensure!(
            !exact || same["in_state_at_least"] == false,
            "{same:#}: {row:#}"
        );
    }
    let waits = rows.iter().filter(|row| row["state"] == "TIME_WAIT");
    ensure!(waits.clone().count() == 2, "{rows:#?}");
    ensure!(
        waits.clone().all(|row| row["in_state_at_least"] == false),
        "{rows:#?}"
    );
    Ok(())
}
