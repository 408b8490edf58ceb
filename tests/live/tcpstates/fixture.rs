// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client in namespace `a`, a server in `b`, and what tcpstates says of each of their sockets.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    net::Net,
    peer::Agent,
    tool::Tool,
    wait::{self, PATIENCE},
};

/// Where servers listen, and where clients connect to: IPv4, IPv6, and IPv4 to a dual-stack listener.
pub const HOSTS: [(&str, &str); 3] = [
    ("10.9.0.2:0", "10.9.0.2"),
    ("[fd09::2]:0", "[fd09::2]"),
    ("[::]:0", "10.9.0.2"),
];

/// The states of both ends of a session that the client closes first.
pub const CLIENT_FIRST: (&str, &str) = (
    "CLOSE SYN_SENT ESTABLISHED FIN_WAIT1 FIN_WAIT2 CLOSE",
    "LISTEN SYN_RECV ESTABLISHED CLOSE_WAIT LAST_ACK CLOSE",
);

pub struct Fixture {
    pub net: Net,
    pub c: Agent,
    pub s: Agent,
}

/// A session: descriptors in the agents, and cookies.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub c: u64,
    pub s: u64,
    pub c_cookie: u64,
    pub s_cookie: u64,
}

impl Fixture {
    pub fn new() -> Result<Self> {
        let net = Net::new()?;
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        Ok(Self { net, c, s })
    }

    /// tcpstates, with JSON rows of these two namespaces.
    pub fn watch(&self, args: &[&str]) -> Result<Tool> {
        let inodes = self.net.inodes();
        Tool::start(
            "tcpstates",
            &[&["--json", "--netns", &inodes], args].concat(),
        )
    }

    /// A listener, and the address to connect to.
    pub fn listen(&mut self, host: (&str, &str)) -> Result<(u64, String)> {
        let (fd, at) = self.s.listen(host.0)?;
        let port = at.rsplit_once(':').context("no port")?.1;
        Ok((fd, format!("{}:{port}", host.1)))
    }

    /// A session with a server that listens already.
    pub fn connect(&mut self, listener: u64, to: &str) -> Result<Session> {
        let c = self.c.open(to)?;
        self.c.run(&format!("connect {c} {to}"))?;
        let s = self.s.number(&format!("accept {listener}"))?;
        Ok(Session {
            c,
            s,
            c_cookie: self.c.number(&format!("cookie {c}"))?,
            s_cookie: self.s.number(&format!("cookie {s}"))?,
        })
    }

    /// A session of its own listener, which is closed.
    pub fn session(&mut self, host: (&str, &str)) -> Result<Session> {
        let (listener, to) = self.listen(host)?;
        let session = self.connect(listener, &to)?;
        self.s.run(&format!("close {listener}"))?;
        Ok(session)
    }

    /// The client has finished; the server knows, and the client knows that (an ACK may be late).
    pub fn half_close(&mut self, session: Session) -> Result<()> {
        self.c.run(&format!("shutdown {} wr", session.c))?;
        self.s.run(&format!("eof {}", session.s))?;
        self.await_fin_wait2(session.c)
    }

    /// The client's FIN is acknowledged.
    pub fn await_fin_wait2(&mut self, fd: u64) -> Result<()> {
        wait::until("FIN_WAIT2", PATIENCE, || {
            Ok((self.c.info(fd)?["state"] == 5).then_some(()))
        })
    }

    /// The client closes, then the server.
    pub fn close(&mut self, session: Session) -> Result<()> {
        self.c.run(&format!("close {}", session.c))?;
        self.s.run(&format!("eof {}", session.s))?;
        self.s.run(&format!("close {}", session.s)).map(drop)
    }
}

/// The rows of one socket, in the order in which they came.
pub fn of(rows: &[Value], cookie: u64) -> Vec<&Value> {
    rows.iter().filter(|row| row["cookie"] == cookie).collect()
}

/// The states that a socket went through; each row must begin where the one before it ended.
pub fn states(rows: &[Value], cookie: u64) -> Result<String> {
    let mut path = String::new();
    for row in of(rows, cookie) {
        let state = |name: &str| row[name].as_str().context("no state");
        let (old, new) = (state("old_state")?, state("new_state")?);
        if path.is_empty() {
            path.push_str(old);
        }
        ensure!(path.ends_with(old), "{path}, then {row}");
        path.push(' ');
        path.push_str(new);
    }
    Ok(path)
}

/// Compares the states of both ends with what they must be.
pub fn check(rows: &[Value], session: Session, expected: (&str, &str)) -> Result<()> {
    for (cookie, expected) in [
        (session.c_cookie, expected.0),
        (session.s_cookie, expected.1),
    ] {
        let got = states(rows, cookie)?;
        ensure!(got == expected, "expected {expected}\n     got {got}");
    }
    Ok(())
}
