// SPDX-License-Identifier: MIT OR Apache-2.0
//! Benchmarks in namespace `a`, servers in `b`, and the commands that watch both.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::witness::{LEAST, Owner, Server, Sessions, owned};
use crate::{net::Net, peer::Agent, scratch::Folder, tool::Tool};

pub struct Fixture {
    pub net: Net,
    /// For configurations, data and logs.
    pub folder: Folder,
    networks: [String; 2],
    /// Without BTF a command knows the bytes only in namespaces that have a process when it starts.
    _residents: [Agent; 2],
}

/// The commands that watch; tcplife also as it is on a kernel without BTF.
pub struct Watch {
    life: Tool,
    bare: Tool,
    accept: Tool,
    connect: Tool,
}

/// KiB: benchmarks leave the readers little of a small machine's time.
const BUFFER: &str = "16384";

/// Their rows, as many as the kernel counts opens.
pub struct Seen {
    ways: [Sessions; 2],
    accepts: Vec<Value>,
    connects: Vec<Value>,
    /// How many the kernel has sent.
    resets: usize,
}

impl Fixture {
    pub fn new() -> Result<Self> {
        let net = Net::new()?;
        let networks = net.own_networks()?;
        Ok(Self {
            _residents: [net.a.agent()?, net.b.agent()?],
            net,
            folder: Folder::new("server")?,
            networks,
        })
    }

    /// The servers' addresses, IPv4 and IPv6; no other test has them.
    pub fn servers(&self) -> [String; 2] {
        self.networks
            .each_ref()
            .map(|network| format!("{network}2"))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether something listens on this port of both families.
    pub fn listens(&self, port: u64) -> Result<bool> {
        let tables = self.net.b.inside(|| {
            Ok(["tcp", "tcp6"]
                .map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}"))))
        })?;
        let at = format!(":{port:04X}");
        let listener = |line: &str| {
            let fields: Vec<_> = line.split_whitespace().take(4).collect();
            matches!(fields[..], [_, local, _, "0A"] if local.ends_with(&at))
        };
        let mut all = true;
        for table in tables {
            all &= table?.lines().any(listener);
        }
        Ok(all)
    }

    pub fn watch(&self) -> Result<Watch> {
        let inodes = self.net.inodes();
        let [v4, v6] = &self.networks;
        let addresses = format!("{v4}0/24,{v6}/64");
        let here = ["--json", "--buffer", BUFFER, "--netns", &inodes];
        let records = ["--json", "--buffer", BUFFER, "--addr", &addresses];
        let start = |name| Tool::start(name, &here);
        Ok(Watch {
            life: start("tcplife")?,
            bare: Tool::start_reduced("btf", "tcplife", &records)?,
            accept: start("tcpaccept")?,
            connect: start("tcpconnect")?,
        })
    }

    /// Both namespaces' counter: they are new, so all of it was watched.
    fn counter(&self, name: &str) -> Result<usize> {
        let (a, b) = (self.net.a.counters()?, self.net.b.counters()?);
        Ok((a[name] + b[name]) as usize)
    }

    /// Once all sessions are over; servers listen on these ports.
    pub fn stop(&self, watch: Watch, ports: &[u64]) -> Result<Seen> {
        self.net.quiet()?;
        let opens = (
            self.counter("Tcp.PassiveOpens")?,
            self.counter("Tcp.ActiveOpens")?,
        );
        let life = Sessions::new(watch.life.stop()?.rows()?, false, ports, opens)?;
        let bare = watch.bare.stop()?;
        ensure!(bare.has_only_records(), "{}", bare.stderr);
        let bare = Sessions::new(bare.rows()?, true, ports, opens).context("without BTF")?;
        let accepts = watch.accept.stop()?.rows()?;
        let connects = watch.connect.stop()?.rows()?;
        let sent = connects
            .iter()
            .filter(|row| row["event"] == "connect" && row["syn_sent"] == true);
        let found = (accepts.len(), sent.count());
        ensure!(
            found == opens,
            "accepts and connects: {found:?}; the kernel counts {opens:?}"
        );
        Ok(Seen {
            ways: [life, bare],
            accepts,
            connects,
            resets: self.counter("Tcp.OutRsts")?,
        })
    }
}

impl Seen {
    /// Both runs of tcplife have the server's sessions as its log has them, and tcpaccept its opens.
    pub fn served(&self, server: &Server) -> Result<()> {
        for sessions in &self.ways {
            sessions.served(server, self.resets)?;
            sessions.ends_agree()?;
        }
        let here = |row: &&Value| row["lport"] == server.port;
        let owner = [(server.listener, server.comm, LEAST)];
        owned(self.accepts.iter().filter(here), &owner, false)
    }

    /// Those who opened connections to this port, over one family or any, were these clients.
    pub fn opened(&self, port: u64, family: Option<u64>, clients: &[Owner<'_>]) -> Result<()> {
        let there =
            |row: &&Value| row["rport"] == port && family.is_none_or(|f| row["family"] == f);
        for sessions in &self.ways {
            let rows = sessions.clients.iter().filter(there);
            owned(rows, clients, sessions.records)?;
        }
        owned(self.connects.iter().filter(there), clients, false)
    }
}
