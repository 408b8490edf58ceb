// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose a socket is, in every command: the process that acted last and has it. Nobody who has ended is shown with an
//! open socket, and a filter by process decides with the owner that the row shows.

mod dying;
mod handed_on;
mod listeners;
mod table;
mod whose;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{net::Net, peer::Agent, tool::Tool, trial};

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        dying::tests(),
        handed_on::tests(),
        listeners::tests(),
        table::tests(),
        whose::tests(),
    ])
}

/// Where servers listen, by family.
const HOSTS: [&str; 2] = ["10.9.0.2:0", "[fd09::2]:0"];

/// A client in namespace `a`, a server in `b`.
struct Scene {
    net: Net,
    c: Agent,
    s: Agent,
}

/// Descriptors of a session, and the server's port.
struct Session {
    c: u64,
    s: u64,
    port: u64,
}

/// Played over IPv4 and over IPv6, in a scene of its own each.
fn scene(name: &str, play: fn(&mut Scene, &str) -> Result<()>) -> Trial {
    trial(format!("owners::{name}"), move || {
        for host in HOSTS {
            let mut scene = Scene::new()?;
            play(&mut scene, host).with_context(|| host.to_owned())?;
        }
        Ok(())
    })
}

impl Scene {
    fn new() -> Result<Self> {
        let net = Net::new()?;
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        Ok(Self { net, c, s })
    }

    fn watch(&self, name: &str, args: &[&str]) -> Result<Tool> {
        let inodes = self.net.inodes();
        Tool::start(name, &[&["--json", "--netns", &inodes], args].concat())
    }

    /// A session; the server keeps no listener.
    fn session(&mut self, host: &str) -> Result<Session> {
        let (listener, at) = self.s.listen(host)?;
        let session = self.connect(listener, &at)?;
        self.s.run(&format!("close {listener}"))?;
        Ok(session)
    }

    fn connect(&mut self, listener: u64, at: &str) -> Result<Session> {
        let port = at.rsplit_once(':').context("no port")?.1.parse()?;
        let c = self.c.open(at)?;
        self.c.run(&format!("connect {c} {at}"))?;
        let s = self.s.number(&format!("accept {listener}"))?;
        Ok(Session { c, s, port })
    }

    /// Bytes from the client to the process that has the server's end.
    fn send(&mut self, session: &Session, bytes: u64) -> Result<()> {
        self.c.run(&format!("send {} {bytes}", session.c))?;
        self.s.run(&format!("recv {} {bytes}", session.s)).map(drop)
    }
}

/// The only row with this event and this local port.
fn only<'r>(rows: &'r [Value], event: &str, lport: u64) -> Result<&'r Value> {
    let mut found = rows
        .iter()
        .filter(|row| row["event"] == event && row["lport"] == lport);
    match (found.next(), found.next()) {
        (Some(row), None) => Ok(row),
        _ => anyhow::bail!("not one {event} of port {lport}: {rows:?}"),
    }
}

/// A summary's row of a state.
fn state<'r>(rows: &'r [Value], name: &str) -> Result<&'r Value> {
    rows.iter()
        .find(|row| row["state"] == name)
        .with_context(|| format!("no {name}: {rows:?}"))
}

fn is_of(row: &Value, pid: u32, comm: &str) -> Result<()> {
    ensure!(
        row["pid"] == pid && row["comm"] == comm,
        "not {comm} {pid}: {row}"
    );
    Ok(())
}
