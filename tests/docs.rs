// SPDX-License-Identifier: MIT OR Apache-2.0
//! The documentation says what the commands do, and the sources say what they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

mod tools;

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn help(tool: &str) -> String {
    let output = std::process::Command::new(tools::binary(tool))
        .arg("--help")
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The long flags of a help text: only where a flag is defined, at the beginning of a line.
fn flags(help: &str) -> Vec<String> {
    let defined = help
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'));
    let long =
        defined.filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
    long.map(|flag| flag.split(['=', '[', '.']).next().unwrap().to_owned())
        .collect()
}

#[test]
fn every_command_has_a_page_with_every_section() {
    for tool in tools::every() {
        let page = read(format!("docs/{tool}.md"));
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXAMPLES",
            "FIELDS",
            "OVERHEAD",
            "CAVEATS",
            "DIFFERENCES FROM BCC",
        ] {
            assert!(
                page.contains(&format!("# {section}\n")),
                "docs/{tool}.md has no {section}"
            );
        }
        let link = format!("(docs/{tool}.md)");
        assert!(
            read("README.md").contains(&link),
            "README.md does not link {link}"
        );
    }
}

#[test]
fn every_flag_is_documented() {
    let shared = read("docs/common-flags.md");
    for tool in tools::every() {
        let page = read(format!("docs/{tool}.md"));
        let flags = flags(&help(tool));
        assert!(
            !tools::ALL.contains(&tool) || flags.len() > 20,
            "{tool}: {flags:?}"
        );
        for flag in flags {
            assert!(
                page.contains(&flag) || shared.contains(&flag),
                "{tool}: {flag} is not documented"
            );
        }
    }
}

/// What a command says of its own rows: `--describe-columns` (src/output/schema.rs).
struct Row {
    event: String,
    keys: Vec<String>,
    headings: BTreeSet<String>,
}

fn rows(tool: &str) -> Vec<Row> {
    let output = std::process::Command::new(tools::binary(tool))
        .arg("--describe-columns")
        .output()
        .unwrap();
    let kinds: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let kinds = kinds.as_array().unwrap().iter();
    let row = |kind: &serde_json::Value| {
        let columns = kind["columns"].as_array().unwrap();
        let names = |name: &str, layouts: &[&str]| {
            let has = |column: &&serde_json::Value| {
                let shown = column["layouts"].as_array().unwrap();
                shown
                    .iter()
                    .any(|l| layouts.iter().any(|layout| l == layout))
            };
            let text = |column: &serde_json::Value| column[name].as_str().unwrap().to_owned();
            let all = columns.iter().filter(has).map(text);
            all.filter(|name| !name.is_empty()).collect::<Vec<_>>()
        };
        Row {
            event: kind["event"].as_str().unwrap().to_owned(),
            keys: names("key", &["json"]),
            headings: names("heading", &["table", "wide"]).into_iter().collect(),
        }
    };
    kinds.map(row).collect()
}

/// What is written as code in a text.
fn code(text: &str) -> BTreeSet<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The part of a page about fields.
fn fields(tool: &str) -> String {
    let page = read(format!("docs/{tool}.md"));
    let (_, after) = page.split_once("# FIELDS\n").unwrap();
    after.split("\n# ").next().unwrap().to_owned()
}

/// The cells of each table's column whose heading is one of these.
fn cells<'a>(text: &'a str, titles: &[&str]) -> Vec<&'a str> {
    let (mut found, mut at) = (Vec::new(), None);
    let mut before = "";
    for line in text.lines() {
        let split = |line: &'a str| line.split('|').skip(1).map(str::trim).collect();
        let cells: Vec<&str> = split(line);
        match line.starts_with('|') {
            true if !before.starts_with('|') => at = cells.iter().position(|c| titles.contains(c)),
            true => found.extend(at.and_then(|at| cells.get(at)).copied()),
            false => at = None,
        }
        before = line;
    }
    found
}

#[test]
fn every_record_begins_with_the_documented_fields() {
    let page = read("docs/json.md");
    let (first, _) = page.split_once("The last record").unwrap();
    let documented: Vec<String> = cells(first, &["key"])
        .iter()
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned))
        .collect();
    assert_eq!(documented[..3], ["tool", "event", "ts"]);
    for tool in tools::ALL {
        let keys = &rows(tool)[0].keys;
        assert_eq!(keys[..documented.len() - 3], documented[3..], "{tool}");
    }
}

#[test]
fn every_column_is_documented_and_every_documented_one_exists() {
    let common = code(&read("docs/json.md"));
    let mut wrong = Vec::new();
    for tool in tools::ALL {
        let (page, rows) = (fields(tool), rows(tool));
        let said = code(&page);
        let (keys, headings) = (cells(&page, &["JSON, CSV"]), cells(&page, &["table"]));
        assert!(!rows.is_empty() && keys.len() > 5, "{tool}");
        for row in &rows {
            let names = row.keys.iter().filter(|key| !common.contains(*key));
            let names = names.chain(&row.headings).chain([&row.event]);
            let unsaid = names.filter(|name| !said.contains(*name));
            wrong.extend(
                unsaid.map(|name| format!("{tool}: {name} of {} is not documented", row.event)),
            );
        }
        let is_key = |key: &String| rows.iter().any(|row| row.keys.contains(key));
        let is_heading = |text: &String| rows.iter().any(|row| row.headings.contains(text));
        let keys = keys.into_iter().flat_map(code).filter(|key| !is_key(key));
        wrong.extend(keys.map(|key| format!("{tool}: no row has the key {key}")));
        let headings = headings
            .into_iter()
            .flat_map(code)
            .filter(|text| !is_heading(text));
        wrong.extend(headings.map(|text| format!("{tool}: no table has the heading {text}")));
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path
            .extension()
            .is_some_and(|e| ["rs", "c", "h"].iter().any(|x| e == *x))
        {
            found.push(path);
        }
    }
}

#[test]
fn every_source_names_its_licence() {
    let mut found = vec![];
    for dir in ["src", "tests", "examples"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut found);
    }
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.display();
        let first = text.lines().next().unwrap_or_default();
        assert!(first.contains("SPDX-License-Identifier: "), "{name}");
    }
}
