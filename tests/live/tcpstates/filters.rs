// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filters by state and by time in the old state.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::fixture::{Fixture, HOSTS, of};
use crate::{missing, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpstates::filters::states", by_state),
        trial("tcpstates::filters::min_ms", min_ms),
        trial(
            "tcpstates::filters::min_ms_of_old_sockets",
            min_ms_of_old_sockets,
        ),
    ]
}

fn by_state() -> Result<()> {
    for (flags, expected) in [
        (&["--old", "Established,fin-wait-2"][..], (2, 1)),
        (&["--old", "!ESTABLISHED"], (4, 4)),
        (&["--new", "close"], (1, 1)),
        (&["--new", "!established,CLOSE"], (3, 3)),
        (&["--old", "established", "--new", "!close_wait"], (1, 0)),
        (&["--old", "listen"], (0, 1)),
        (&["--old", "closing"], (0, 0)),
    ] {
        let mut fixture = Fixture::new()?;
        let tool = fixture.watch(flags)?;
        let session = fixture.session(HOSTS[0])?;
        fixture.close(session)?;
        fixture.net.quiet()?;
        let rows = tool.stop()?.rows()?;
        let got = (
            of(&rows, session.c_cookie).len(),
            of(&rows, session.s_cookie).len() + nameless(&rows),
        );
        ensure!(got == expected, "{flags:?}: {got:?} of {rows:?}");
    }
    Ok(())
}

/// Rows of the server's socket as it is born, where that has no cookie yet and no later row tells it.
fn nameless(rows: &[Value]) -> usize {
    let born = |row: &&Value| row["new_state"] == "SYN_RECV" && row["cookie"].is_null();
    match missing::cookies() {
        true => 0,
        false => rows.iter().filter(born).count(),
    }
}

/// Only what has waited long enough; what has an unknown time has not.
fn min_ms() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&["--min-ms", "99.5"])?;
    let begin = Instant::now();
    let brief = fixture.session(HOSTS[0])?;
    fixture.close(brief)?;
    let brief_took = begin.elapsed();
    let long = fixture.session(HOSTS[1])?;
    sleep(Duration::from_millis(100));
    fixture.close(long)?;
    fixture.net.quiet()?;
    let mut rows = tool.stop()?.rows()?;
    if brief_took >= Duration::from_micros(99_500) {
        // On a busy host it may have been as long.
        rows.retain(|row| row["cookie"] != brief.c_cookie && row["cookie"] != brief.s_cookie);
    }
    ensure!(rows.len() == 2, "{rows:?}");
    for row in &rows {
        ensure!(row["old_state"] == "ESTABLISHED", "{row}");
        ensure!(
            row["cookie"] == long.c_cookie || row["cookie"] == long.s_cookie,
            "{row}"
        );
        ensure!(row["in_state_us"].as_u64() >= Some(99_500), "{row}");
    }
    Ok(())
}

/// A socket from before the start has been in its state at least since then: that much is known.
fn min_ms_of_old_sockets() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let (brief, long) = (fixture.session(HOSTS[0])?, fixture.session(HOSTS[0])?);
    let tool = fixture.watch(&["--min-ms", "300"])?;
    fixture.close(brief)?;
    sleep(Duration::from_millis(300));
    fixture.close(long)?;
    fixture.net.quiet()?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 2, "{rows:?}");
    for row in &rows {
        ensure!(
            row["in_state_us"].is_null() && row["old_state"] == "ESTABLISHED",
            "{row}"
        );
        ensure!(
            row["cookie"] == long.c_cookie || row["cookie"] == long.s_cookie,
            "{row}"
        );
    }
    Ok(())
}
