// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcptools follow`, `triage` and `record`: the same formats, and the host in whatever they write.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::{
    journal::{Journal, same},
    otlp, traffic,
};
use crate::{
    net::Net,
    scratch::Scratch,
    tool::{self, Tool},
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![trial("logs::front::one_recording_in_every_format", formats)]
}

/// A recording that names its host, told as entries of the journal and as OTLP; and findings of it.
fn formats() -> Result<()> {
    let (net, file) = (Net::new()?, Scratch::path("named.jsonl"));
    let inodes = net.inodes();
    let args = [
        "record",
        "--netns",
        &inodes,
        "--host=web1",
        "-o",
        file.text(),
    ];
    let record = Tool::start("tcptools", &args)?;
    traffic(&net)?;
    let run = record.stop()?;
    ensure!(run.status.success(), "{run:?}");
    let text = std::fs::read_to_string(&*file)?;
    for line in text.lines() {
        let row: Value = serde_json::from_str(line)?;
        ensure!(row["host"] == "web1", "{row}");
    }
    let from = ["--from", file.text()];
    let told = tool::run("tcptools", &[&["follow"], &from[..], &["--json"]].concat())?;
    let records: Vec<Value> = told
        .lines
        .iter()
        .map(|line| serde_json::from_str(line).context(line.clone()))
        .collect::<Result<_>>()?;
    ensure!(records.len() > 10 && told.status.success(), "{told:?}");

    let journal = Journal::new("follow")?;
    let to = ["-o", "journal", "--journal-socket", journal.path()];
    let logged = tool::run("tcptools", &[&["follow"], &from[..], &to].concat())?;
    let entries = journal.end();
    ensure!(
        logged.lines.is_empty() && logged.status.success(),
        "{logged:?}"
    );
    ensure!(entries.len() == records.len(), "{entries:?}");
    for (record, entry) in records.iter().zip(&entries) {
        let mut record = record.clone();
        // Of `tcptools` itself, which has none of these.
        if let Some(all) = record.as_object_mut() {
            all.retain(|_, value| !value.is_array());
        }
        same(&record, entry)?;
    }

    let lines = tool::run(
        "tcptools",
        &[&["follow"], &from[..], &["-o", "otlp"]].concat(),
    )?;
    ensure!(lines.lines.len() == records.len(), "{lines:?}");
    for (record, line) in records.iter().zip(&lines.lines) {
        let (attributes, log) = otlp::attributes(line)?;
        let event = record["event"].as_str().context("an event")?;
        ensure!(
            attributes["tcptools.event"]["stringValue"] == event,
            "{line}"
        );
        ensure!(log["body"]["stringValue"].is_string(), "{line}");
    }

    let triage = ["triage", "--host=web1", "--json"];
    let found = tool::run("tcptools", &[&triage[..], &from].concat())?;
    for line in &found.lines {
        let row: Value = serde_json::from_str(line)?;
        ensure!(row["host"] == "web1" && row["boot_id"].is_string(), "{row}");
    }
    let journal = Journal::new("triage")?;
    let to = [
        "triage",
        "-o",
        "journal",
        "--journal-socket",
        journal.path(),
    ];
    let logged = tool::run("tcptools", &[&to[..], &from].concat())?;
    let entries = journal.end();
    ensure!(
        entries.len() == found.lines.len() && logged.status == found.status,
        "{entries:?}"
    );
    let summary = entries.last().context("a summary")?;
    ensure!(summary["SYSLOG_IDENTIFIER"] == "tcptools" && summary["TCPTOOLS_EVENT"] == "summary");
    Ok(())
}
