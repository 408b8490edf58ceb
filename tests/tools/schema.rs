// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records against `docs/schema/tcptools-1.json`: the part of JSON Schema that it uses.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

/// What each key may be, by the command and the event.
type Records = HashMap<(String, String), HashMap<String, Value>>;

/// The sentence that says what is wrong with a record.
pub fn check(record: &Value) -> Result<(), String> {
    static RECORDS: OnceLock<Records> = OnceLock::new();
    let records = RECORDS.get_or_init(|| {
        let text = include_str!("../../docs/schema/tcptools-1.json");
        records(&serde_json::from_str(text).expect("JSON"))
    });
    let record = record.as_object().ok_or("no object")?;
    let name = |key: &str| record.get(key)?.as_str().map(str::to_owned);
    let (Some(tool), Some(event)) = (name("tool"), name("event")) else {
        return Err("no tool, or no event".into());
    };
    let known = records.get(&(tool.clone(), event.clone()));
    let known = known.ok_or_else(|| format!("{tool} has no event {event} in the schema"))?;
    for (key, value) in record {
        let of = known.get(key);
        let of = of.ok_or_else(|| format!("{tool}, {event}: the schema has no key {key}"))?;
        if !fits(value, of) {
            return Err(format!("{tool}, {event}: {key} is {value}, not {of}"));
        }
    }
    Ok(())
}

fn records(schema: &Value) -> Records {
    let defs = schema["$defs"].as_object().expect("definitions");
    let resolve = |value: &Value| {
        let name = value["$ref"]
            .as_str()
            .and_then(|to| to.strip_prefix("#/$defs/"));
        name.map_or_else(|| value.clone(), |name| defs[name].clone())
    };
    let all = defs
        .values()
        .filter_map(|def| def["properties"].as_object());
    let record = |properties: &Map<String, Value>| {
        let name = |key: &str| {
            properties[key]["const"]
                .as_str()
                .expect("a name")
                .to_owned()
        };
        let keys = properties
            .iter()
            .map(|(key, of)| (key.clone(), resolve(of)));
        ((name("tool"), name("event")), keys.collect())
    };
    all.map(record).collect()
}

fn fits(value: &Value, of: &Value) -> bool {
    if let Some(constant) = of.get("const") {
        return value == constant;
    }
    let one = |name: &str| match name {
        "null" => value.is_null(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    let is = match &of["type"] {
        Value::String(name) => one(name),
        Value::Array(names) => names.iter().filter_map(Value::as_str).any(one),
        _ => false,
    };
    let least = of["minimum"].as_f64().unwrap_or(f64::MIN);
    let most = of["maximum"].as_f64().unwrap_or(f64::MAX);
    is && value.as_f64().is_none_or(|n| (least..=most).contains(&n))
}
