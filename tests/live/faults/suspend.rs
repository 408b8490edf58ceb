// SPDX-License-Identifier: MIT OR Apache-2.0
//! A host that is suspended while commands run. What is expected: `boot_ns` and every duration have the time that the host
//! was away, `ts` is the wall clock's time, and nothing is lost.
//!
//! It is the whole host: only where `TCPTOOLS_OWN_HOST=1` says that nobody else needs it, as in a virtual machine.

use std::{
    env, fs,
    net::{TcpListener, TcpStream},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::{missing::Missing, net::Netns, tool::Tool, trial};

pub fn alone() -> Vec<Trial> {
    vec![trial("faults::suspend", suspend)]
}

/// What the host is told to sleep. Clocks that it reads when it wakes may know whole seconds only.
const SLEEP: &str = "+4";

fn suspend() -> Result<()> {
    if env::var("TCPTOOLS_OWN_HOST").is_ok_and(|own| own == "1") {
        return sleeps();
    }
    Err(Missing::Option("leave to suspend the host (TCPTOOLS_OWN_HOST=1)").into())
}

/// Suspends the host until its clock wakes it.
fn sleep() -> Result<()> {
    let (alarm, state) = ("/sys/class/rtc/rtc0/wakealarm", "/sys/power/state");
    let states = fs::read_to_string(state).unwrap_or_default();
    if !states.contains("mem") || !fs::exists(alarm)? {
        return Err(Missing::Feature("a host that can be suspended and wakes by itself").into());
    }
    fs::write(alarm, SLEEP).context(alarm)?;
    fs::write(state, "mem").context(state)
}

/// The clock that counts while the host sleeps, and how long it has slept.
fn clocks() -> Result<(Duration, Duration)> {
    let now = |clock| -> Result<Duration> { Ok(clock_gettime(clock)?.into()) };
    let boot = now(ClockId::CLOCK_BOOTTIME)?;
    Ok((boot, boot.saturating_sub(now(ClockId::CLOCK_MONOTONIC)?)))
}

fn session() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    Ok((client, listener.accept()?.0))
}

fn sleeps() -> Result<()> {
    let ns = Netns::new()?;
    let netns = ns.inode.to_string();
    let start = |name: &str| Tool::start(name, &["--json", "--netns", &netns]);
    let (lives, states, opens) = (start("tcplife")?, start("tcpstates")?, start("tcpconnect")?);
    let ends = ns.inside(session)?;
    let (begin, slept) = clocks()?;
    sleep()?;
    let (end, slept_then) = clocks()?;
    let slept = slept_then.saturating_sub(slept);
    if slept.is_zero() {
        return Err(
            Missing::Feature("a clock that stands still while the host is suspended").into(),
        );
    }
    drop(ends);
    drop(ns.inside(session)?);
    ns.quiet()?;
    let away = (
        slept.as_micros(),
        (clocks()?.0 - begin + Duration::from_secs(1)).as_micros(),
    );
    let through = |rows: &[Value], key: &str| -> Result<()> {
        let us = rows.iter().filter_map(|row| row[key].as_u64());
        let long = us.filter(|us| (away.0..away.1).contains(&u128::from(*us)));
        ensure!(long.count() == 2, "{key}, {away:?}: {rows:#?}");
        Ok(())
    };
    let (lives, states) = (lives.stop()?.rows()?, states.stop()?.rows()?);
    ensure!(lives.len() == 4, "{lives:#?}");
    through(&lives, "duration_us")?;
    let established = |row: &Value| row["old_state"] == "ESTABLISHED";
    let left: Vec<_> = states
        .iter()
        .filter(|row| established(row))
        .cloned()
        .collect();
    through(&left, "in_state_us")?;
    let opens = opens.stop()?.rows()?;
    ensure!(opens.len() == 2, "{opens:#?}");
    for row in lives.iter().chain(&states).chain(&opens[1..]) {
        timed(row)?;
    }
    let late = Duration::from_nanos(opens[1]["boot_ns"].as_u64().context("boot_ns")?);
    ensure!(
        late >= end && opens[0]["boot_ns"].as_u64() < Some(begin.as_nanos() as u64),
        "{opens:#?}"
    );
    Ok(())
}

/// `ts` and `boot_ns` are the same moment.
fn timed(row: &Value) -> Result<()> {
    let boot = row["boot_ns"].as_u64().context("boot_ns")?;
    let age = clocks()?.0.saturating_sub(Duration::from_nanos(boot));
    let wanted = (SystemTime::now() - age).duration_since(UNIX_EPOCH)?;
    let text = row["ts"].as_str().context("ts")?;
    let unix = chrono::DateTime::parse_from_rfc3339(text)?.timestamp();
    let apart = unix.abs_diff(wanted.as_secs() as i64);
    ensure!(apart <= 1, "{apart} s apart: {row}");
    Ok(())
}
