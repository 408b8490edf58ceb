// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a command has left behind at its end.

use std::{
    collections::HashMap,
    env,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::{missing, schema, seen, unseen};

/// Where a command is: in `TCPTOOLS_BIN_DIR` if that is set, otherwise as cargo has just built it.
pub fn path(name: &str) -> PathBuf {
    if let Some(dir) = env::var_os("TCPTOOLS_BIN_DIR") {
        return PathBuf::from(dir).join(name);
    }
    PathBuf::from(env!("CARGO_BIN_EXE_tcplife")).with_file_name(name)
}

/// What a command has left behind.
#[derive(Debug)]
pub struct Run {
    pub status: ExitStatus,
    pub lines: Vec<String>,
    pub stderr: String,
}

/// Runs a command to its end, with nothing added to its arguments.
pub fn run(name: &str, args: &[&str]) -> Result<Run> {
    run_without("", name, args)
}

/// The same, without what the kernel has: `btf`, `ringbuf`.
pub fn run_without(features: &str, name: &str, args: &[&str]) -> Result<Run> {
    let output = Command::new(path(name))
        .env("TCPTOOLS_WITHOUT", features)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    let stdout = String::from_utf8(output.stdout)?;
    Ok(Run {
        status: output.status,
        lines: stdout.lines().map(str::to_owned).collect(),
        stderr: String::from_utf8(output.stderr)?,
    })
}

/// Every key of the last record is in docs/json.md; those of rows `tests/docs.rs` compares.
fn summary_is_documented(summary: &Value) -> Result<()> {
    let page = include_str!("../../../docs/json.md");
    let keys = summary.as_object().context("an object")?.keys();
    let unsaid: Vec<_> = keys
        .filter(|key| !page.contains(&format!("`{key}`")))
        .collect();
    ensure!(unsaid.is_empty(), "docs/json.md lacks {unsaid:?}");
    Ok(())
}

impl Run {
    /// Nothing but what other tests may have caused.
    pub fn said_nothing(&self) -> bool {
        unseen::said_else(&self.stderr).is_empty()
    }

    /// The rows of a JSON run that ended well and lost nothing; the summary must be the last record and agree.
    pub fn rows(&self) -> Result<Vec<Value>> {
        ensure!(self.status.success(), "{}: {}", self.status, self.stderr);
        let mut rows = self.records()?;
        let summary = rows.pop().context("no record at all")?;
        ensure!(
            summary["event"] == "summary",
            "the last record is no summary: {summary}"
        );
        ensure!(summary["lost"] == 0, "lost events: {summary}");
        summary_is_documented(&summary)?;
        if summary["skipped"] != 0 || summary["untracked"] != 0 {
            eprintln!("this may explain a missing row: {summary}");
        }
        ensure!(
            summary["events"] == rows.len(),
            "{} rows, but {summary}",
            rows.len()
        );
        seen::note(&rows)?;
        if !missing::cookies() {
            adopt_cookies(&mut rows);
        }
        Ok(rows)
    }

    /// It ran in fallback mode, and says so.
    pub fn has_only_records(&self) -> bool {
        has_only_records(&self.stderr)
    }

    /// Every line as JSON.
    pub fn records(&self) -> Result<Vec<Value>> {
        self.lines.iter().map(|line| record(line)).collect()
    }
}

/// As [`Run::has_only_records`].
pub fn has_only_records(stderr: &str) -> bool {
    let lacking = ["no type information (BTF)", "no ring buffer"];
    lacking.iter().any(|why| stderr.contains(why))
}

/// A line of JSON, as the schema has it.
pub fn record(line: &str) -> Result<Value> {
    let record = serde_json::from_str(line).with_context(|| line.to_owned())?;
    schema::check(&record).map_err(|why| anyhow!("{why}: {line}"))?;
    Ok(record)
}

/// Gives rows without a cookie the one that a later row of the same connection has.
fn adopt_cookies(rows: &mut [Value]) {
    let key = |row: &Value| {
        ["netns", "laddr", "lport", "raddr", "rport"].map(|field| row[field].to_string())
    };
    let with_cookie = rows.iter().filter(|row| row["cookie"].is_u64());
    let known: HashMap<_, _> = with_cookie
        .map(|row| (key(row), row["cookie"].clone()))
        .collect();
    for row in rows.iter_mut().filter(|row| row["cookie"].is_null()) {
        if let Some(cookie) = known.get(&key(row)) {
            row["cookie"] = cookie.clone();
        }
    }
}
