// SPDX-License-Identifier: MIT OR Apache-2.0
//! The time in a state, against the test's own clock and against the rows' own times.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::fixture::{Fixture, HOSTS, of};
use crate::trial;

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpstates::times::clock", clock),
        trial("tcpstates::times::late_start", late_start),
    ]
}

fn now() -> Result<u64> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?).as_micros() as u64)
}

/// The time in the state that a row leaves, microseconds.
fn left<'a>(rows: &[&'a Value], state: &str) -> Result<(u64, &'a Value)> {
    let row = rows.iter().find(|row| row["old_state"] == state);
    let row = row.with_context(|| format!("{state} was not left"))?;
    Ok((row["in_state_us"].as_u64().context("unknown")?, row))
}

/// ESTABLISHED and FIN_WAIT2 last as long as the steps around them took, and every time is that between two rows.
fn clock() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&[])?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        let begin = now()?;
        let session = fixture.session(host)?;
        let open = now()?;
        sleep(Duration::from_millis(30));
        let before = now()?;
        fixture.half_close(session)?;
        let after = now()?;
        sleep(Duration::from_millis(20));
        let before_end = now()?;
        fixture.s.run(&format!("close {}", session.s))?;
        fixture.c.run(&format!("eof {}", session.c))?;
        fixture.c.run(&format!("close {}", session.c))?;
        fixture.net.quiet()?;
        let end = now()?;
        sessions.push((
            session,
            (before - open, after - begin),
            (before_end - after, end - before),
        ));
    }
    let rows = tool.stop()?.rows()?;
    for (session, established, waited) in sessions {
        let (c, s) = (of(&rows, session.c_cookie), of(&rows, session.s_cookie));
        for (rows, state, (least, most)) in [
            (&c, "ESTABLISHED", established),
            (&s, "ESTABLISHED", established),
            (&c, "FIN_WAIT2", waited),
            (&s, "CLOSE_WAIT", waited),
        ] {
            let (us, row) = left(rows, state)?;
            ensure!(us >= least && us <= most, "{least} to {most}: {row}");
        }
        exact(&c)?;
        exact(&s)?;
    }
    Ok(())
}

fn exact(rows: &[&Value]) -> Result<()> {
    ensure!(rows[0]["in_state_us"].is_null(), "{}", rows[0]);
    for pair in rows.windows(2) {
        let at = |row: &Value| row["boot_ns"].as_u64().context("no time");
        let between = (at(pair[1])? - at(pair[0])?) / 1000;
        ensure!(
            pair[1]["in_state_us"] == between,
            "{} after {}",
            pair[1],
            pair[0]
        );
    }
    Ok(())
}

/// Of a state that a socket was in before tracing began the time is not known; of the next one it is.
fn late_start() -> Result<()> {
    for flags in [&[][..], &["--no-scan"]] {
        let mut fixture = Fixture::new()?;
        let session = fixture.session(HOSTS[0])?;
        let tool = fixture.watch(flags)?;
        fixture.close(session)?;
        fixture.net.quiet()?;
        let rows = tool.stop()?.rows()?;
        exact(&of(&rows, session.c_cookie))?;
        exact(&of(&rows, session.s_cookie))?;
        ensure!(of(&rows, session.c_cookie).len() == 3, "{rows:?}");
    }
    Ok(())
}
