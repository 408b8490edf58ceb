// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tcpconnect is asked to show.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Play, failures::refused};
use crate::{
    net::Netns,
    tool::{self, Tool},
    wait::PATIENCE,
};

pub fn failed_only(play: &mut Play, host: &str) -> Result<()> {
    let (c, s, _) = play.accepted(host)?;
    play.close(c, s)?;
    refused(play, host)
}

pub fn remote_port(play: &mut Play, host: &str) -> Result<()> {
    failed_only(play, host)
}

pub fn slow_only(play: &mut Play, host: &str) -> Result<()> {
    let (fd, row) = play.unanswered(host)?;
    thread::sleep(Duration::from_millis(60));
    play.scene.c.run(&format!("close {fd}"))?;
    play.want(&row, json!({"outcome": "aborted", "at_least_us": 50_000}));
    play.scene.net.b.nft("flush ruleset")?;
    refused(play, host)?;
    // Refused within microseconds: not among the rows.
    play.wants.pop();
    Ok(())
}

/// The name of loopback is in /etc/hosts.
pub fn names() -> Result<()> {
    let ns = Netns::new()?;
    let mut agent = ns.agent()?;
    let inode = ns.inode.to_string();
    let tool = Tool::start("tcpconnect", &["--json", "--dns", "--netns", &inode])?;
    let (_, at) = agent.listen("127.0.0.1:0")?;
    for _ in 0..2 {
        let fd = agent.open(&at)?;
        agent.run(&format!("connect {fd} {at}"))?;
        // The second one finds the name in the cache.
        tool.wait_lines(1)?;
    }
    tool.wait_lines(2)?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 2, "{rows:?}");
    let named = |row: &Value| {
        row["raddr_name"]
            .as_str()
            .is_some_and(|name| name.contains("localhost"))
    };
    ensure!(named(&rows[1]), "{}", rows[1]);
    Ok(())
}

/// What bcc has and we do not is refused with what does the same; a table has bcc's columns.
pub fn arguments() -> Result<()> {
    for (args, says) in [
        (&["--cgroupmap", "/x"][..], "--cgroup"),
        (&["--mntnsmap", "/x"], "--netns"),
        (&["-c", "--hist"], "--hist"),
        (&["--min-ms", "soon"], "soon"),
        (&["-P", "http"], "http"),
    ] {
        let run = tool::run("tcpconnect", args)?;
        ensure!(
            run.status.code() == Some(2) && run.lines.is_empty(),
            "{args:?}: {run:?}"
        );
        ensure!(
            run.stderr.lines().count() == 1 && run.stderr.contains(says),
            "{args:?}: {run:?}"
        );
    }
    let tool = Tool::start("tcpconnect", &["-t", "-U", "-L", "--netns", "self"])?;
    tool.signal(Signal::SIGINT)?;
    let run = tool.finish(PATIENCE)?;
    let header: Vec<_> = run.lines[0].split_whitespace().collect();
    ensure!(
        header
            == [
                "TIME(s)", "UID", "PID", "COMM", "IP", "SADDR", "LPORT", "DADDR", "DPORT",
                "OUTCOME", "MS"
            ],
        "{header:?}"
    );
    Ok(())
}
