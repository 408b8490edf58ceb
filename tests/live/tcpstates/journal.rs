// SPDX-License-Identifier: MIT OR Apache-2.0
//! `-Y`, with a journal of the test's own.

use std::{collections::HashMap, os::unix::net::UnixDatagram, thread};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::fixture::{Fixture, HOSTS, of};
use crate::{scratch::Scratch, tool, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpstates::journal::fields", fields),
        trial("tcpstates::journal::none", none),
        trial("tcpstates::journal::stalled", stalled),
    ]
}

/// An entry for each row, with the fields of bcc.
fn fields() -> Result<()> {
    let path = Scratch::path("journal");
    let journal = UnixDatagram::bind(&*path)?;
    journal.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
    // Whatever the command prints is also an entry: nothing more comes once it has ended.
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ended = std::sync::Arc::clone(&over);
    let reader = thread::spawn(move || {
        let mut entries = Vec::new();
        loop {
            let last = ended.load(std::sync::atomic::Ordering::Relaxed);
            match entry(&journal) {
                Ok(entry) => entries.push(entry),
                Err(_) if last => return entries,
                Err(_) => {}
            }
        }
    });
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&["-Y", "--journal-socket", path.text()])?;
    let mut cookies = Vec::new();
    for host in &HOSTS[..2] {
        let session = fixture.session(*host)?;
        fixture.close(session)?;
        fixture.net.quiet()?;
        cookies.push(session.c_cookie);
    }
    let run = tool.stop()?;
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let entries = reader.join().expect("no panic");
    let rows = run.rows()?;
    ensure!(rows.len() == entries.len(), "{rows:?}");
    // Two sessions of two ends, and the listener of each: 24, but for what the kernel is known to have skipped.
    let skipped = run.records()?.last().and_then(|r| r["skipped"].as_u64());
    let told = rows.len() as u64 + skipped.context("skipped")?;
    ensure!(rows.len() <= 24 && told >= 24, "{told}: {rows:?}");
    for (cookie, family) in cookies.into_iter().zip(["IPV4", "IPV6"]) {
        for row in of(&rows, cookie) {
            let at = rows.iter().position(|r| r == row).context("its own row")?;
            same(row, &entries[at], family)?;
        }
    }
    Ok(())
}

fn entry(journal: &UnixDatagram) -> Result<HashMap<String, String>> {
    let mut buffer = vec![0; 4096];
    let n = journal.recv(&mut buffer)?;
    let text = std::str::from_utf8(&buffer[..n])?;
    let field = |line: &str| {
        let (key, value) = line.split_once('=').context("no value")?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.lines().map(field).collect()
}

fn same(row: &Value, entry: &HashMap<String, String>, family: &str) -> Result<()> {
    let address = |end: &str| format!("OBJECT_{family}_{end}_ADDRESS");
    for (field, key) in [
        ("OBJECT_PID", "pid"),
        ("OBJECT_COMM", "comm"),
        (&address("SOURCE"), "laddr"),
        (&address("DESTINATION"), "raddr"),
        ("OBJECT_TCP_SOURCE_PORT", "lport"),
        ("OBJECT_TCP_DESTINATION_PORT", "rport"),
        ("OBJECT_TCP_OLD_STATE", "old_state"),
        ("OBJECT_TCP_NEW_STATE", "new_state"),
        ("OBJECT_TCP_SPAN_TIME", "in_state_us"),
        ("OBJECT_TCP_COOKIE", "cookie"),
    ] {
        let expected = match &row[key] {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        ensure!(
            entry.get(field) == expected.as_ref(),
            "{field} of {entry:?}: {row}"
        );
    }
    ensure!(entry["SYSLOG_IDENTIFIER"] == "tcpstates" && entry["PRIORITY"] == "5");
    ensure!(entry["MESSAGE"].contains(" -> "), "{entry:?}");
    Ok(())
}

fn none() -> Result<()> {
    let path = Scratch::path("no-journal");
    let run = tool::run(
        "tcpstates",
        &["-Y", "--journal-socket", path.text(), "-d", "1"],
    )?;
    ensure!(
        run.status.code() == Some(1) && run.lines.is_empty(),
        "{run:?}"
    );
    ensure!(
        run.stderr
            .starts_with("tcpstates: cannot connect to the systemd journal at")
            && run.stderr.lines().count() == 1,
        "{run:?}"
    );
    Ok(())
}

/// A journal that does not read holds up no row, and what it does not get is counted.
fn stalled() -> Result<()> {
    let path = Scratch::path("stalled-journal");
    let _journal = UnixDatagram::bind(&*path)?;
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&["-Y", "--journal-socket", path.text()])?;
    let (listener, to) = fixture.listen(HOSTS[0])?;
    for _ in 0..200 {
        let session = fixture.connect(listener, &to)?;
        fixture.close(session)?;
    }
    fixture.net.quiet()?;
    let run = tool.stop()?;
    ensure!(run.rows()?.len() == 2001, "{}", run.lines.len());
    ensure!(
        run.stderr
            .starts_with("tcpstates: the journal did not accept "),
        "{}",
        run.stderr
    );
    Ok(())
}
