// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an installed command says of its own records.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::commands::tcptools::find;
use crate::output::schema::DESCRIBE;

/// The keys of one kind of record.
pub(super) type Keys = BTreeSet<String>;

#[derive(Deserialize)]
struct Kind {
    event: String,
    columns: Vec<Column>,
}

#[derive(Deserialize)]
struct Column {
    key: String,
}

/// What `--peer` adds to a row.
const PEER: [&str; 9] = [
    "peer_pid",
    "peer_comm",
    "peer_netns",
    "peer_cookie",
    "peer_laddr",
    "peer_lport",
    "peer_raddr",
    "peer_rport",
    "peer_source",
];

/// By their events. Sums have other keys with each `--by`: all of them.
pub(super) fn of(tool: &str) -> Result<BTreeMap<String, Keys>> {
    let output = find::child(tool)?
        .arg(DESCRIBE)
        .output()
        .with_context(|| format!("cannot start {tool}"))?;
    ensure!(
        output.status.success(),
        "{tool} does not describe its records"
    );
    let kinds: Vec<Kind> = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{tool} is of another version"))?;
    let mut all = BTreeMap::<String, Keys>::new();
    for kind in kinds {
        let keys = all.entry(kind.event).or_default();
        let own = kind.columns.into_iter().map(|column| column.key);
        keys.extend(own.filter(|key| !key.is_empty()));
    }
    for keys in all.values_mut().filter(|keys| keys.contains("pid_source")) {
        keys.extend(PEER.map(str::to_owned));
    }
    Ok(all)
}
