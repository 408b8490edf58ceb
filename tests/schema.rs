// SPDX-License-Identifier: MIT OR Apache-2.0
//! The JSON Schema: it is what the commands say, it only grows, and the golden rows are valid.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

#[path = "tools/schema.rs"]
mod schema;
mod tools;

const FILE: &str = "docs/schema/tcptools-1.json";

fn printed() -> String {
    let output = Command::new(tools::binary("tcptools"))
        .arg("schema")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn kept() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What of an old schema a new one lacks, or has otherwise: whoever relies on it would be misled.
fn broken(old: &Value, new: &Value) -> Vec<String> {
    let empty = serde_json::Map::new();
    let defs = |of: &Value| of["$defs"].as_object().cloned().unwrap_or_default();
    let (old, new) = (defs(old), defs(new));
    let mut broken = vec![];
    for (name, def) in &old {
        let Some(now) = new.get(name) else {
            broken.push(format!("{name} is gone"));
            continue;
        };
        let Some(properties) = def["properties"].as_object() else {
            if now != def {
                broken.push(format!("{name} was {def}, and is {now}"));
            }
            continue;
        };
        let current = now["properties"].as_object().unwrap_or(&empty);
        let other = properties
            .iter()
            .filter(|(key, of)| current.get(*key) != Some(*of));
        broken.extend(
            other.map(|(key, _)| format!("{name}: {key} is gone, or of another type or unit")),
        );
    }
    broken
}

/// `UPDATE_GOLDEN=1 cargo test --test schema` writes what is new into the file.
#[test]
fn schema_is_that_of_the_commands() {
    let (kept, printed) = (kept(), printed());
    let old: Value = serde_json::from_str(&kept).unwrap_or_default();
    let new: Value = serde_json::from_str(&printed).expect("JSON");
    let broken = broken(&old, &new);
    assert!(
        broken.is_empty(),
        "this takes another version of the schema (src/commands/tcptools/schema/mod.rs): {broken:#?}"
    );
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
        std::fs::write(path, printed).expect("written");
        return;
    }
    assert!(
        kept == printed,
        "{} differs (UPDATE_GOLDEN=1 cargo test --test schema)",
        FILE
    );
}

#[test]
fn what_would_mislead_is_found() {
    let schema = |of: &str| serde_json::json!({"$defs": {"bytes": {"type": of}, "t.row": {"properties": {"a_us": {"$ref": of}}}}});
    assert!(broken(&schema("integer"), &schema("integer")).is_empty());
    assert_eq!(broken(&schema("integer"), &schema("string")).len(), 2);
    assert_eq!(broken(&schema("integer"), &Value::Null).len(), 2);
}

#[test]
fn golden_rows_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rows");
    let mut lines = 0;
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("text");
        for line in text.lines().filter(|line| line.starts_with("{\"tool\"")) {
            let row: Value = serde_json::from_str(line).expect("JSON");
            schema::check(&row).unwrap_or_else(|why| panic!("{why}: {line}"));
            lines += 1;
        }
    }
    assert!(lines > 50, "{lines}");
}

#[test]
fn invalid_records_are_found() {
    let refused = [
        r#"{"tool":"tcplife","event":"sesion","ts":"x"}"#,
        r#"{"tool":"tcplife","event":"session","ts":"x","newkey":1}"#,
        r#"{"tool":"tcplife","event":"session","ts":"x","tx_bytes":"1"}"#,
        r#"{"tool":"tcplife","event":"session","ts":"x","tx_bytes":-1}"#,
        r#"{"tool":"tcplife","event":"session","ts":null}"#,
    ];
    for line in refused {
        let record = serde_json::from_str(line).expect("JSON");
        assert!(schema::check(&record).is_err(), "{line}");
    }
}

/// A validator that others wrote agrees, where Debian's python3-jsonschema is installed; else it says what is missing.
#[test]
#[allow(clippy::print_stderr)] // a test that did not run is named
fn schema_is_valid_for_others() {
    let script = "import json, sys\n\
        try:\n    import jsonschema\nexcept ImportError:\n    sys.exit(77)\n\
        s = json.load(open(sys.argv[1])); v = jsonschema.validators.validator_for(s)\n\
        v.check_schema(s); v = v(s)\n\
        n = 0\n\
        for f in sys.argv[2:]:\n    for l in open(f):\n        if l.startswith('{\"tool\"'):\n            v.validate(json.loads(l)); n += 1\n\
        assert n > 50";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rows = std::fs::read_dir(root.join("tests/golden/rows")).expect("a folder");
    let status = Command::new("python3")
        .args(["-c", script])
        .arg(root.join(FILE))
        .args(rows.flatten().map(|entry| entry.path()))
        .status();
    match status.ok().and_then(|status| status.code()) {
        Some(0) => {}
        None | Some(77) => eprintln!("NOT RUN: python3-jsonschema is not installed"),
        Some(code) => panic!("python3-jsonschema refuses the schema or a row: {code}"),
    }
}
