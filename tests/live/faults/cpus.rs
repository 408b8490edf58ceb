// SPDX-License-Identifier: MIT OR Apache-2.0
//! A processor that is taken offline and comes back, while commands run and while one starts. What is expected: nothing is
//! lost, and rows are as many as the kernel counts.
//!
//! It is the whole host's processor: only where `TCPTOOLS_OWN_HOST=1` says that nobody else needs it, as in a virtual
//! machine.

use std::{env, fs, sync::Arc};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;

use super::flood::Flood;
use crate::{missing::Missing, net::Netns, tool::Tool, trial, unseen};

pub fn alone() -> Vec<Trial> {
    vec![trial("faults::cpus::offline", offline)]
}

/// A processor that is offline as long as this lives.
struct Offline(String);

impl Offline {
    /// The last one: the first one may have to stay.
    fn new() -> Result<Self> {
        let online = fs::read_to_string("/sys/devices/system/cpu/online")?;
        let last = online.trim().rsplit([',', '-']).next().context("none")?;
        let switch = format!("/sys/devices/system/cpu/cpu{last}/online");
        if last == "0" || !fs::exists(&switch)? {
            return Err(Missing::Feature("a processor that can be taken offline").into());
        }
        fs::write(&switch, "0").with_context(|| switch.clone())?;
        Ok(Self(switch))
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        let _ = fs::write(&self.0, "1");
    }
}

fn offline() -> Result<()> {
    if env::var("TCPTOOLS_OWN_HOST").is_ok_and(|own| own == "1") {
        return taken_away();
    }
    let leave = "leave to take a processor offline (TCPTOOLS_OWN_HOST=1)";
    Err(Missing::Option(leave).into())
}

fn taken_away() -> Result<()> {
    let ns = Arc::new(Netns::new()?);
    let netns = ns.inode.to_string();
    let before = unseen::count();
    let start = |name| Tool::start(name, &["--json", "--netns", &netns]);
    let tools = ["tcplife", "tcpconnect", "tcpaccept"].map(start);
    let tools = tools.into_iter().collect::<Result<Vec<_>>>()?;
    let flood = Flood::new(&ns);
    flood.more(100)?;
    let offline = Offline::new()?;
    let late = start("tcpstates")?;
    flood.more(100)?;
    drop(offline);
    flood.more(100)?;
    flood.end()?;
    ns.quiet()?;
    let counters = ns.counters()?;
    let (active, passive) = (counters["Tcp.ActiveOpens"], counters["Tcp.PassiveOpens"]);
    ensure!(!late.stop()?.rows()?.is_empty(), "no row");
    for (tool, wanted) in tools.into_iter().zip([active + passive, active, passive]) {
        let rows = tool.stop()?.rows()?.len() as u64;
        let unseen = unseen::count() - before;
        let right = rows <= wanted && rows + unseen >= wanted;
        ensure!(right, "{rows} rows of {wanted}, {unseen} unseen");
    }
    Ok(())
}
