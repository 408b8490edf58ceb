// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sums by every key beside the rows that they are of.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::by::sums;
use crate::{
    tool::Tool,
    wait::{self, PATIENCE},
};

/// The keys of `--by`, each with the fields that it has in a sum, and in a row.
pub const KEYS: [(&str, &[&str]); 12] = [
    ("pid", &["pid"]),
    ("comm", &["comm"]),
    ("uid", &["uid"]),
    ("cgroup", &["cgroup"]),
    ("unit", &["unit"]),
    (
        "container",
        &["container", "container_name", "runtime", "pod"],
    ),
    ("netns", &["netns", "netns_name"]),
    ("laddr", &["laddr"]),
    ("lport", &["lport"]),
    ("raddr", &["raddr"]),
    ("rport", &["rport"]),
    ("flow", &["netns", "laddr", "lport", "raddr", "rport"]),
];

/// What a command shows one by one, and what it adds up.
pub struct Summed {
    pub tool: &'static str,
    /// How it shows rows.
    pub rows: &'static [&'static str],
    /// Which of them count, and as how many.
    pub counts: fn(&Value) -> u64,
    /// How it shows sums, as which event, and the figure in them.
    pub sums: &'static [&'static str],
    pub event: &'static str,
    pub figure: &'static str,
}

/// A command that shows rows, and one for each key that adds them up.
pub struct Watch {
    how: Summed,
    pub rows: Tool,
    sums: Vec<Tool>,
}

impl Watch {
    /// In these network namespaces.
    pub fn start(how: Summed, netns: &str) -> Result<Self> {
        let common = ["--json", "--netns", netns];
        let rows = Tool::start(how.tool, &[&common[..], how.rows].concat())?;
        let by = |(key, _): &(&str, _)| {
            Tool::start(
                how.tool,
                &[&common[..], how.sums, &["--by", key][..]].concat(),
            )
        };
        let sums = KEYS.iter().map(by).collect::<Result<_>>()?;
        Ok(Self { how, rows, sums })
    }

    /// Waits until so much was seen in rows.
    pub fn wait(&self, most: u64) -> Result<()> {
        wait::until("the rows", PATIENCE, || {
            let seen: u64 = self.rows.seen()?.iter().map(self.how.counts).sum();
            Ok((seen >= most).then_some(()))
        })
    }

    /// Each key's sums are those of the rows, which `truth` has by name.
    pub fn check(self, truth: &BTreeMap<String, u64>) -> Result<()> {
        let mut rows = self.rows.stop()?.rows()?;
        for row in &mut rows {
            row["figure"] = (self.how.counts)(row).into();
        }
        rows.retain(|row| row["figure"] != 0);
        unknown_ports(&mut rows);
        for ((key, fields), tool) in KEYS.iter().zip(self.sums) {
            let mut told = tool.stop()?.rows()?;
            told.retain(|row| row["event"] == self.how.event && row[self.how.figure] != 0);
            let (name, figure) = (self.how.tool, self.how.figure);
            ensure!(told.iter().all(|row| row["by"] == *key), "{told:#?}");
            unknown_ports(&mut told);
            let whole = |row: &Value| fields.iter().all(|field| row.get(*field).is_some());
            ensure!(told.iter().all(whole), "{name} --by {key}: {told:#?}");
            let (got, want) = (sums(&told, fields, figure), sums(&rows, fields, "figure"));
            ensure!(
                got == want,
                "{name} --by {key}: {got:#?}, but rows say {want:#?}"
            );
            if *key == "comm" {
                ensure!(got == *truth, "{name}: {got:#?} is not {truth:#?}");
            }
        }
        Ok(())
    }
}

/// A port that is not known yet is 0 in a row, and blank in a group by nothing else of a flow.
fn unknown_ports(rows: &mut [Value]) {
    for row in rows {
        for key in ["lport", "rport"] {
            if row[key] == 0 {
                row[key] = Value::Null;
            }
        }
    }
}
