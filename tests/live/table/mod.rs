// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table that has the state of TCP sockets (`src/bpf/common/owner/table.bpf.h`), under storms and crowds: every
//! session is counted, and is of its process, whoever takes the slot next.

pub mod crowd;
mod storm;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{net::Net, peer::Agent, tool::Tool};

pub fn tests() -> Vec<Trial> {
    crate::trial::group([crowd::tests(), storm::tests()])
}

/// Where servers listen, by family.
const HOSTS: [&str; 2] = ["10.9.0.2", "[fd09::2]"];

/// A client and a server of their own, which a port tells from other pairs.
struct Pair {
    c: Agent,
    s: Agent,
    listener: u64,
    at: String,
    port: u64,
    /// Where nobody listens.
    refuses: u64,
}

impl Pair {
    fn new(net: &Net, number: u64, host: &str) -> Result<Self> {
        let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
        c.comm(&format!("client{number}"))?;
        s.comm(&format!("server{number}"))?;
        let (listener, at) = s.listen(&format!("{host}:{}", 5000 + number))?;
        s.run(&format!("listen {listener} 4096"))?;
        Ok(Self {
            c,
            s,
            listener,
            at,
            port: 5000 + number,
            refuses: 6000 + number,
        })
    }

    /// The process of this end, if it is one of this pair's.
    fn owner(&self, row: &Value) -> Option<u32> {
        let ours = |key: &str| row[key] == self.port || row[key] == self.refuses;
        let client = ours("rport").then(|| self.c.pid());
        client.or_else(|| ours("lport").then(|| self.s.pid()))
    }
}

/// Every row is of the process that has this end; `unknown`: or of none.
fn owners_are_right(rows: &[Value], pairs: &[Pair], unknown: bool) -> Result<()> {
    for row in rows {
        let owner = pairs.iter().find_map(|pair| pair.owner(row));
        let right = owner.is_some_and(|pid| row["pid"] == pid);
        ensure!(
            right || (unknown && row["pid"].is_null()),
            "it is of {owner:?}: {row}"
        );
    }
    Ok(())
}

fn watch(net: &Net, name: &str, args: &[&str]) -> Result<Tool> {
    let inodes = net.inodes();
    Tool::start(name, &[&["--json", "--netns", &inodes], args].concat())
}
