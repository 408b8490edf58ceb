// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owners are right or blank.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::fixture::{Fixture, HOSTS, of};
use crate::trial;

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpstates::owners::both_ends", both_ends),
        trial("tcpstates::owners::loopback", loopback),
        trial("tcpstates::owners::worker", worker),
        trial("tcpstates::owners::scanned", scanned),
    ]
}

fn both_ends() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&[])?;
    let mut sessions = Vec::new();
    for host in HOSTS {
        let session = fixture.session(host)?;
        fixture.close(session)?;
        fixture.net.quiet()?;
        sessions.push(session);
    }
    let rows = tool.stop()?.rows()?;
    for session in sessions {
        for (cookie, pid, comm, first) in [
            (session.c_cookie, fixture.c.pid(), "client", "socket"),
            (session.s_cookie, fixture.s.pid(), "server", "listener"),
        ] {
            for row in of(&rows, cookie) {
                ensure!(row["pid"] == pid && row["comm"] == comm, "{row}");
            }
            ensure!(of(&rows, cookie)[0]["pid_source"] == first);
        }
    }
    Ok(())
}

/// Both processes in one namespace, so that each runs the other's softirqs.
fn loopback() -> Result<()> {
    let fixture = Fixture::new()?;
    let mut s = fixture.net.a.agent()?;
    let mut c = fixture.net.a.agent()?;
    let tool = fixture.watch(&[])?;
    let (listener, to) = s.listen("127.0.0.1:0")?;
    for _ in 0..300 {
        let fd = c.open(&to)?;
        c.run(&format!("connect {fd} {to}"))?;
        let accepted = s.number(&format!("accept {listener}"))?;
        c.run(&format!("close {fd}"))?;
        s.run(&format!("eof {accepted}"))?;
        s.run(&format!("close {accepted}"))?;
    }
    fixture.net.quiet()?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 300 * 10 + 1, "{}", rows.len());
    let port: u64 = to
        .rsplit_once(':')
        .map_or(Ok(0), |(_, port)| port.parse())?;
    for row in &rows {
        let owner = if row["lport"] == port {
            s.pid()
        } else {
            c.pid()
        };
        ensure!(row["pid"] == owner, "not {owner}: {row}");
    }
    Ok(())
}

/// A child of the listening process takes the session over: its rows are the child's from its first act on.
fn worker() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&[])?;
    let (listener, to) = fixture.listen(HOSTS[0])?;
    let parent = fixture.s.pid();
    let session = fixture.connect(listener, &to)?;
    let child = fixture.s.fork(&[session.s])?;
    fixture.c.run(&format!("send {} 10", session.c))?;
    fixture.s.run(&format!("recv {} 10", session.s))?;
    fixture.s.run(&format!("close {}", session.s))?;
    fixture.s.exit_child()?;
    fixture.c.run(&format!("eof {}", session.c))?;
    fixture.c.run(&format!("close {}", session.c))?;
    fixture.net.quiet()?;
    let rows = tool.stop()?.rows()?;
    let rows = of(&rows, session.s_cookie);
    ensure!(
        rows[0]["pid"] == parent && rows[0]["pid_source"] == "listener",
        "{}",
        rows[0]
    );
    for row in &rows[2..] {
        ensure!(
            row["pid"] == child && row["pid_source"] == "socket",
            "{row}"
        );
    }
    Ok(())
}

fn scanned() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let session = fixture.session(HOSTS[1])?;
    let tool = fixture.watch(&[])?;
    fixture.s.run(&format!("linger0 {}", session.s))?;
    fixture.s.run(&format!("close {}", session.s))?;
    fixture.net.quiet()?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 2, "{rows:?}");
    for (cookie, pid) in [
        (session.c_cookie, fixture.c.pid()),
        (session.s_cookie, fixture.s.pid()),
    ] {
        ensure!(of(&rows, cookie)[0]["pid"] == pid, "{rows:?}");
    }
    Ok(())
}
