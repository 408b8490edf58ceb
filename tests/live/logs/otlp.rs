// SPDX-License-Identifier: MIT OR Apache-2.0
//! `-o otlp`: the attributes are the values of JSON.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Map, Value};

use super::{ALIKE, shared, traffic};
use crate::{net::Net, tool::Tool, trial};

pub fn tests() -> Vec<Trial> {
    vec![trial("logs::otlp::is_json", is_json)]
}

/// What has a name of the semantic conventions.
const NAMES: [(&str, &str); 8] = [
    ("laddr", "network.local.address"),
    ("lport", "network.local.port"),
    ("raddr", "network.peer.address"),
    ("rport", "network.peer.port"),
    ("family", "network.type"),
    ("pid", "process.pid"),
    ("comm", "process.executable.name"),
    ("error", "error.type"),
];

/// The attributes of a line's record, by their names, and the record.
pub fn attributes(line: &str) -> Result<(Map<String, Value>, Value)> {
    let message: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
    let record = &message["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0];
    let all = record["attributes"].as_array().context("attributes")?;
    let all = all.iter().map(|one| {
        let name = one["key"].as_str().context("a name")?;
        Ok((name.to_owned(), one["value"].clone()))
    });
    Ok((all.collect::<Result<_>>()?, record.clone()))
}

/// A record for each of JSON, with its values.
fn is_json() -> Result<()> {
    for args in ALIKE {
        let net = Net::new()?;
        let inodes = net.inodes();
        let args = [args, &["--netns", &inodes]].concat();
        let json = Tool::start(args[0], &[&args[1..], &["--json"]].concat())?;
        let otlp = Tool::start(args[0], &[&args[1..], &["-o", "otlp"]].concat())?;
        traffic(&net)?;
        let (json, otlp) = (json.stop()?, otlp.stop()?);
        let records = json.records()?;
        ensure!(
            otlp.lines.len() == records.len(),
            "{args:?}: {otlp:?} {records:#?}"
        );
        ensure!(records.len() > 2, "{args:?}: {records:?}");
        for (record, line) in records.iter().zip(&otlp.lines) {
            same(record, line).with_context(|| format!("{args:?}: {record}: {line}"))?;
        }
    }
    Ok(())
}

fn same(record: &Value, line: &str) -> Result<()> {
    let (attributes, log) = attributes(line)?;
    // What the runs themselves have read, missed or skipped.
    let is_summary = record["event"] == "summary";
    for (key, value) in shared(record).into_iter().filter(|_| !is_summary) {
        let known = NAMES.iter().find(|(ours, _)| *ours == key);
        let name = known.map_or_else(|| format!("tcptools.{key}"), |(_, name)| (*name).to_owned());
        let said = attributes
            .get(&name)
            .with_context(|| format!("{key} is missing"))?;
        let expected = match &value {
            Value::Number(n) if key == "family" => {
                serde_json::json!({"stringValue": format!("ipv{n}")})
            }
            Value::Number(n) if n.is_u64() => serde_json::json!({"intValue": n.to_string()}),
            Value::Number(n) => serde_json::json!({"doubleValue": n}),
            Value::Bool(is) => serde_json::json!({"boolValue": is}),
            Value::String(text) => serde_json::json!({"stringValue": text}),
            _ => continue,
        };
        ensure!(*said == expected, "{key}: {said}");
    }
    // Each run has read the clock by itself.
    let ts = record["ts"].as_str().context("ts")?;
    let ts = chrono::DateTime::parse_from_rfc3339(ts)?.timestamp();
    let time = |key: &str| -> Result<i64> {
        let text = log[key].as_str().context("a time")?;
        Ok(text.parse::<i64>()? / 1_000_000_000)
    };
    ensure!((time("timeUnixNano")? - ts).abs() <= 1 && time("observedTimeUnixNano")? >= ts);
    let (tool, event) = (&record["tool"], &record["event"]);
    let name = format!(
        "{}.{}",
        tool.as_str().context("t")?,
        event.as_str().context("e")?
    );
    ensure!(log["eventName"] == name, "{name}");
    Ok(())
}
