// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client in namespace `a`, a server in `b`, tcplife watching both, and the rows that it has to print.

use std::{fs, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    net::{Net, Netns},
    peer::Agent,
    tool::{Run, Tool},
    trial,
};

/// Where servers listen, by family.
pub const HOSTS: [&str; 2] = ["10.9.0.2:0", "[fd09::2]:0"];

/// What the client sends in `talk`, and what the server answers.
pub const REQUEST: u64 = 1000;
pub const ANSWER: u64 = 30_000;

/// One end of a session: its descriptor in its agent, and its expected row.
#[derive(Clone, Debug)]
pub struct End {
    pub fd: u64,
    pub row: Value,
}

impl End {
    /// `lport` or `rport`.
    pub fn port(&self, name: &str) -> u64 {
        self.row[name].as_u64().unwrap_or_default()
    }
}

pub struct Scene {
    pub net: Net,
    pub c: Agent,
    pub s: Agent,
    pub tool: Option<Tool>,
    wants: Vec<Value>,
}

/// A test that is one scene, played over IPv4 and then over IPv6 while tcplife runs.
pub fn scene(name: &str, play: fn(&mut Scene, &str) -> Result<()>) -> Trial {
    trial(format!("tcplife::{name}"), move || {
        let mut scene = Scene::new()?;
        scene.watch(&[])?;
        for host in HOSTS {
            play(&mut scene, host).with_context(|| host.to_owned())?;
        }
        scene.finish()
    })
}

impl Scene {
    /// The two processes; no command runs yet.
    pub fn new() -> Result<Self> {
        let net = Net::new()?;
        let mut c = net.a.agent()?;
        let mut s = net.b.agent()?;
        c.comm("client")?;
        s.comm("server")?;
        Ok(Self {
            net,
            c,
            s,
            tool: None,
            wants: Vec::new(),
        })
    }

    /// tcplife starts, with JSON rows of these two namespaces.
    pub fn watch(&mut self, args: &[&str]) -> Result<()> {
        self.watch_without("", args)
    }

    /// The same, as if the kernel did not have these features.
    pub fn watch_without(&mut self, features: &str, args: &[&str]) -> Result<()> {
        let inodes = self.net.inodes();
        let all = [&["--json", "--netns", &inodes], args].concat();
        self.tool = Some(Tool::start_reduced(features, "tcplife", &all)?);
        Ok(())
    }

    /// A new session; the server keeps no listener.
    pub fn session(&mut self, host: &str) -> Result<(End, End)> {
        let (listener, at) = self.s.listen(host)?;
        let ends = self.connect(&at, listener)?;
        self.s.run(&format!("close {listener}"))?;
        Ok(ends)
    }

    /// A new session with a server that listens already.
    pub fn connect(&mut self, at: &str, listener: u64) -> Result<(End, End)> {
        let fd = self.c.open(at)?;
        self.c.run(&format!("connect {fd} {at}"))?;
        let accepted = self.s.number(&format!("accept {listener}"))?;
        Ok((self.client(fd)?, self.server(accepted)?))
    }

    /// A session after a request and an answer, all acknowledged.
    pub fn talk(&mut self, host: &str) -> Result<(End, End)> {
        let (c, s) = self.session(host)?;
        self.exchange(&c, &s)?;
        Ok((c, s))
    }

    /// A request and an answer, all acknowledged.
    pub fn exchange(&mut self, c: &End, s: &End) -> Result<()> {
        self.c.run(&format!("send {} {REQUEST}", c.fd))?;
        self.s.run(&format!("recv {} {REQUEST}", s.fd))?;
        self.s.run(&format!("send {} {ANSWER}", s.fd))?;
        self.c.run(&format!("recv {} {ANSWER}", c.fd))?;
        self.c.run(&format!("drained {}", c.fd))?;
        self.s.run(&format!("drained {}", s.fd)).map(drop)
    }

    /// So many sessions with nothing in them, each closed by its client; a listener for them is there already.
    pub fn brief(&mut self, at: &str, listener: u64, count: usize) -> Result<()> {
        for _ in 0..count {
            let fd = self.c.open(at)?;
            self.c.run(&format!("connect {fd} {at}"))?;
            let accepted = self.s.number(&format!("accept {listener}"))?;
            self.c.run(&format!("close {fd}"))?;
            self.s.run(&format!("eof {accepted}"))?;
            self.s.run(&format!("close {accepted}"))?;
        }
        Ok(())
    }

    /// The client's socket as an end.
    pub fn client(&mut self, fd: u64) -> Result<End> {
        end(&mut self.c, &self.net.a, fd)
    }

    /// A socket of the server as an end.
    pub fn server(&mut self, fd: u64) -> Result<End> {
        end(&mut self.s, &self.net.b, fd)
    }

    /// There must be one row of this end, with these fields besides those that identify it.
    pub fn want(&mut self, end: &End, fields: Value) {
        self.wants.push(merged(&end.row, fields));
    }

    /// As `want`, of the usual fields.
    pub fn want_end(&mut self, end: &End, reason: &str, tx: u64, rx: u64) {
        self.want(
            end,
            json!({"close_reason": reason, "tx_bytes": tx, "rx_bytes": rx}),
        );
    }

    /// As `want_end`, of a session that went as `talk` does.
    pub fn want_talk(&mut self, (c, s): &(End, End), client_reason: &str, server_reason: &str) {
        self.want_end(c, client_reason, REQUEST, ANSWER);
        self.want_end(s, server_reason, ANSWER, REQUEST);
    }

    /// Waits for the end of all sessions and stops tcplife: its rows must be those wanted, no more, no less.
    pub fn finish(mut self) -> Result<()> {
        self.net.quiet()?;
        let run = self.stop()?;
        compare(&run.rows()?, &self.wants)
    }

    pub fn stop(&mut self) -> Result<Run> {
        self.tool.take().context("nobody watches")?.stop()
    }

    /// As `check`, of these fields only: for rows that are made of records.
    pub fn check_only(&self, rows: &[Value], keys: &[&str]) -> Result<()> {
        let fields = |want: &Value| {
            let all = want.as_object().into_iter().flatten();
            let kept = all.filter(|(key, _)| keys.contains(&key.as_str()));
            kept.map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        let wants: Vec<_> = self
            .wants
            .iter()
            .map(|want| Value::Object(fields(want)))
            .collect();
        compare(rows, &wants)
    }

    /// The rows must be those wanted: for tests that stop tcplife themselves.
    pub fn check(&self, rows: &[Value]) -> Result<()> {
        compare(rows, &self.wants)
    }
}

/// Expected values of every row of this socket, read from the socket and /proc while it is open.
pub fn end(agent: &mut Agent, ns: &Netns, fd: u64) -> Result<End> {
    let local: SocketAddr = agent.run(&format!("local {fd}"))?.parse()?;
    let peer: SocketAddr = agent.run(&format!("peer {fd}"))?.parse()?;
    let comm = fs::read_to_string(format!("/proc/{}/comm", agent.pid()))?;
    let ip = |addr: SocketAddr| addr.ip().to_canonical();
    let row = json!({
        "tool": "tcplife", "event": "session", "netns": ns.inode,
        "cookie": agent.number(&format!("cookie {fd}"))?,
        "family": if ip(local).is_ipv4() { 4 } else { 6 },
        "laddr": ip(local).to_string(), "lport": local.port(),
        "raddr": ip(peer).to_string(), "rport": peer.port(),
        "pid": agent.pid(), "comm": comm.trim_end(), "uid": 0, "partial": false, "mptcp": null,
    });
    Ok(End { fd, row })
}

/// One object with the fields of both; the second one's win.
pub fn merged(row: &Value, fields: Value) -> Value {
    let mut row = row.clone();
    if let (Some(row), Value::Object(fields)) = (row.as_object_mut(), fields) {
        row.extend(fields);
    }
    row
}

/// Exactly one row for each wanted one, in any order.
pub fn compare(rows: &[Value], wants: &[Value]) -> Result<()> {
    let mut complaints = Vec::new();
    for want in wants {
        let found: Vec<&Value> = rows.iter().filter(|row| same_socket(row, want)).collect();
        match found[..] {
            [row] => complaints.extend(differences(row, want)),
            _ => complaints.push(format!("{} rows instead of one of {want}", found.len())),
        }
    }
    let strangers = rows
        .iter()
        .filter(|row| !wants.iter().any(|want| same_socket(row, want)));
    complaints.extend(strangers.map(|row| format!("a row too many: {row}")));
    ensure!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    Ok(())
}

/// By what identifies a socket, as far as the wanted row says it.
fn same_socket(row: &Value, want: &Value) -> bool {
    ["netns", "cookie", "lport", "rport", "event", "mptcp"]
        .iter()
        .all(|key| want.get(key).is_none_or(|w| *w == row[key]))
}

/// `not_pid` is a pid that would be wrong; `at_least_us` and `at_most_us` are bounds of the latency.
fn differences(row: &Value, want: &Value) -> Option<String> {
    let fields = want.as_object()?;
    let wrong: Vec<String> = fields
        .iter()
        .filter(|(key, value)| match key.as_str() {
            "not_pid" => row["pid"] == **value,
            "at_least_us" => row["latency_us"].as_u64() < value.as_u64(),
            "at_most_us" => row["latency_us"].as_u64() > value.as_u64(),
            key => row[key] != **value,
        })
        .map(|(key, value)| format!("{key} is {}, not {value}", row[key.as_str()]))
        .collect();
    (!wrong.is_empty()).then(|| format!("{}: {row}", wrong.join(", ")))
}
