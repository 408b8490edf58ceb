// SPDX-License-Identifier: MIT OR Apache-2.0
//! tcptools schema: the JSON Schema of what the commands print with `--json`.
//!
//! Made of what each command says of its own columns (`--describe-columns`, [`crate::output::schema`]) and of the
//! types of keys ([`crate::output::types`]), so it is that of the commands that are installed.

mod kinds;
mod own;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use self::kinds::Keys;
use crate::commands::tcptools::names;
use crate::error::Usage;
use crate::output::print;
use crate::output::types::{self, Type, VERSION};
use crate::suite::TOOLS;

/// Print the JSON Schema of the commands' records, or of one command's
#[derive(clap::Args)]
pub struct Args {
    /// Command whose records are described; without one, all are, and those of tcptools itself
    command: Option<String>,
}

/// # Errors
/// A sentence: no such command, or one that is not installed.
pub fn run(args: &Args) -> Result<()> {
    let mut records = BTreeMap::new();
    let mut tools = TOOLS.iter().map(|tool| tool.name);
    match args.command.as_deref() {
        None => {
            for tool in tools {
                add(tool, &mut records)?;
            }
            records.extend(own::records());
        }
        Some("tcptools") => records.extend(own::records()),
        Some(name) => match tools.find(|tool| *tool == name) {
            Some(tool) => add(tool, &mut records)?,
            None => bail!(Usage(names::unknown(name))),
        },
    }
    let mut text = serde_json::to_string_pretty(&document(records))?;
    text.push('\n');
    print::write_all(text.as_bytes())
}

fn document(records: BTreeMap<String, Value>) -> Value {
    let one_of: Vec<_> = records
        .keys()
        .map(|name| json!({"$ref": format!("#/$defs/{name}")}))
        .collect();
    let mut defs: Map<String, Value> = own::types();
    defs.extend(records);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:tcptools:schema:{VERSION}"),
        "title": "Records of the tcptools commands, as --json and tcptools record write them, one per line",
        "$comment": format!("Version {VERSION}. New events and new keys do not change it: ignore what you do not know."),
        "oneOf": one_of,
        "$defs": defs,
    })
}

/// The records of a command that traces.
fn add(tool: &'static str, records: &mut BTreeMap<String, Value>) -> Result<()> {
    let mut all = kinds::of(tool)?;
    all.insert("summary".to_owned(), own::summary());
    for (event, keys) in all {
        records.insert(format!("{tool}.{event}"), record(tool, &event, &keys));
    }
    Ok(())
}

fn record(tool: &str, event: &str, keys: &Keys) -> Value {
    let mut properties = Map::new();
    for key in keys {
        let name = name_of(key);
        properties.insert(key.clone(), json!({"$ref": format!("#/$defs/{name}")}));
    }
    for key in ["time", "elapsed_s", "host", "boot_id"] {
        let name = name_of(key);
        properties.insert(key.to_owned(), json!({"$ref": format!("#/$defs/{name}")}));
    }
    properties.insert("tool".to_owned(), json!({"const": tool}));
    properties.insert("event".to_owned(), json!({"const": event}));
    properties.insert("ts".to_owned(), json!({"$ref": "#/$defs/ts"}));
    json!({
        "type": "object",
        "properties": properties,
        "required": ["tool", "event", "ts"],
    })
}

/// What a value is called in the schema: by its unit, or by its type.
fn name_of(key: &str) -> &'static str {
    let of = types::of(key);
    match (of, types::unit(key)) {
        (Type::Number, Some("percent")) => "percent",
        (Type::Number, _) => "number",
        (Type::Integer, Some("microseconds")) => "microseconds",
        (Type::Integer, Some("nanoseconds")) => "nanoseconds",
        (Type::Integer, Some("bytes")) => "bytes",
        (Type::Integer, Some("bytes per second")) => "bytes_per_s",
        (Type::Integer, Some("pages of memory")) => "pages",
        (Type::Integer, _) => "integer",
        (Type::String, _) => "string",
        (Type::Boolean, _) => "boolean",
        (Type::Strings, _) => "strings",
        (Type::Buckets, _) => "buckets",
    }
}
