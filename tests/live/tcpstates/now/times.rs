// SPDX-License-Identifier: MIT OR Apache-2.0
//! For how long, against the test's own clock.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::{HOSTS, cut, ignore_answers, knock, look, port, until_state};
use crate::{
    tcpstates::fixture::{Fixture, Session},
    tool::Tool,
    wait::apart_us,
};

/// What the kernel counts in jiffies or milliseconds is so much coarser than a clock: two jiffies at 100 Hz.
pub const COARSE_US: u64 = 20_000;

pub fn now() -> Result<u64> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?).as_micros() as u64)
}

/// When the socket of a row entered its state, or later.
pub fn since(row: &Value) -> Result<u64> {
    let now = row["boot_ns"].as_u64().context("a time")? / 1000;
    Ok(now - row["in_state_us"].as_u64().context("a time")?)
}

fn only(rows: &[Value], is: impl Fn(&Value) -> bool) -> Result<&Value> {
    let mut rows = rows.iter().filter(|row| is(row));
    let row = rows.next().context("no row")?;
    ensure!(rows.next().is_none(), "two rows: {row}");
    Ok(row)
}

fn of(rows: &[Value], cookie: u64) -> Result<&Value> {
    only(rows, |row| row["cookie"] == cookie)
}

/// It entered its state between two moments, and that is known.
fn between(row: &Value, begin: u64, end: u64) -> Result<()> {
    let since = since(row)?;
    let within = since + COARSE_US + apart_us() >= begin && since <= end + COARSE_US;
    ensure!(within, "{begin} to {end}, not {since}: {row:#}");
    ensure!(row["in_state_at_least"] == false, "{row:#}");
    Ok(())
}

/// It entered its state before a moment, and not before another; how long before is not known.
fn at_least(row: &Value, begin: u64) -> Result<()> {
    ensure!(
        since(row)? + COARSE_US + apart_us() >= begin,
        "{begin}: {row:#}"
    );
    ensure!(row["in_state_at_least"] == true, "{row:#}");
    Ok(())
}

/// Before the command began, and yet known: without data, and of what has a time of its own.
pub fn exact() -> Result<()> {
    for host in HOSTS {
        let mut fixture = Fixture::new()?;
        let (listener, to) = fixture.listen(host)?;
        let (_, deaf) = fixture.listen(host)?;
        let (_, lost) = fixture.listen(host)?;
        ignore_answers(&fixture, &[port(&deaf)?])?;
        cut(&fixture, &[port(&lost)?])?;
        let begin = now()?;
        let quiet = fixture.connect(listener, &to)?;
        let spoken = fixture.connect(listener, &to)?;
        fixture.c.run(&format!("send {} 10", spoken.c))?;
        fixture.s.run(&format!("recv {} 10", spoken.s))?;
        let over = fixture.connect(listener, &to)?;
        let local = port(&fixture.c.run(&format!("local {}", over.c))?)?;
        fixture.close(over)?;
        fixture.net.a.over(local, port(&to)?)?;
        let unanswered = knock(&mut fixture, &lost)?;
        let unanswered = fixture.c.number(&format!("cookie {unanswered}"))?;
        let half = knock(&mut fixture, &deaf)?;
        let half = port(&fixture.c.run(&format!("local {half}"))?)?;
        until_state(&fixture.net.b, "SYN_RECV", 1)?;
        let end = now()?;
        sleep(Duration::from_millis(100));
        let rows = look(&fixture, &[])?;
        for cookie in [
            quiet.c_cookie,
            quiet.s_cookie,
            spoken.c_cookie,
            spoken.s_cookie,
        ] {
            between(of(&rows, cookie)?, begin, end)?;
        }
        between(of(&rows, unanswered)?, begin, end)?;
        let request = |row: &Value| row["state"] == "SYN_RECV" && row["rport"] == half;
        between(only(&rows, request)?, begin, end)?;
        let rest = |row: &Value| row["state"] == "TIME_WAIT" && row["lport"] == local;
        between(only(&rows, rest)?, begin, end)?;
    }
    Ok(())
}

fn exchange(fixture: &mut Fixture, session: Session) -> Result<()> {
    fixture.c.run(&format!("send {} 10", session.c))?;
    fixture.s.run(&format!("recv {} 10", session.s))?;
    fixture.s.run(&format!("send {} 10", session.s))?;
    fixture.c.run(&format!("recv {} 10", session.c))?;
    fixture.c.run(&format!("drained {}", session.c))?;
    fixture.s.run(&format!("drained {}", session.s)).map(drop)
}

/// Before the command began, and a lower bound: the last data, the last ACK.
pub fn least() -> Result<()> {
    let mut fixture = Fixture::new()?;
    for host in HOSTS {
        let begin = now()?;
        let spoken = fixture.session(host)?;
        exchange(&mut fixture, spoken)?;
        let half = fixture.session(host)?;
        exchange(&mut fixture, half)?;
        fixture.half_close(half)?;
        let quiet = now()?;
        sleep(Duration::from_millis(100));
        let rows = look(&fixture, &[])?;
        for cookie in [
            spoken.c_cookie,
            spoken.s_cookie,
            half.c_cookie,
            half.s_cookie,
        ] {
            let row = of(&rows, cookie)?;
            at_least(row, begin)?;
            // All that is known of the traffic: nothing has happened since.
            ensure!(since(row)? <= quiet + COARSE_US, "{quiet}: {row:#}");
            let idle = row["idle_us"].as_u64().context("data was sent")?;
            let sent = row["last_data_sent_us"].as_u64().context("data was sent")?;
            let received = row["last_data_recv_us"]
                .as_u64()
                .context("data was received")?;
            ensure!(
                idle == sent.min(received) && idle >= 100_000 - COARSE_US,
                "{row:#}"
            );
        }
    }
    Ok(())
}

/// While the command runs it sees each change; what it saw is exact.
pub fn seen() -> Result<()> {
    for host in HOSTS {
        let mut fixture = Fixture::new()?;
        let inodes = fixture.net.inodes();
        let args = ["--active", "-d", "1h", "--json", "--netns", &inodes];
        let tool = Tool::start("tcpstates", &args)?;
        let begin = now()?;
        let (listener, to) = fixture.listen(host)?;
        let session = fixture.connect(listener, &to)?;
        exchange(&mut fixture, session)?;
        let half = fixture.connect(listener, &to)?;
        exchange(&mut fixture, half)?;
        let open = now()?;
        fixture.half_close(half)?;
        let closed = now()?;
        until_state(&fixture.net.b, "CLOSE_WAIT", 1)?;
        let rows = tool.stop()?.rows()?;
        ensure!(rows.len() == 5, "{rows:#?}");
        for cookie in [session.c_cookie, session.s_cookie] {
            between(of(&rows, cookie)?, begin, open)?;
        }
        for cookie in [half.c_cookie, half.s_cookie] {
            between(of(&rows, cookie)?, open, closed)?;
        }
        let listens = only(&rows, |row| row["state"] == "LISTEN")?;
        between(listens, begin, open)?;
        ensure!(listens == &rows[4], "a listener comes last: {rows:#?}");
    }
    Ok(())
}
