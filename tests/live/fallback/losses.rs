// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events are lost: what is known of an address may be another socket's by then.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{scene::Scene, trials};
use crate::{net::Netns, peer::Agent, tool::Tool};

pub fn tests() -> Vec<Trial> {
    trials("losses::owners", owners)
}

/// Sessions while the reader stands still: several times what its buffer holds.
const SESSIONS: usize = 60;
const ROUNDS: usize = 3;

/// A client and a server with a port of their own.
struct Pair {
    c: Agent,
    s: Agent,
    listener: u64,
    to: String,
    port: u64,
}

impl Pair {
    fn new(a: &Netns, b: &Netns, host: &(String, String)) -> Result<Self> {
        let (c, mut s) = (a.agent()?, b.agent()?);
        let (listener, at) = s.listen(&host.0)?;
        let port = at.rsplit_once(':').context("no port")?.1;
        Ok(Self {
            to: format!("{}:{port}", host.1),
            port: port.parse()?,
            c,
            s,
            listener,
        })
    }

    fn talk(&mut self) -> Result<()> {
        let c = self.c.open(&self.to)?;
        self.c.run(&format!("connect {c} {}", self.to))?;
        let s = self.s.number(&format!("accept {}", self.listener))?;
        self.c.run(&format!("close {c}"))?;
        self.s.run(&format!("eof {s}"))?;
        self.s.run(&format!("close {s}")).map(drop)
    }

    /// A row of one of its sockets has the right owner, or none.
    fn is_right(&self, row: &Value) -> bool {
        let pid = match row["lport"] == self.port {
            true => self.s.pid(),
            false => self.c.pid(),
        };
        row["pid"].is_null() || row["pid"] == pid
    }
}

/// Two pairs of processes whose sockets lie at the same addresses, one after another: no row names one of the other pair.
fn owners(scene: Scene) -> Result<()> {
    for host in &scene.hosts()[..2] {
        let addresses = scene.addresses();
        let args = ["--json", "--buffer", "64", "--addr", &addresses];
        let names = ["tcpstates", "tcplife"];
        let start = |name| Tool::start_reduced(scene.without, name, &args);
        let tools = names.map(start);
        let tools = tools.into_iter().collect::<Result<Vec<_>>>()?;
        let mut pairs = [(); 2].map(|()| Pair::new(&scene.net.a, &scene.net.b, host));
        for _ in 0..ROUNDS {
            for pair in &mut pairs {
                let pair = pair.as_mut().map_err(|e| anyhow::anyhow!("{e:#}"))?;
                stopped(&tools, || (0..SESSIONS).try_for_each(|_| pair.talk()))?;
                // With the reader at work.
                pair.talk()?;
            }
        }
        let pairs = pairs.into_iter().collect::<Result<Vec<_>>>()?;
        for tool in tools {
            check(&tool.stop()?.records()?, &pairs)?;
        }
    }
    Ok(())
}

fn stopped(tools: &[Tool], act: impl FnOnce() -> Result<()>) -> Result<()> {
    for tool in tools {
        tool.signal(Signal::SIGSTOP)?;
    }
    act()?;
    tools
        .iter()
        .try_for_each(|tool| tool.signal(Signal::SIGCONT))
}

fn check(records: &[Value], pairs: &[Pair]) -> Result<()> {
    let (summary, rows) = records.split_last().context("no summary")?;
    ensure!(
        summary["lost"].as_u64() > Some(0),
        "nothing lost: {summary}"
    );
    for pair in pairs {
        let has_port = |row: &&Value| row["lport"] == pair.port || row["rport"] == pair.port;
        let of_pair: Vec<_> = rows.iter().filter(has_port).collect();
        let named = of_pair.iter().filter(|row| row["pid"].is_u64()).count();
        ensure!(named > 0, "no owner at all");
        let wrong = of_pair.iter().find(|row| !pair.is_right(row));
        ensure!(wrong.is_none(), "{wrong:?}");
    }
    Ok(())
}
