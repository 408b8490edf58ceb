// SPDX-License-Identifier: MIT OR Apache-2.0
//! The message of an idle command, only on a terminal.

use std::{fs::File, io::Read, process::Stdio, thread};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::pty::openpty;

use super::{command, kill_at_last};
use crate::{missing::needs_tracepoint_of, net::Netns, tools, trial};

/// What shows something later, by its arguments, and what it says of that.
const WAITING: [(&str, &[&str], &str); 12] = [
    ("tcpprobe", &["--hist"], "shown at the end"),
    ("tcpprobe", &["--live"], "shown every 1s"),
    ("tcpconnect", &["--count"], "shown at the end"),
    ("tcpretrans", &["--summary"], "shown at the end"),
    ("tcpretrans", &["-c"], "shown at the end"),
    ("tcpreset", &["--summary"], "shown at the end"),
    ("tcpdrop", &["--summary"], "shown at the end"),
    ("tcpstates", &["--summary=2s"], "shown every 2s"),
    ("tcpaccept", &["--summary"], "shown at the end"),
    ("tcprcvspace", &["--summary=2s"], "shown every 2s"),
    ("tcpcong", &["--summary"], "shown at the end"),
    ("tcpcong", &["--hist"], "shown at the end"),
];

pub fn tests() -> Vec<Trial> {
    let each = tools::ALL.iter().map(|tool| {
        trial(format!("cli_contract::idle::{tool}"), move || {
            says(tool, &[], "... ")
        })
    });
    let waiting = WAITING.iter().map(|(tool, args, what)| {
        let name = format!("cli_contract::idle::{tool}_{}", args[0].trim_matches('-'));
        trial(name, move || says(tool, args, what))
    });
    each.chain(waiting).collect()
}

/// On a terminal a line at the beginning, and one at the end if there were no rows; elsewhere nothing.
fn says(tool: &str, args: &[&str], what: &str) -> Result<()> {
    needs_tracepoint_of(tool)?;
    let quiet = Netns::new()?;
    let netns = quiet.inode.to_string();
    let own: &[&str] = if tool == "sockbuf" {
        &["-L", "1"]
    } else {
        &["--netns", &netns]
    };
    let args = [args, own, &["--duration", "100ms"]].concat();
    let pty = openpty(None, None)?;
    let child = command("", tool, &args)
        .stderr(pty.slave.try_clone()?)
        .spawn()?;
    drop(pty.slave);
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        // It ends with an error: the other end is closed.
        let _ = File::from(pty.master).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    ensure!(kill_at_last(child)?.success());
    let said = reader.join().expect("no panic");
    // What an old kernel lacks is said, too.
    let of_run = |line: &&str| !line.contains(": this kernel ");
    let lines: Vec<_> = said.lines().filter(of_run).collect();
    let begin = format!("{tool}: tracing ");
    ensure!(lines.len() == 2, "{said}");
    ensure!(
        lines[0].starts_with(&begin) && lines[0].contains(what),
        "{said}"
    );
    ensure!(
        lines[0].ends_with("ends after 100ms, Ctrl-C to end"),
        "{said}"
    );
    ensure!(
        lines[1].starts_with(&format!("{tool}: 0 rows in ")),
        "{said}"
    );

    let output = command("", tool, &args)
        .stderr(Stdio::piped())
        .spawn()?
        .wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.success() && !said.contains("tracing"),
        "{said}"
    );
    ensure!(!said.contains("rows in"), "{said}");
    Ok(())
}
