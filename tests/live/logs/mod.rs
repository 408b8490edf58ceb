// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows where logs go: `-o journal`, `-o otlp`, `--host`. The same events in JSON say what must be there.

mod front;
mod journal;
mod journald;
mod otlp;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Map, Value};

use crate::{net::Net, tool::Tool, trial};

pub fn tests() -> Vec<Trial> {
    let mut all = vec![trial("logs::host", host)];
    all.extend(journal::tests());
    all.extend(journald::tests());
    all.extend(otlp::tests());
    all
}

/// Those that start all commands.
pub fn many() -> Vec<Trial> {
    front::tests()
}

/// Commands, with flags, whose rows two runs of the same events have alike.
const ALIKE: [&[&str]; 7] = [
    &["tcplife"],
    &["tcpstates"],
    &["tcpconnect"],
    &["tcpaccept"],
    &["tcpinfo"],
    &["tcpreset"],
    &["tcpconnect", "--count"],
];

/// Sessions over IPv4 and IPv6, whose clients have names that would be something else in a log, and a refused one.
fn traffic(net: &Net) -> Result<()> {
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    for (name, to) in [
        ("6e65770a4c494e453d31", "10.9.0.2:0"),
        ("22fffe5c", "[fd09::2]:0"),
    ] {
        let (listener, at) = s.listen(to)?;
        c.run(&format!("comm {name}"))?;
        let fd = c.open(&at)?;
        c.run(&format!("connect {fd} {at}"))?;
        let accepted = s.number(&format!("accept {listener}"))?;
        c.run(&format!("close {fd}"))?;
        s.run(&format!("eof {accepted}"))?;
        s.run(&format!("close {accepted}"))?;
        s.run(&format!("close {listener}"))?;
        let fd = c.open(&at)?;
        // Nobody listens any more.
        let _ = c.run(&format!("connect {fd} {at}"));
        c.run(&format!("close {fd}"))?;
    }
    net.quiet()
}

/// What each of two runs measures by itself.
fn is_own(key: &str) -> bool {
    key == "tool" || key.ends_with("_us") || key.ends_with("_ns") || key == "ts"
}

/// The record, without what a run measures by itself, and what it does not know.
fn shared(record: &Value) -> Map<String, Value> {
    let all = record.as_object().cloned().unwrap_or_default();
    let known = all.into_iter();
    let known = known.filter(|(key, value)| !is_own(key) && !value.is_null());
    known.collect()
}

/// Every record names the host and its boot, whatever it is of.
fn host() -> Result<()> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let boot_id = boot_id.trim();
    for args in [
        &["tcplife"][..],
        &["tcpconnect", "--count"],
        &["tcpconnect", "--hist"],
    ] {
        let net = Net::new()?;
        let inodes = net.inodes();
        let more = ["--netns", &inodes, "--host=web1"];
        let start = |format| Tool::start(args[0], &[&args[1..], &more, &[format]].concat());
        let (json, csv) = (start("--json")?, start("--csv")?);
        traffic(&net)?;
        let (json, csv) = (json.stop()?, csv.stop()?);
        let records = json.records()?;
        ensure!(records.len() > 1, "{json:?}");
        for record in &records {
            ensure!(
                record["host"] == "web1" && record["boot_id"] == boot_id,
                "{record}"
            );
        }
        let (header, rows) = csv.lines.split_first().unwrap_or((&csv.stderr, &[]));
        ensure!(header.starts_with("tool,event,ts,host,boot_id,"), "{csv:?}");
        let named = format!(",web1,{boot_id},");
        ensure!(
            !rows.is_empty() && rows.iter().all(|row| row.contains(&named)),
            "{csv:?}"
        );
    }
    Ok(())
}
