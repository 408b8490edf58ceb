// SPDX-License-Identifier: MIT OR Apache-2.0
//! A flow's first row, which a filter of local ports has to wait for.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::fixture::{CLIENT_FIRST, Fixture, HOSTS, of, states};
use crate::{net::Net, trial};

/// The only ports that connect() may choose in the client's namespace.
const LOCAL: &str = "41000-41099";

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcpstates::held::first_row", first_row),
        trial("tcpstates::held::other_ports", other_ports),
        trial("tcpstates::held::no_answer", no_answer),
        trial("tcpstates::held::given_up", given_up),
        trial("tcpstates::held::states", held_states),
    ]
}

/// The only ones that a server of any port may get.
const SERVERS: &str = "42000-42999";

fn fixture() -> Result<Fixture> {
    let fixture = Fixture::new()?;
    let range = "ipv4/ip_local_port_range";
    let Net { a, b, .. } = &fixture.net;
    a.sysctl(range, &LOCAL.replace('-', " "))?;
    b.sysctl(range, &SERVERS.replace('-', " "))?;
    Ok(fixture)
}

/// Its port is there, its time is its own, it comes first, and there is one.
fn check_first(rows: &[&Value]) -> Result<()> {
    let first = rows[0];
    ensure!(
        first["old_state"] == "CLOSE" && first["new_state"] == "SYN_SENT",
        "{first}"
    );
    ensure!(
        (41_000..=41_099).contains(&first["lport"].as_u64().unwrap_or(0)),
        "{first}"
    );
    ensure!(first["lport"] == rows[1]["lport"]);
    let at = |row: &Value| row["boot_ns"].as_u64().unwrap_or(0);
    ensure!(
        rows[1]["in_state_us"] == (at(rows[1]) - at(first)) / 1000,
        "{first}, then {}",
        rows[1]
    );
    Ok(())
}

fn first_row() -> Result<()> {
    for filter in [["-L", LOCAL], ["--port", LOCAL], ["-L", "!22,80"]] {
        let mut fixture = fixture()?;
        let tool = fixture.watch(&filter)?;
        let mut sessions = Vec::new();
        for host in HOSTS {
            let session = fixture.session(host)?;
            fixture.close(session)?;
            fixture.net.quiet()?;
            sessions.push(session);
        }
        let rows = tool.stop()?.rows()?;
        for session in sessions {
            ensure!(
                states(&rows, session.c_cookie)? == CLIENT_FIRST.0,
                "{filter:?}"
            );
            check_first(&of(&rows, session.c_cookie))?;
        }
    }
    Ok(())
}

/// What does not match makes no row, held or not.
fn other_ports() -> Result<()> {
    for filter in [
        ["-L", "1-1023"],
        ["--port", "1-1023"],
        ["-L", "!41000-41099"],
    ] {
        let mut fixture = fixture()?;
        let tool = fixture.watch(&filter)?;
        let session = fixture.session(HOSTS[0])?;
        fixture.close(session)?;
        fixture.net.quiet()?;
        let rows = tool.stop()?.rows()?;
        ensure!(
            of(&rows, session.c_cookie).is_empty(),
            "{filter:?}: {rows:?}"
        );
    }
    Ok(())
}

fn no_answer() -> Result<()> {
    let mut fixture = fixture()?;
    fixture.net.b.nft(
        "add table inet t\nadd chain inet t in { type filter hook input priority 0; policy drop; }\n",
    )?;
    let tool = fixture.watch(&["-L", LOCAL])?;
    let fd = fixture.c.open(HOSTS[0].0)?;
    fixture.c.run(&format!("nonblock {fd}"))?;
    fixture
        .c
        .fails(&format!("connect {fd} 10.9.0.2:80"), libc::EINPROGRESS)?;
    // The first retransmission tells the port; nothing else happens to this socket.
    tool.wait_lines(1)?;
    let info = fixture.c.info(fd)?;
    ensure!(info["state"] == 2, "no longer in SYN_SENT: {info:?}");
    fixture.c.run(&format!("close {fd}"))?;
    let rows = tool.stop()?.rows()?;
    ensure!(
        rows.len() == 2 && rows[1]["new_state"] == "CLOSE",
        "{rows:?}"
    );
    check_first(&rows.iter().collect::<Vec<_>>())
}

/// Closed before any answer: the row comes with the end.
fn given_up() -> Result<()> {
    let mut fixture = fixture()?;
    fixture.net.hold(crate::net::Side::A)?;
    let tool = fixture.watch(&["-L", LOCAL])?;
    let fd = fixture.c.open(HOSTS[0].0)?;
    fixture.c.run(&format!("nonblock {fd}"))?;
    fixture
        .c
        .fails(&format!("connect {fd} 10.9.0.2:80"), libc::EINPROGRESS)?;
    fixture.c.run(&format!("close {fd}"))?;
    let rows = tool.stop()?.rows()?;
    ensure!(
        rows.len() == 2 && rows[1]["new_state"] == "CLOSE",
        "{rows:?}"
    );
    check_first(&rows.iter().collect::<Vec<_>>())
}

/// The other filters decide about a held row as about any other.
fn held_states() -> Result<()> {
    for (flags, wanted) in [
        (["--new", "syn_sent"], 1),
        (["--old", "!close"], 4),
        (["--comm", "client"], 5),
        (["--comm", "!client"], 0),
    ] {
        let mut fixture = fixture()?;
        let tool = fixture.watch(&[&["-L", LOCAL], &flags[..]].concat())?;
        let session = fixture.session(HOSTS[1])?;
        fixture.close(session)?;
        fixture.net.quiet()?;
        let rows = tool.stop()?.rows()?;
        ensure!(rows.len() == wanted, "{flags:?}: {rows:?}");
    }
    Ok(())
}
