// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client in namespace `a` and a server in `b` with sessions that stay open, so that every segment is a sample.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{net::Net, peer::Agent, tool::Tool};

/// Where the server listens, and where the client connects to with a socket like that: IPv4, IPv6, IPv4-mapped.
pub const HOSTS: [&str; 3] = ["10.9.0.2:0", "[fd09::2]:0", "[::ffff:10.9.0.2]:0"];

/// An established session, by its descriptors and cookies.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    pub c: u64,
    pub s: u64,
    pub c_cookie: u64,
    pub s_cookie: u64,
    /// The server's port.
    pub port: u64,
}

pub struct Scene {
    pub net: Net,
    pub c: Agent,
    pub s: Agent,
}

impl Scene {
    pub fn new() -> Result<Self> {
        let net = Net::new()?;
        // Built in everywhere, and it sets a threshold when it meets a loss.
        for ns in [&net.a, &net.b] {
            ns.sysctl("ipv4/tcp_congestion_control", "reno")?;
        }
        let (c, s) = (net.a.agent()?, net.b.agent()?);
        Ok(Self { net, c, s })
    }

    /// tcpprobe with JSON rows of these two namespaces.
    pub fn watch(&self, args: &[&str]) -> Result<Tool> {
        let inodes = self.net.inodes();
        let all = [&["--json", "--netns", &inodes], args].concat();
        Tool::start("tcpprobe", &all)
    }

    pub fn connect(&mut self, host: &str) -> Result<Talk> {
        let (listener, at) = self.s.listen(host)?;
        let c = self.c.open(&at)?;
        self.c.run(&format!("connect {c} {at}"))?;
        let s = self.s.number(&format!("accept {listener}"))?;
        self.s.run(&format!("close {listener}"))?;
        let port = at.rsplit_once(':').context("a port")?.1.parse()?;
        Ok(Talk {
            c,
            s,
            c_cookie: self.c.number(&format!("cookie {c}"))?,
            s_cookie: self.s.number(&format!("cookie {s}"))?,
            port,
        })
    }

    /// Bytes to the server and back, all acknowledged: nothing is under way afterwards.
    pub fn exchange(&mut self, talk: Talk, there: u64, back: u64) -> Result<()> {
        let Talk { c, s, .. } = talk;
        self.c.begin(&format!("send {c} {there}"))?;
        self.s.run(&format!("recv {s} {there}"))?;
        self.c
            .finish()?
            .map_err(|e| anyhow::anyhow!("send: {e:?}"))?;
        self.s.begin(&format!("send {s} {back}"))?;
        self.c.run(&format!("recv {c} {back}"))?;
        self.s
            .finish()?
            .map_err(|e| anyhow::anyhow!("send: {e:?}"))?;
        self.c.run(&format!("drained {c}"))?;
        self.s.run(&format!("drained {s}")).map(drop)
    }

    /// Segments that the two namespaces have received, without those that were joined to one that waited already
    /// (net/ipv4/tcp_ipv4.c: tcp_add_backlog).
    pub fn segments(&self) -> Result<u64> {
        let mut sum = 0;
        for ns in [&self.net.a, &self.net.b] {
            let counters = ns.counters()?;
            sum += counters["Tcp.InSegs"] - counters["TcpExt.TCPBacklogCoalesce"];
        }
        Ok(sum)
    }
}

/// The rows of one socket.
pub fn of(rows: &[Value], cookie: u64) -> Vec<Value> {
    rows.iter()
        .filter(|row| row["cookie"] == cookie)
        .cloned()
        .collect()
}

/// A row without its times: two runs of the command see the same at slightly different times.
pub fn timeless(rows: &[Value]) -> Vec<Value> {
    let mut rows = rows.to_vec();
    for row in &mut rows {
        for key in ["ts", "boot_ns", "pid", "comm", "pid_source"] {
            row.as_object_mut().and_then(|row| row.remove(key));
        }
    }
    rows
}

/// The two must be the same rows in the same order.
pub fn same(what: &str, got: &[Value], want: &[Value]) -> Result<()> {
    let (got, want) = (timeless(got), timeless(want));
    ensure!(
        got.len() == want.len(),
        "{what}: {} rows, not {}",
        got.len(),
        want.len()
    );
    for (got, want) in got.iter().zip(&want) {
        ensure!(got == want, "{what}: {got}\nis not {want}");
    }
    Ok(())
}
