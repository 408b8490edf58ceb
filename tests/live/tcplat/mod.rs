// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcplat against the clocks of the processes that talk: what they did, and when, bounds every time of a row.

mod cli;
mod sums;
mod turns;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{missing, net::Net, peer::Agent, tool::Tool, trial};

pub fn tests() -> Vec<Trial> {
    trial::group([turns::tests(), sums::tests(), cli::tests()])
}

/// Where servers listen, by family.
const HOSTS: [&str; 2] = ["10.9.0.2:0", "[fd09::2]:0"];

/// A test over IPv4, then over IPv6.
fn both(name: &str, test: fn(&str) -> Result<()>) -> Trial {
    trial(format!("tcplat::{name}"), move || {
        missing::needs_programs()?;
        missing::needs_tracepoint_of("tcplat")?;
        test(HOSTS[0]).context("IPv4")?;
        test(HOSTS[1]).context("IPv6")
    })
}

/// A client in namespace `a`, a server in `b`, and a connection.
struct Scene {
    net: Net,
    c: Agent,
    s: Agent,
}

/// A connection by its descriptors, cookies, and the server's port.
#[derive(Clone, Copy)]
struct Talk {
    c: u64,
    s: u64,
    c_cookie: u64,
    s_cookie: u64,
    port: u64,
}

/// Two times of each step: before it and after it.
type Times = Vec<(u64, u64)>;

impl Scene {
    fn new() -> Result<Self> {
        let net = Net::new()?;
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        Ok(Self { net, c, s })
    }

    fn watch(&self, args: &[&str]) -> Result<Tool> {
        let inodes = self.net.inodes();
        Tool::start("tcplat", &[&["--json", "--netns", &inodes], args].concat())
    }

    fn connect(&mut self, host: &str) -> Result<Talk> {
        let (listener, at) = self.s.listen(host)?;
        let c = self.c.open(&at)?;
        self.c.run(&format!("connect {c} {at}"))?;
        let s = self.s.number(&format!("accept {listener}"))?;
        self.s.run(&format!("close {listener}"))?;
        Ok(Talk {
            c,
            s,
            c_cookie: self.c.number(&format!("cookie {c}"))?,
            s_cookie: self.s.number(&format!("cookie {s}"))?,
            port: at.rsplit_once(':').context("a port")?.1.parse()?,
        })
    }

    /// Both sides take their steps at the same time: the client's times, the server's.
    fn play(&mut self, talk: Talk, client: &str, server: &str) -> Result<[Times; 2]> {
        self.s.begin(&format!("timed {} {server}", talk.s))?;
        let c = self.c.run(&format!("timed {} {client}", talk.c))?;
        let s = self.s.finish()?;
        let s = s.map_err(|errno| anyhow::anyhow!("{server}: {errno:?}"))?;
        Ok([times(&c)?, times(&s)?])
    }
}

/// Of the answer of `timed`.
fn times(text: &str) -> Result<Times> {
    let all: std::result::Result<Vec<u64>, _> = text.split(' ').map(str::parse).collect();
    let all = all.context("times")?;
    Ok(all.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// The rows of one socket, in their order.
fn of(rows: &[Value], cookie: u64) -> Vec<&Value> {
    rows.iter().filter(|row| row["cookie"] == cookie).collect()
}

/// A time of a row must lie between these two, in ns. A row has whole microseconds, of two clocks that round by themselves.
fn within(row: &Value, key: &str, least: u64, most: u64) -> Result<()> {
    let us = row[key]
        .as_u64()
        .with_context(|| format!("no {key}: {row}"))?;
    let range = (least / 1000).saturating_sub(1)..=most / 1000 + 1;
    ensure!(range.contains(&us), "{key} is not in {range:?}: {row}");
    Ok(())
}
