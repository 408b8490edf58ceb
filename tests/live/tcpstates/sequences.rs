// SPDX-License-Identifier: MIT OR Apache-2.0
//! The states of both ends, one by one, for each way of closing.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::fixture::{CLIENT_FIRST, Fixture, HOSTS, Session, check, of, states};
use crate::{missing::needs_mptcp, net::Side, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        closing("client_first", client_first, CLIENT_FIRST),
        closing(
            "server_first",
            server_first,
            (
                "CLOSE SYN_SENT ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE",
                "LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE",
            ),
        ),
        closing("half_closed", half_closed, CLIENT_FIRST),
        closing(
            "simultaneous",
            simultaneous,
            (
                "CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 CLOSING CLOSE",
                "LISTEN SYN_RECV ESTABLISHED FIN_WAIT1 CLOSING CLOSE",
            ),
        ),
        closing(
            "reset",
            reset,
            (
                "CLOSE SYN_SENT ESTABLISHED CLOSE",
                "LISTEN SYN_RECV ESTABLISHED CLOSE",
            ),
        ),
        closing(
            "unread",
            unread,
            (
                "CLOSE SYN_SENT ESTABLISHED CLOSE",
                "LISTEN SYN_RECV ESTABLISHED CLOSE",
            ),
        ),
        closing(
            "reset_in_close_wait",
            reset_in_close_wait,
            (
                "CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE",
                "LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT CLOSE",
            ),
        ),
        trial(
            "tcpstates::sequences::refused_and_reused",
            refused_and_reused,
        ),
        trial("tcpstates::sequences::listener", listener),
        trial("tcpstates::sequences::mptcp", mptcp),
    ]
}

/// A way of closing, over every kind of address.
fn closing(
    name: &str,
    close: fn(&mut Fixture, Session) -> Result<()>,
    expected: (&'static str, &'static str),
) -> Trial {
    trial(format!("tcpstates::sequences::{name}"), move || {
        let mut fixture = Fixture::new()?;
        let tool = fixture.watch(&[])?;
        let mut sessions = Vec::new();
        for host in HOSTS {
            let session = fixture.session(host)?;
            close(&mut fixture, session).with_context(|| host.0.to_owned())?;
            fixture.net.quiet()?;
            sessions.push((host, session));
        }
        let rows = tool.stop()?.rows()?;
        for ((_, to), session) in sessions {
            check(&rows, session, expected)?;
            addresses(&of(&rows, session.c_cookie), to)?;
        }
        Ok(())
    })
}

/// An IPv4-mapped address is IPv4; the remote end is known from the first row on.
fn addresses(rows: &[&Value], to: &str) -> Result<()> {
    let v6 = to.starts_with('[');
    for row in rows {
        ensure!(row["family"] == if v6 { 6 } else { 4 }, "{row}");
        ensure!(row["raddr"] == to.trim_matches(['[', ']']), "{row}");
        ensure!(
            row["laddr"] == if v6 { "fd09::1" } else { "10.9.0.1" },
            "{row}"
        );
    }
    Ok(())
}

fn client_first(fixture: &mut Fixture, session: Session) -> Result<()> {
    fixture.close(session)
}

fn server_first(fixture: &mut Fixture, session: Session) -> Result<()> {
    fixture.s.run(&format!("close {}", session.s))?;
    fixture.c.run(&format!("eof {}", session.c))?;
    fixture.c.run(&format!("close {}", session.c)).map(drop)
}

fn half_closed(fixture: &mut Fixture, session: Session) -> Result<()> {
    fixture.c.run(&format!("shutdown {} wr", session.c))?;
    fixture.s.run(&format!("eof {}", session.s))?;
    fixture.s.run(&format!("send {} 5000", session.s))?;
    fixture.s.run(&format!("close {}", session.s))?;
    fixture.c.run(&format!("eof {}", session.c))?;
    fixture.c.run(&format!("close {}", session.c)).map(drop)
}

fn simultaneous(fixture: &mut Fixture, session: Session) -> Result<()> {
    fixture.net.hold(Side::A)?;
    fixture.net.hold(Side::B)?;
    fixture.c.run(&format!("close {}", session.c))?;
    fixture.s.run(&format!("close {}", session.s))?;
    fixture.net.release(Side::A)?;
    fixture.net.release(Side::B)
}

fn reset(fixture: &mut Fixture, session: Session) -> Result<()> {
    fixture.c.run(&format!("linger0 {}", session.c))?;
    fixture.c.run(&format!("close {}", session.c))?;
    fixture
        .s
        .fails(&format!("recv {} 1", session.s), libc::ECONNRESET)?;
    fixture.s.run(&format!("close {}", session.s)).map(drop)
}

fn unread(fixture: &mut Fixture, session: Session) -> Result<()> {
    fixture.s.run(&format!("send {} 100", session.s))?;
    fixture.s.run(&format!("drained {}", session.s))?;
    fixture.c.run(&format!("close {}", session.c))?;
    fixture
        .s
        .fails(&format!("recv {} 1", session.s), libc::ECONNRESET)?;
    fixture.s.run(&format!("close {}", session.s)).map(drop)
}

fn reset_in_close_wait(fixture: &mut Fixture, session: Session) -> Result<()> {
    fixture.half_close(session)?;
    fixture.s.run(&format!("linger0 {}", session.s))?;
    fixture.s.run(&format!("close {}", session.s))?;
    fixture
        .c
        .fails(&format!("recv {} 1", session.c), libc::ECONNRESET)?;
    fixture.c.run(&format!("close {}", session.c)).map(drop)
}

/// A socket that is refused and connects again: the second time its stay in CLOSE has been seen from its begin.
fn refused_and_reused() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&[])?;
    let mut sockets = Vec::new();
    for to in ["10.9.0.2:9", "[fd09::2]:9"] {
        let fd = fixture.c.open(to)?;
        for _ in 0..2 {
            fixture
                .c
                .fails(&format!("connect {fd} {to}"), libc::ECONNREFUSED)?;
        }
        sockets.push(fixture.c.number(&format!("cookie {fd}"))?);
    }
    let rows = tool.stop()?.rows()?;
    for cookie in sockets {
        ensure!(states(&rows, cookie)? == "CLOSE SYN_SENT CLOSE SYN_SENT CLOSE");
        let known: Vec<bool> = of(&rows, cookie)
            .iter()
            .map(|row| row["in_state_us"].is_u64())
            .collect();
        ensure!(known == [false, true, true, true], "{known:?}");
    }
    Ok(())
}

fn listener() -> Result<()> {
    let mut fixture = Fixture::new()?;
    let tool = fixture.watch(&[])?;
    let (fd, to) = fixture.listen(HOSTS[0])?;
    let cookie = fixture.s.number(&format!("cookie {fd}"))?;
    let session = fixture.connect(fd, &to)?;
    fixture.close(session)?;
    fixture.s.run(&format!("close {fd}"))?;
    fixture.net.quiet()?;
    let rows = tool.stop()?.rows()?;
    ensure!(states(&rows, cookie)? == "CLOSE LISTEN CLOSE");
    let born = of(&rows, session.s_cookie)[0];
    ensure!(
        born["in_state_us"].is_null() && born["rport"].as_u64() > Some(0),
        "a child has not been in LISTEN itself: {born}"
    );
    Ok(())
}

/// MPTCP reports changes from a state to itself, which are none; its connection-level sockets only on request.
fn mptcp() -> Result<()> {
    needs_mptcp()?;
    for (args, parents) in [(&[][..], false), (&["--mptcp"], true)] {
        let mut fixture = Fixture::new()?;
        let tool = fixture.watch(args)?;
        let s = fixture.s.number("socket 4 mptcp")?;
        fixture.s.run(&format!("bind {s} 10.9.0.2:0"))?;
        fixture.s.run(&format!("listen {s} 8"))?;
        let to = fixture.s.run(&format!("local {s}"))?;
        let c = fixture.c.number("socket 4 mptcp")?;
        let parent = fixture.c.number(&format!("cookie {c}"))?;
        fixture.c.run(&format!("connect {c} {to}"))?;
        let session = Session {
            c,
            s: fixture.s.number(&format!("accept {s}"))?,
            c_cookie: 0,
            s_cookie: 0,
        };
        fixture.close(session)?;
        fixture.net.quiet()?;
        let rows = tool.stop()?.rows()?;
        ensure!(
            rows.iter().all(|r| r["old_state"] != r["new_state"]),
            "{rows:?}"
        );
        ensure!(of(&rows, parent).is_empty() != parents, "{rows:?}");
        ensure!(
            rows.iter().any(|r| r["new_state"] == "SYN_RECV"),
            "{rows:?}"
        );
    }
    Ok(())
}
