// SPDX-License-Identifier: MIT OR Apache-2.0
//! The documentation says what the commands do, and the sources say what they are.

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

/// The keys and headings of a tool's column table: the first two strings after each `C::new(`.
fn columns(source: &str) -> Vec<(String, String)> {
    let strings = |text: &str| {
        let mut parts = text.split('"').skip(1).step_by(2);
        (
            parts.next().unwrap().to_owned(),
            parts.next().unwrap().to_owned(),
        )
    };
    source.split("C::new(").skip(1).map(strings).collect()
}

#[test]
fn every_column_is_documented() {
    for tool in tools::ALL {
        let page = read(format!("docs/{tool}.md"));
        let columns = columns(&read(format!("src/bin/{tool}.rs")));
        assert!(!columns.is_empty(), "{tool} has no columns");
        for name in columns.iter().flat_map(|(key, heading)| [key, heading]) {
            assert!(
                name.is_empty() || page.contains(&format!("`{name}`")),
                "{tool}: {name} is not documented"
            );
        }
    }
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
