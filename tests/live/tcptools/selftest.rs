// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcptools selftest`: what it says of this kernel, as root and with the commands' capabilities alone.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::tcptools;
use crate::{missing, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("front::selftest_as_root", as_root),
        trial("front::selftest_with_capabilities", with_capabilities),
        trial("front::selftest_refused", refused),
    ]
}

/// Where this kernel has every tracepoint, every comparison is made, and what was sent is in it.
fn as_root() -> Result<()> {
    let output = Command::new(tcptools())
        .args(["selftest", "--json"])
        .output()?;
    let lines = lines(&output)?;
    let (summary, comparisons) = lines.split_last().context("no line")?;
    ensure!(
        summary["differ"] == 0 && output.status.success(),
        "{lines:?}"
    );
    ensure!(
        summary["not_run"] == 0 || !missing::cookies(),
        "{comparisons:?}"
    );
    let made = |line: &&Value| line["verdict"] == "equal";
    for line in comparisons.iter().filter(made) {
        ensure!(
            line["rows"] == line["expected"] && line["rows"].as_u64() > Some(0),
            "{line}"
        );
    }
    Ok(())
}

/// A user namespace gives the network namespace; only the socket's filter may be refused, which is then said.
fn with_capabilities() -> Result<()> {
    missing::needs_programs()?;
    let caps = "-all,+bpf,+perfmon";
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["--inh-caps", caps, "--ambient-caps", caps])
        .args(["--bounding-set", caps])
        .arg(tcptools())
        .args(["selftest", "--json"])
        .output()?;
    let lines = lines(&output)?;
    ensure!(output.status.success(), "{lines:?}");
    let unsaid = lines.iter().find(|line| {
        line["verdict"] == "not_run" && line["why_not"].as_str().is_none_or(str::is_empty)
    });
    ensure!(unsaid.is_none(), "{unsaid:?}");
    ensure!(
        lines
            .iter()
            .filter(|line| line["verdict"] == "equal")
            .count()
            >= 8,
        "{lines:?}"
    );
    Ok(())
}

/// One sentence, and no table.
fn refused() -> Result<()> {
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["--bounding-set", "-all", "--inh-caps", "-all"])
        .arg(tcptools())
        .arg("selftest")
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1) && output.stdout.is_empty() && said.lines().count() == 1,
        "{output:?}"
    );
    Ok(())
}

fn lines(output: &Output) -> Result<Vec<Value>> {
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(serde_json::from_str);
    let lines: Result<Vec<Value>, _> = lines.collect();
    lines.with_context(|| format!("{output:?}"))
}
