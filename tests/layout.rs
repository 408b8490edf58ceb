// SPDX-License-Identifier: MIT OR Apache-2.0
//! The layout of the sources, as `src/lib.rs` describes it: imports run downwards only, in no circle, and nothing grows
//! beyond what one takes in at a glance.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The rooms below `src/`, from the bottom up. A room imports from floors below its own.
const FLOORS: [&[&str]; 8] = [
    &["error", "abi", "suite"],
    &["kernel"],
    &["output"],
    &["cli"],
    &["session"],
    &["aggregate", "fallback"],
    &["commands"],
    // Only for tests and fuzzers.
    &["fuzz"],
];

const MAX_LINES: usize = 400;
const MAX_FILES: usize = 17;
/// A command's main calls the library and does nothing else.
const MAX_MAIN_LINES: usize = 12;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of a folder and those below it, by their path in the repository.
fn files(folder: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (vec![], vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(root()).unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

fn is_source(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["rs", "c", "h"].iter().any(|e| extension == *e)
}

fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Rust source without comments, and without the unit tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a `use` tree names: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn leaves(tree: &str) -> Vec<String> {
    let Some(open) = tree.find('{') else {
        return vec![tree.to_owned()];
    };
    let base = &tree[..open];
    let inner = &tree[open + 1..tree.rfind('}').unwrap()];
    let (mut parts, mut depth) = (vec![String::new()], 0);
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            _ => parts.last_mut().unwrap().push(c),
        }
    }
    let parts = parts.iter().filter(|part| !part.is_empty());
    parts
        .flat_map(|part| leaves(&format!("{base}{part}")))
        .collect()
}

/// What a file names of this crate: every path that begins with `crate`, `self` or `super`.
fn paths(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || "_:$".contains(before) {
                continue;
            }
            let is_use = code[..at].ends_with("use ");
            let end = match is_use {
                true => code[at..].find(';').map(|n| at + n),
                false => code[at..]
                    .find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                    .map(|n| at + n),
            };
            let path = &code[at..end.unwrap_or(code.len())];
            let path: String = path.split_whitespace().collect::<Vec<_>>().join(" ");
            let path = path.replace(' ', "");
            found.extend(
                leaves(&path)
                    .into_iter()
                    .map(|leaf| match leaf.split_once("as") {
                        Some((path, name)) if is_use && name.starts_with(char::is_uppercase) => {
                            path.to_owned()
                        }
                        _ => leaf,
                    }),
            );
        }
    }
    found
}

type Module = Vec<String>;

/// `src/a/b.rs` and `src/a/b/mod.rs` are `a::b`.
fn module(path: &Path) -> Module {
    let path = path.strip_prefix("src").unwrap().with_extension("");
    let mut parts: Module = path
        .iter()
        .map(|p| p.to_string_lossy().into_owned())
        .collect();
    if parts
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        parts.pop();
    }
    parts
}

/// The library's modules and their code. What is there for unit tests only is left out.
fn modules() -> BTreeMap<Module, String> {
    let rust = files("src")
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs") && !path.starts_with("src/bin"));
    let mut all: BTreeMap<Module, String> = rust
        .map(|path| (module(&path), code(&read(&path))))
        .collect();
    let mut for_tests = BTreeSet::new();
    for (module, code) in &all {
        for (at, attribute) in code.match_indices("#[cfg(test)]\n") {
            let line = code[at + attribute.len()..]
                .lines()
                .find(|l| !l.trim_start().starts_with("#["));
            let name = line.and_then(|line| line.split("mod ").nth(1)?.strip_suffix(';'));
            for_tests.extend(name.map(|name| [&module[..], &[name.to_owned()]].concat()));
        }
    }
    all.retain(|module, _| !for_tests.contains(module));
    // Declared by their path.
    all.retain(|module, _| !module.last().is_some_and(|name| name.ends_with("_tests")));
    all
}

/// The path in full: `super::b` in `a::c` is `a::b`.
fn absolute(path: &str, of: &Module) -> Module {
    let mut base = of.clone();
    let mut parts = path.split("::").peekable();
    match parts.next() {
        Some("crate") => base.clear(),
        Some("super") => drop(base.pop()),
        _ => {}
    }
    while parts.next_if_eq(&"super").is_some() {
        base.pop();
    }
    base.extend(parts.filter(|p| !p.is_empty()).map(str::to_owned));
    base
}

/// The module in which a path ends, through re-exports.
fn target(path: &Module, all: &BTreeMap<Module, String>) -> Option<Module> {
    let longest = (0..=path.len()).rev().map(|n| path[..n].to_vec());
    let module = longest
        .into_iter()
        .find(|module| all.contains_key(module))?;
    let Some(name) = path.get(module.len()) else {
        return Some(module);
    };
    let exported = all[&module]
        .match_indices("pub use ")
        .find_map(|(at, found)| {
            let tree: String = all[&module][at + found.len()..]
                .split(';')
                .next()?
                .split_whitespace()
                .collect();
            let path = leaves(&tree)
                .into_iter()
                .find(|leaf| leaf.rsplit("::").next() == Some(name))?;
            let relative = format!("self::{}", path.trim_start_matches("self::"));
            let child = absolute(&relative, &module);
            let child = child[..child.len() - 1].to_vec();
            (child != module && all.contains_key(&child)).then_some(child)
        });
    Some(exported.unwrap_or(module))
}

/// Which module uses which others. One that holds another, as a folder's `mod.rs` does, is one with it here.
fn uses() -> BTreeMap<Module, BTreeSet<Module>> {
    let all = modules();
    let used = |module: &Module, code: &String| {
        let paths = paths(code).into_iter().map(|path| absolute(&path, module));
        let targets = paths.filter_map(|path| target(&path, &all));
        let others = targets.filter(|to| !to.starts_with(module) && !module.starts_with(to));
        (module.clone(), others.collect())
    };
    all.iter()
        .map(|(module, code)| used(module, code))
        .collect()
}

fn floor(room: &str) -> usize {
    let floor = FLOORS.iter().position(|floor| floor.contains(&room));
    floor.unwrap_or_else(|| panic!("src/{room} is on no floor: see src/lib.rs"))
}

#[test]
fn imports_run_downwards() {
    let mut wrong = vec![];
    for (from, targets) in uses() {
        let Some(room) = from.first() else { continue };
        for to in targets {
            let is_below = to[0] == *room || floor(&to[0]) < floor(room);
            if !is_below {
                wrong.push(format!("{} uses {}", from.join("::"), to.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "upwards:\n{}", wrong.join("\n"));
}

#[test]
fn imports_run_in_no_circle() {
    let mut left = uses();
    // Whoever uses none of those that are left, or is used by none, is in no circle.
    loop {
        let users: BTreeSet<Module> = left.keys().cloned().collect();
        let used: BTreeSet<Module> = left.values().flatten().cloned().collect();
        left.retain(|module, targets| {
            used.contains(module) && targets.iter().any(|to| users.contains(to))
        });
        if left.len() == users.len() {
            break;
        }
    }
    let names = |targets: &BTreeSet<Module>| {
        let inside = targets.iter().filter(|to| left.contains_key(*to));
        inside
            .map(|to| to.join("::"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let lines = left
        .iter()
        .map(|(from, targets)| format!("{} uses {}", from.join("::"), names(targets)));
    assert!(
        left.is_empty(),
        "in a circle:\n{}",
        lines.collect::<Vec<_>>().join("\n")
    );
}

#[test]
fn no_file_is_long() {
    let all = ["src", "tests", "benches"].map(files).concat();
    let sizes = all
        .iter()
        .filter(|path| is_source(path))
        .map(|path| (path, read(path).lines().count()));
    let long: Vec<_> = sizes.filter(|(_, lines)| *lines > MAX_LINES).collect();
    assert!(
        long.is_empty(),
        "more than {MAX_LINES} lines, split by subject: {long:#?}"
    );
}

#[test]
fn no_folder_is_full() {
    let mut folders: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for path in ["src", "tests", "benches"].map(files).concat() {
        *folders
            .entry(path.parent().unwrap().to_owned())
            .or_default() += 1;
    }
    folders.retain(|_, files| *files > MAX_FILES);
    assert!(
        folders.is_empty(),
        "more than {MAX_FILES} files: {folders:#?}"
    );
}

#[test]
fn mains_only_call_the_library() {
    for path in files("src/bin") {
        let text = read(&path);
        let lines = text.lines().count();
        let calls = text.contains("tcptools::commands::") && text.matches("fn ").count() == 1;
        assert!(
            lines <= MAX_MAIN_LINES && calls,
            "{}: {lines} lines",
            path.display()
        );
    }
}

#[test]
fn use_trees_are_read() {
    assert_eq!(leaves("a::{b,c::{d,e}}"), ["a::b", "a::c::d", "a::c::e"]);
    let code = "use crate::a::{\n    b,\n    c,\n};\nlet x = super::d::E;\ncrate::skeleton!(1);";
    let expected = [
        "crate::a::b",
        "crate::a::c",
        "crate::skeleton",
        "super::d::E",
    ];
    assert_eq!(
        paths(code).iter().collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
    let of = ["a".to_owned(), "c".to_owned()].to_vec();
    assert_eq!(absolute("super::d", &of), ["a", "d"]);
    assert_eq!(absolute("crate::d::e", &of), ["d", "e"]);
}
