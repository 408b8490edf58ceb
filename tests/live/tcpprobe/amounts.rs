// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many rows there are: one per segment, or exactly those that filters and sampling leave.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::scene::{HOSTS, Scene, of, same};
use crate::{tool::Tool, trial, wait};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpprobe::amounts::segments", segments),
        trial("tcpprobe::amounts::sampling", sampling),
        trial("tcpprobe::amounts::unscanned_sockets_are_sampled", unseen),
        trial("tcpprobe::amounts::filters", filters),
        trial("tcpprobe::amounts::histograms", histograms),
    ]
}

/// Every segment that the namespaces receive goes to an established socket: as many rows, and all the bytes in them.
fn segments() -> Result<()> {
    for host in HOSTS {
        let mut scene = Scene::new()?;
        let talk = scene.connect(host)?;
        scene.exchange(talk, 1, 1)?;
        let tool = scene.watch(&[])?;
        let before = scene.segments()?;
        for _ in 0..50 {
            scene.exchange(talk, 3000, 20_000)?;
        }
        let received = scene.segments()? - before;
        // What was sent twice, as a timer may do when the other end is slow, came twice.
        let again = [
            scene.s.info(talk.s)?["bytes_retrans"],
            scene.c.info(talk.c)?["bytes_retrans"],
        ];
        let rows = tool.stop()?.rows()?;
        ensure!(
            rows.len() as u64 == received && received > 100,
            "{} rows of {received} segments",
            rows.len()
        );
        for (cookie, bytes) in [
            (talk.c_cookie, 50 * 20_000 + again[0]),
            (talk.s_cookie, 50 * 3000 + again[1]),
        ] {
            let sum: u64 = of(&rows, cookie)
                .iter()
                .filter_map(|r| r["len_bytes"].as_u64())
                .sum();
            ensure!(sum == bytes, "{sum} of {bytes} bytes");
        }
    }
    Ok(())
}

/// The same traffic for several runs of the command; the first one shows everything.
fn watched(
    runs: &[&[&str]],
    traffic: impl FnOnce(&mut Scene) -> Result<()>,
    mut scene: Scene,
) -> Result<Vec<Vec<Value>>> {
    let tools: Vec<Tool> = runs
        .iter()
        .map(|args| scene.watch(args))
        .collect::<Result<_>>()?;
    traffic(&mut scene)?;
    tools.into_iter().map(|tool| tool.stop()?.rows()).collect()
}

/// Those of a socket's rows that `keep` keeps, given the last one that was kept.
fn kept(rows: &[Value], mut keep: impl FnMut(usize, &Value, &Value) -> bool) -> Vec<Value> {
    let mut kept: Vec<Value> = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if kept.last().is_none_or(|last| keep(index, row, last)) {
            kept.push(row.clone());
        }
    }
    kept
}

fn sampling() -> Result<()> {
    sampled(&[])
}

/// For a socket not found at the start, state is created with its first sample.
fn unseen() -> Result<()> {
    sampled(&["--no-scan"])
}

fn sampled(more: &[&str]) -> Result<()> {
    let mut scene = Scene::new()?;
    let talks = [scene.connect(HOSTS[0])?, scene.connect(HOSTS[1])?];
    let interval_ms = 20 * wait::slower(20);
    let interval = format!("{interval_ms}ms");
    let with = |args: &[&str]| -> Vec<String> {
        args.iter().chain(more).map(|a| (*a).to_owned()).collect()
    };
    let runs = [
        with(&[]),
        with(&["--every", "7"]),
        with(&["--changes"]),
        with(&["--interval", &interval]),
    ];
    let runs: Vec<Vec<&str>> = runs
        .iter()
        .map(|r| r.iter().map(String::as_str).collect())
        .collect();
    let runs: Vec<&[&str]> = runs.iter().map(Vec::as_slice).collect();
    let traffic = |scene: &mut Scene| {
        let start = Instant::now();
        for round in 0.. {
            for talk in talks {
                scene.exchange(talk, 30_000, 30_000)?;
            }
            if round >= 60 && start.elapsed() > Duration::from_millis(10 * interval_ms) {
                break;
            }
        }
        Ok(())
    };
    let rows = watched(&runs, traffic, scene)?;
    for cookie in talks.iter().flat_map(|t| [t.c_cookie, t.s_cookie]) {
        let [all, every, changes, interval] = [0, 1, 2, 3].map(|i| of(&rows[i], cookie));
        ensure!(all.len() > 100, "{} rows", all.len());
        same("--every", &every, &kept(&all, |i, _, _| i % 7 == 0))?;
        let changed = kept(&all, |_, row, last| row["snd_cwnd"] != last["snd_cwnd"]);
        same("--changes", &changes, &changed)?;
        check_interval(interval_ms * 1_000_000, &interval, &all)?;
    }
    Ok(())
}

/// No two rows are closer, and no row was left out that was due by more than the difference between two clocks.
fn check_interval(interval: u64, rows: &[Value], all: &[Value]) -> Result<()> {
    let slack = interval / 10;
    let time = |row: &Value| row["boot_ns"].as_u64().context("boot_ns");
    ensure!(rows.len() > 1, "{} rows", rows.len());
    for pair in rows.windows(2) {
        let (from, to) = (time(&pair[0])?, time(&pair[1])?);
        ensure!(to - from + slack >= interval, "after {} ns", to - from);
        let due = from + interval + slack..to.saturating_sub(slack);
        for row in all {
            ensure!(!due.contains(&time(row)?), "left out: {row}");
        }
    }
    Ok(())
}

fn filters() -> Result<()> {
    let mut scene = Scene::new()?;
    let talks = [
        scene.connect(HOSTS[0])?,
        scene.connect(HOSTS[1])?,
        scene.connect(HOSTS[2])?,
    ];
    let port = talks[0].port.to_string();
    let pid = scene.c.pid().to_string();
    let a = scene.net.a.inode;
    type Wanted = Box<dyn Fn(&Value) -> bool>;
    let number = talks[0].port;
    let cases: Vec<(Vec<&str>, Wanted)> = vec![
        (vec![], Box::new(|_| true)),
        (vec!["-4"], Box::new(|r| r["family"] == 4)),
        (vec!["-6"], Box::new(|r| r["family"] == 6)),
        (vec!["-D", &port], Box::new(move |r| r["rport"] == number)),
        (vec!["-L", &port], Box::new(move |r| r["lport"] == number)),
        (
            vec!["--raddr", "fd09::2"],
            Box::new(|r| r["raddr"] == "fd09::2"),
        ),
        (vec!["-p", &pid], Box::new(move |r| r["netns"] == a)),
    ];
    let runs: Vec<&[&str]> = cases.iter().map(|case| case.0.as_slice()).collect();
    let traffic = |scene: &mut Scene| {
        for talk in talks {
            scene.exchange(talk, 5000, 50_000)?;
        }
        Ok(())
    };
    let rows = watched(&runs, traffic, scene)?;
    for ((args, wanted), got) in cases.iter().zip(&rows) {
        let want: Vec<Value> = rows[0].iter().filter(|row| wanted(row)).cloned().collect();
        ensure!(!want.is_empty(), "{args:?}: nothing to see");
        same(&format!("{args:?}"), got, &want)?;
    }
    Ok(())
}

/// Those for each address and port make up the one for all, and each is of what has rows.
fn histograms() -> Result<()> {
    let mut scene = Scene::new()?;
    let talks = [scene.connect(HOSTS[0])?, scene.connect(HOSTS[1])?];
    let keys = ["laddr", "raddr", "lport", "rport"];
    let by: Vec<String> = keys.iter().map(|key| format!("--hist={key}")).collect();
    let mut runs: Vec<Vec<&str>> = vec![vec![], vec!["--hist"]];
    runs.extend(by.iter().map(|by| vec![by.as_str()]));
    let runs: Vec<&[&str]> = runs.iter().map(Vec::as_slice).collect();
    let traffic = |scene: &mut Scene| {
        talks
            .into_iter()
            .try_for_each(|talk| scene.exchange(talk, 90_000, 200_000))
    };
    let rows = watched(&runs, traffic, scene)?;
    let all = &rows[1][0];
    ensure!(
        rows[1].len() == 1 && all["raddr"].is_null(),
        "{:?}",
        rows[1]
    );
    for (key, histograms) in keys.iter().zip(&rows[2..]) {
        for whole in ["count", "sum_us"] {
            let parts = histograms.iter().filter_map(|row| row[whole].as_u64());
            let parts: u64 = parts.sum();
            ensure!(all[whole] == parts && parts > 10, "{key}: {parts}, {all}");
        }
        let known = |histogram: &Value| {
            let mine = |row: &Value| row[key] == histogram[key];
            rows[0].iter().any(mine) && filled(histogram)
        };
        ensure!(
            histograms.len() > 1 && histograms.iter().all(known),
            "{key}: {histograms:?}"
        );
    }
    Ok(())
}

/// Its buckets have all its values.
fn filled(histogram: &Value) -> bool {
    let buckets = histogram["buckets"].as_array().into_iter().flatten();
    let count: u64 = buckets.filter_map(|bucket| bucket["count"].as_u64()).sum();
    histogram["count"] == count
}
