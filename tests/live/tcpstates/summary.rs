// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: against the rows of a second tcpstates, and against the sockets that are there.

use std::{collections::HashMap, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::fixture::{Fixture, HOSTS};
use crate::{trial, wait::apart_us};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpstates::summary::agrees_with_rows", agrees_with_rows),
        trial("tcpstates::summary::stuck", stuck),
        trial("tcpstates::summary::existing", existing),
        trial("tcpstates::summary::intervals", intervals),
    ]
}

fn state<'a>(rows: &'a [Value], name: &str) -> Result<&'a Value> {
    rows.iter()
        .find(|row| row["state"] == name)
        .with_context(|| format!("no {name} in {rows:?}"))
}

/// Counts exactly, the longest exactly, percentiles within 1/32.
fn agrees_with_rows() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let rows = fixture.watch(&[])?;
    let summary = fixture.watch(&["--summary"])?;
    for n in 0..60 {
        let session = fixture.session(HOSTS[n % 3])?;
        if n % 20 == 0 {
            sleep(Duration::from_millis(15));
        }
        fixture.close(session)?;
    }
    fixture.net.quiet()?;
    let (rows, summary) = (rows.stop()?.rows()?, summary.stop()?.rows()?);
    let mut times: HashMap<&str, (u64, Vec<u64>)> = HashMap::new();
    for row in &rows {
        let born = row["old_state"] == "LISTEN" && row["new_state"] == "SYN_RECV";
        if !born {
            let of_state = times
                .entry(row["old_state"].as_str().unwrap_or(""))
                .or_default();
            of_state.0 += 1;
            of_state.1.extend(row["in_state_us"].as_u64());
        }
    }
    for (name, (left, mut us)) in times {
        let row = state(&summary, name)?;
        ensure!(
            row["left"] == left && row["timed"] == us.len(),
            "{left} left: {row}"
        );
        us.sort_unstable();
        let Some(max) = us.last() else {
            ensure!(row["p50_us"].is_null() && row["max_us"].is_null(), "{row}");
            continue;
        };
        // Each of the two traces reads the clock for itself.
        let near = |key: &str, us: u64| {
            row[key]
                .as_u64()
                .is_some_and(|told| told.abs_diff(us) <= us / 32 + apart_us())
        };
        ensure!(near("max_us", *max), "{max}: {row}");
        for (key, percent) in [("p50_us", 50), ("p99_us", 99)] {
            let rank = (us.len() * percent).div_ceil(100);
            let about = [rank.saturating_sub(2), rank - 1, (rank).min(us.len() - 1)];
            let (low, high) = (us[about[0]], us[about[2]]);
            ensure!(
                row[key]
                    .as_u64()
                    .is_some_and(|told| told + told / 31 + apart_us() >= low
                        && told <= high + high / 31 + apart_us()),
                "{key} {low} to {high}: {row}"
            );
        }
    }
    Ok(())
}

/// Who is stuck in which state, how many, and who for the longest time.
fn stuck() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&["--summary", "--min-ms", "1000"])?;
    let (listener, to) = fixture.listen(HOSTS[1])?;
    let mut other = fixture.net.b.agent()?;
    other.comm("other")?;
    let (at_other, to_other) = other.listen("[fd09::2]:0")?;
    let sessions = (0..4)
        .map(|_| fixture.connect(listener, &to))
        .collect::<Result<Vec<_>>>()?;
    for session in &sessions[..3] {
        fixture.half_close(*session)?;
    }
    let fd = fixture.c.open(&to_other)?;
    fixture.c.run(&format!("connect {fd} {to_other}"))?;
    let accepted = other.number(&format!("accept {at_other}"))?;
    fixture.c.run(&format!("shutdown {fd} wr"))?;
    other.run(&format!("eof {accepted}"))?;
    fixture.await_fin_wait2(fd)?;
    sleep(Duration::from_millis(1010));
    // Too young to be shown, as long as the host does not stop for a second.
    fixture.connect(listener, &to)?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.iter().all(|row| row["event"] == "state"), "{rows:?}");
    let expect = |name: &str, expected: Value| {
        let row = state(&rows, name)?;
        for (key, value) in expected.as_object().context("an object")? {
            ensure!(row[key] == *value, "{key} {value}: {row}");
        }
        ensure!(row["oldest_us"].as_u64() >= Some(1_000_000), "{row}");
        Ok(())
    };
    expect(
        "CLOSE_WAIT",
        json!({
            "now": 4, "most_pid": fixture.s.pid(), "most_comm": "server", "most_sockets": 3, "left": 0,
            "oldest_pid": fixture.s.pid(), "oldest_cookie": sessions[0].s_cookie, "oldest_at_least": false,
            "oldest_laddr": "fd09::2", "oldest_raddr": "fd09::1", "oldest_netns": fixture.net.b.inode,
        }),
    )?;
    expect(
        "FIN_WAIT2",
        json!({
            "now": 4, "most_pid": fixture.c.pid(), "most_comm": "client", "most_sockets": 4,
            "oldest_cookie": sessions[0].c_cookie,
        }),
    )?;
    expect("ESTABLISHED", json!({"now": 2, "most_sockets": 1}))?;
    expect("LISTEN", json!({"now": 2}))
}

/// Sockets from before the start count, with a lower bound of their time, and are nobody else's.
fn existing() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let session = fixture.session(HOSTS[0])?;
    fixture.half_close(session)?;
    // Never used: in no state worth counting.
    fixture.c.open(HOSTS[0].0)?;
    let tool = fixture.watch(&["--summary", "--old", "!established"])?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 2, "{rows:?}");
    for (name, pid) in [
        ("CLOSE_WAIT", fixture.s.pid()),
        ("FIN_WAIT2", fixture.c.pid()),
    ] {
        let row = state(&rows, name)?;
        ensure!(
            row["now"] == 1 && row["most_pid"] == pid && row["oldest_at_least"] == true,
            "{row}"
        );
    }
    Ok(())
}

/// Each interval counts what happened in it; together they count everything.
fn intervals() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&["--summary=100ms", "--old", "established"])?;
    for n in 0..6 {
        let session = fixture.session(HOSTS[0])?;
        fixture.close(session)?;
        fixture.net.quiet()?;
        tool.wait_lines(n + 1)?;
    }
    let rows = tool.stop()?.rows()?;
    ensure!(
        rows.iter().all(|row| row["interval_us"].as_u64() > Some(0)),
        "{rows:?}"
    );
    let left: Vec<u64> = rows.iter().filter_map(|row| row["left"].as_u64()).collect();
    ensure!(
        left.iter().sum::<u64>() == 12 && left.len() >= 6,
        "{left:?}"
    );
    Ok(())
}
