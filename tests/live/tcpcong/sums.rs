// SPDX-License-Identifier: MIT OR Apache-2.0
//! Totals and histograms against the rows of another run, and against the kernel's counters.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{STATES, close, lossy, number, recover, time_out, trials};
use crate::{
    net::Net,
    pair::Pair,
    tool::Tool,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    [
        trials(&["--summary"], "totals", totals),
        trials(&["--summary", "--by", "comm"], "totals_by_comm", by_comm),
        trials(
            &["--summary=200ms"],
            "totals_at_an_interval",
            at_an_interval,
        ),
        trials(&["--hist"], "histograms", histograms),
        trials(&["--hist=raddr"], "histograms_by_address", by_address),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Every change of the client, as rows.
fn rows_beside(pair: &Pair) -> Result<Tool> {
    let inode = pair.net.a.inode.to_string();
    Tool::start("tcpcong", &["--json", "--netns", &inode])
}

/// The client's total: the server has sent nothing that could be lost.
fn only(totals: &[Value], side: impl Fn(&Value) -> bool) -> Result<&Value> {
    let mut mine = totals.iter().filter(|row| side(row));
    let one = mine.next().with_context(|| format!("{totals:#?}"))?;
    ensure!(mine.next().is_none(), "{totals:#?}");
    Ok(one)
}

/// How often the client's namespace has entered recovery.
fn recoveries(net: &Net) -> Result<u64> {
    let counters = net.a.counters()?;
    Ok(counters["TcpExt.TCPSackRecovery"] + counters["TcpExt.TCPRenoRecovery"])
}

fn time_of(total: &Value) -> Result<u64> {
    STATES
        .iter()
        .map(|state| number(total, &format!("{state}_us")))
        .sum()
}

/// Per connection: one that has closed, and one that is open.
fn totals(mut pair: Pair, host: &str) -> Result<()> {
    let beside = rows_beside(&pair)?;
    let began = Instant::now();
    let ends = pair.session(host)?;
    lossy(&mut pair, ends)?;
    let (closed, _) = pair.ports(ends.0)?;
    close(&mut pair, ends)?;
    let lived = began.elapsed();
    let began = Instant::now();
    let ends = pair.session(host)?;
    let timeouts = pair.net.a.counters()?["TcpExt.TCPTimeouts"];
    time_out(&mut pair, ends, timeouts + 1)?;
    let (open, _) = pair.ports(ends.0)?;
    let rows = beside.stop()?.rows()?;
    let inode = pair.net.a.inode;
    let totals = pair.tool.stop()?.rows()?;
    let open_for = began.elapsed();
    for (port, most) in [(closed, lived), (open, open_for)] {
        let total = only(&totals, |row| row["netns"] == inode && row["lport"] == port)?;
        ensure!(
            total["by"] == "flow" && total["event"] == "total",
            "{total}"
        );
        ensure!(
            u128::from(time_of(total)?) <= most.as_micros(),
            "{most:?}: {total}"
        );
        let mine = |row: &&Value| row["lport"] == port;
        for state in STATES {
            let changes = rows.iter().filter(mine);
            let changes = changes.filter(|row| row["new_ca_state"] == state).count();
            ensure!(
                total[format!("{state}_changes")] == changes,
                "{changes} to {state}: {total}"
            );
            // The last one has no row yet.
            let times = rows.iter().filter(mine);
            let times = times.filter(|row| row["old_ca_state"] == state);
            let us: u64 = times.filter_map(|row| row["in_state_us"].as_u64()).sum();
            let total_us = number(total, &format!("{state}_us"))?;
            ensure!(total_us + 100 >= us, "{us} us in {state}: {total}");
            let last = if port == closed { "open" } else { "loss" };
            ensure!(
                state == last || total_us <= us + 100,
                "{us} us in {state}: {total}"
            );
        }
    }
    Ok(())
}

/// One total of all connections of a process, also those to which nothing happened.
fn by_comm(mut pair: Pair, host: &str) -> Result<()> {
    let _quiet = pair.session(host)?;
    let ends = pair.session(host)?;
    let began = Instant::now();
    lossy(&mut pair, ends)?;
    let lossy_for = began.elapsed();
    close(&mut pair, ends)?;
    let totals = pair.tool.stop()?.rows()?;
    let recoveries = recoveries(&pair.net)?;
    let total = only(&totals, |row| row["comm"] == "client")?;
    ensure!(
        total["recovery_changes"] == recoveries && total["by"] == "comm",
        "{recoveries} recoveries: {total}"
    );
    let changes: u64 = STATES
        .iter()
        .map(|state| number(total, &format!("{state}_changes")))
        .sum::<Result<_>>()?;
    ensure!(total["changes"] == changes && changes > 0, "{total}");
    // Both connections lived at least so long.
    ensure!(
        u128::from(time_of(total)?) >= 2 * lossy_for.as_micros(),
        "{lossy_for:?}: {total}"
    );
    let share = total["not_open_percent"].as_f64().context("a share")?;
    let bad = time_of(total)? - number(total, "open_us")?;
    let expected = bad as f64 * 100.0 / time_of(total)? as f64;
    ensure!((share - expected).abs() < 0.01, "{expected} %: {total}");
    Ok(())
}

/// What is shown of each interval adds up to the whole: no time twice, and none left out.
fn at_an_interval(mut pair: Pair, host: &str) -> Result<()> {
    let ends = pair.session(host)?;
    time_out(&mut pair, ends, 1)?;
    let began = Instant::now();
    let seen = pair.tool.line_count();
    wait::until("four intervals", PATIENCE, || {
        Ok((pair.tool.line_count() >= seen + 4).then_some(()))
    })?;
    let least = began.elapsed();
    recover(&mut pair, ends)?;
    let inode = pair.net.a.inode;
    let totals = pair.tool.stop()?.rows()?;
    let mine: Vec<_> = totals.iter().filter(|row| row["netns"] == inode).collect();
    let sum = |key: &str| mine.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
    ensure!(sum("loss_changes") == 1, "{mine:#?}");
    ensure!(
        u128::from(sum("loss_us")) + 400_000 >= least.as_micros(),
        "{least:?}: {mine:#?}"
    );
    for row in &mine {
        let covered = number(row, "interval_us")?;
        ensure!(time_of(row)? <= covered + 50_000, "{row}");
    }
    Ok(())
}

/// As many values per state as times that have ended, each connection's last one included.
fn histograms(mut pair: Pair, host: &str) -> Result<()> {
    let beside = rows_beside(&pair)?;
    let ends = pair.session(host)?;
    lossy(&mut pair, ends)?;
    close(&mut pair, ends)?;
    let rows = beside.stop()?.rows()?;
    let hists = pair.tool.stop()?.rows()?;
    for state in STATES {
        let times: Vec<u64> = rows
            .iter()
            .filter(|row| row["old_ca_state"] == state)
            .filter_map(|row| row["in_state_us"].as_u64())
            .collect();
        // Both ends close in Open, which has no row.
        let more = if state == "open" { 2 } else { 0 };
        let hist = hists.iter().find(|hist| hist["ca_state"] == state);
        let count = hist.map_or(0, |hist| hist["count"].as_u64().unwrap_or(0));
        ensure!(
            count == times.len() as u64 + more,
            "{} times in {state}: {hist:?}",
            times.len()
        );
        let (Some(hist), Some(max)) = (hist, times.iter().max()) else {
            continue;
        };
        ensure!(
            hist["raddr"].is_null() && hist["event"] == "histogram",
            "{hist}"
        );
        // Each run reads the clock by itself.
        let near = |key: &str, us: u64| anyhow::Ok(number(hist, key)?.abs_diff(us) <= 200 * count);
        if state != "open" {
            let sum = times.iter().sum();
            let near = near("sum_us", sum)? && near("max_us", *max)?;
            ensure!(near, "{sum} us, {max} at most: {hist}");
        }
    }
    Ok(())
}

fn by_address(mut pair: Pair, host: &str) -> Result<()> {
    let ends = pair.session(host)?;
    lossy(&mut pair, ends)?;
    close(&mut pair, ends)?;
    let hists = pair.tool.stop()?.rows()?;
    let recoveries = recoveries(&pair.net)?;
    let server = host.rsplit_once(':').context("a port")?.0;
    let server = server.trim_matches(['[', ']']);
    let recovery = |hist: &&Value| hist["ca_state"] == "recovery" && hist["raddr"] == server;
    let found: Vec<_> = hists.iter().filter(recovery).collect();
    ensure!(
        found.len() == 1 && found[0]["count"] == recoveries,
        "{recoveries} recoveries: {hists:#?}"
    );
    ensure!(
        hists.iter().all(|hist| hist["raddr"].is_string()),
        "{hists:#?}"
    );
    Ok(())
}
