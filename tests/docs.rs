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
    /// Of the tables' own columns, and of those that a table has on request, too.
    headings: BTreeSet<String>,
    all_headings: BTreeSet<String>,
}

fn describe(tool: &str) -> Vec<serde_json::Value> {
    let output = std::process::Command::new(tools::binary(tool))
        .arg("--describe-columns")
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn rows(tool: &str) -> Vec<Row> {
    let kinds = describe(tool);
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
        let heading = |column: &serde_json::Value| column["heading"].as_str().unwrap().to_owned();
        Row {
            event: kind["event"].as_str().unwrap().to_owned(),
            keys: names("key", &["json"]),
            headings: names("heading", &["table", "wide"]).into_iter().collect(),
            all_headings: columns.iter().map(heading).collect(),
        }
    };
    kinds.iter().map(row).collect()
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
fn records_start_with_documented_fields() {
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
fn columns_and_documentation_agree() {
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
        let is_heading = |text: &String| rows.iter().any(|row| row.all_headings.contains(text));
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

/// Columns that a flag asks for, which are in `--describe-columns`.
const ON_REQUEST: [(&str, &str); 8] = [
    ("tcpconnect", "raddr_name"),
    ("tcpretrans", "error"),
    ("tcpstates", "skaddr"),
    ("tcpretrans", "stack"),
    ("tcpretrans", "dropped_here"),
    ("tcpretrans", "drop_reason"),
    ("tcpretrans", "drop_where"),
    ("tcpretrans", "drop_unknown"),
];

/// The columns of a table from left to right, with a blank between them. The table of tcpretrans always has the time.
fn width(tool: &str, kind: &serde_json::Value, layout: &str) -> u64 {
    let at = usize::from(layout == "wide");
    let columns = kind["columns"].as_array().unwrap().iter();
    let shown = columns.filter(|column| {
        let key = column["key"].as_str().unwrap();
        let stack = key.is_empty() && column["heading"] == "";
        let layouts = column["layouts"].as_array().unwrap();
        let shown = layouts.iter().any(|name| name == layout);
        shown && !stack && !ON_REQUEST.contains(&(tool, key))
    });
    let widths = shown.map(|column| column["widths"][at].as_u64().unwrap() + 1);
    let time = u64::from(tool == "tcpretrans" && kind["event"] == "retransmit") * 9;
    (widths.sum::<u64>() + time).saturating_sub(1)
}

#[test]
fn tables_fit_80_and_200_columns() {
    let mut wrong = Vec::new();
    for tool in tools::ALL {
        for kind in describe(tool) {
            for (layout, most) in [("table", 80), ("wide", 200)] {
                let width = width(tool, &kind, layout);
                let event = &kind["event"];
                assert!(width > 10 || event == "histogram", "{tool}: {event}");
                if width > most {
                    let keys = kind["columns"].as_array().unwrap().iter();
                    let keys: Vec<_> = keys.map(|column| column["key"].as_str()).collect();
                    wrong.push(format!("{tool}: {event}, {layout}: {width}, {keys:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The rows of common-flags.md's table of what is not known in every row, by command, as the commands themselves tell it.
fn unknown_rows(tool: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for mode in ["btf", "inet_diag", "records"] {
        let mut unknown = Vec::new();
        for kind in describe(tool) {
            let columns = kind["columns"].as_array().unwrap();
            let has = |column: &serde_json::Value| {
                let known = column["known"].as_array();
                known.is_some_and(|known| known.iter().any(|name| name == mode))
            };
            if columns.iter().any(has) {
                let keys = columns.iter().filter(|column| !has(column));
                let keys = keys.filter_map(|c| c["key"].as_str().filter(|key| !key.is_empty()));
                let keys = BTreeSet::from_iter(keys.map(|key| format!("`{key}`")));
                unknown.push((kind["event"].as_str().unwrap().to_owned(), keys));
            }
        }
        let alike = unknown.iter().all(|(_, keys)| *keys == unknown[0].1);
        unknown.truncate(if alike { 1 } else { unknown.len() });
        for (event, keys) in unknown {
            let of = if alike {
                String::new()
            } else {
                format!(" `{event}`")
            };
            let keys = match keys.is_empty() {
                true => "none".to_owned(),
                false => Vec::from_iter(keys).join(", "),
            };
            lines.push(format!("| `{tool}`{of} | {mode} | {keys} |"));
        }
    }
    lines
}

#[test]
fn unknown_without_btf_is_documented() {
    let page = read("docs/common-flags.md");
    let said: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    for tool in tools::ALL {
        let rows = unknown_rows(tool);
        let records = rows.iter().any(|row| row.contains("| records |"));
        assert!(records != tools::NEED_BTF.contains(tool), "{tool}");
        for row in rows {
            assert!(said.contains(&row.as_str()), "is not in the table: {row}");
        }
    }
    let told = tools::ALL
        .iter()
        .flat_map(|tool| unknown_rows(tool))
        .count();
    let modes = ["| btf |", "| inet_diag |", "| records |"];
    let lines = said
        .iter()
        .filter(|line| modes.iter().any(|mode| line.contains(mode)));
    assert_eq!(
        lines.count(),
        told,
        "the table has rows that no command tells"
    );
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
fn every_source_has_a_licence() {
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
