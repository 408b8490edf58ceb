// SPDX-License-Identifier: MIT OR Apache-2.0
//! A client in namespace `a`, a server in `b`, and a command that watches both: for commands that show trouble.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    missing,
    net::{Net, Netns},
    peer::Agent,
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

/// Where servers listen, by family.
const HOSTS: [&str; 2] = ["10.9.0.2:0", "[fd09::2]:0"];

pub struct Pair {
    pub net: Net,
    pub c: Agent,
    pub s: Agent,
    pub tool: Tool,
}

/// One test per family, each in namespaces of its own: their counters begin at zero.
pub fn trials(
    tool: &'static str,
    args: &'static [&'static str],
    name: &str,
    play: fn(Pair, &str) -> Result<()>,
) -> Vec<Trial> {
    let one = |host: &'static str| {
        let family = if host.starts_with('[') { 6 } else { 4 };
        trial(format!("{tool}::{name}_v{family}"), move || {
            play(Pair::new(tool, args)?, host)
        })
    };
    HOSTS.map(one).into()
}

impl Pair {
    fn new(tool: &str, args: &[&str]) -> Result<Self> {
        if args.iter().any(|arg| ["--reason", "--why"].contains(arg)) {
            missing::needs_programs()?;
            missing::needs_drop_reasons()?;
        }
        let net = Net::new()?;
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm("client")?;
        s.comm("server")?;
        let inodes = net.inodes();
        let tool = Tool::start(tool, &[&["--json", "--netns", &inodes], args].concat())?;
        Ok(Self { net, c, s, tool })
    }

    /// A new session with a listener: the client's descriptor, the server's.
    pub fn connect(&mut self, at: &str, listener: u64) -> Result<(u64, u64)> {
        let fd = self.c.open(at)?;
        self.c.run(&format!("connect {fd} {at}"))?;
        Ok((fd, self.s.number(&format!("accept {listener}"))?))
    }

    /// A new session, and no listener.
    pub fn session(&mut self, host: &str) -> Result<(u64, u64)> {
        let (listener, at) = self.s.listen(host)?;
        let ends = self.connect(&at, listener)?;
        self.s.run(&format!("close {listener}"))?;
        Ok(ends)
    }

    /// `what` of the client's socket, and its ports: local, remote.
    pub fn ports(&mut self, fd: u64) -> Result<(u64, u64)> {
        let port = |text: String| -> Result<u64> {
            Ok(text.rsplit_once(':').context("a port")?.1.parse()?)
        };
        let local = port(self.c.run(&format!("local {fd}"))?)?;
        Ok((local, port(self.c.run(&format!("peer {fd}"))?)?))
    }

    /// Waits for a row, and returns it.
    pub fn row(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        wait::until(what, PATIENCE, || {
            Ok(self.tool.seen()?.iter().find(|row| is_it(row)).cloned())
        })
    }

    /// All rows of the run, each with an owner that is right or unknown, and the kernel's counters of both sides.
    pub fn finish(self) -> Result<(Vec<Value>, [Side; 2])> {
        let rows = self.tool.stop()?.rows()?;
        let sides = [
            Side::new(&self.net.a, &self.c)?,
            Side::new(&self.net.b, &self.s)?,
        ];
        for row in &rows {
            let side = sides.iter().find(|side| side.is(row));
            let pid = side.context("a row of another namespace")?.pid;
            ensure!(
                row["pid"].is_null() || row["pid"] == pid,
                "the owner is {pid}: {row}"
            );
            let family = if row["laddr"].to_string().contains(':') {
                6
            } else {
                4
            };
            ensure!(row["family"] == family, "{row}");
        }
        Ok((rows, sides))
    }
}

/// A rule for incoming packets, in a table that `pass` removes.
pub fn filter(ns: &Netns, hook: &str, rule: &str) -> Result<()> {
    ns.nft(&format!(
        "table inet trouble {{\n chain c {{\n type filter hook {hook} priority 0;\n {rule}\n }}\n}}\n"
    ))
}

/// Everything passes again.
pub fn pass(ns: &Netns) -> Result<()> {
    ns.nft("delete table inet trouble\n")
}

/// The counters of a namespace at the end.
pub struct Side {
    inode: u64,
    pub pid: u32,
    counters: HashMap<String, u64>,
}

impl Side {
    fn new(ns: &Netns, agent: &Agent) -> Result<Self> {
        Ok(Self {
            inode: ns.inode,
            pid: agent.pid(),
            counters: ns.counters()?,
        })
    }

    pub fn is(&self, row: &Value) -> bool {
        row["netns"] == self.inode
    }

    /// A counter, as `Tcp.RetransSegs`.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let value = self.counters.get(name);
        value.copied().with_context(|| format!("no counter {name}"))
    }
}
