// SPDX-License-Identifier: MIT OR Apache-2.0
//! The man pages and documentation that scripts/install.sh installs: they render, are complete, and lead somewhere.

#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is for people, in no pipeline

use std::fs;
use std::path::Path;
use std::process::Command;

#[path = "tools/installed.rs"]
mod installed;
mod tools;

use installed::{everything, has, install, names, text};

#[test]
fn pages_are_for_readers() {
    if !has("lowdown") {
        return;
    }
    let root = install("pages", &[]);
    let usr = root.0.join("usr");
    pages_render(&usr);
    pages_are_complete(&usr.join("share/man/man8"));
    links_lead_somewhere(&usr.join("share/doc/tcptools"));
}

fn pages_render(usr: &Path) {
    let man = usr.join("share/man");
    for section in ["man7", "man8"] {
        for name in names(man.join(section)) {
            let page = man.join(section).join(&name);
            let source = fs::read_to_string(&page).unwrap();
            assert!(source.contains(".SH \"NAME\"\n"), "{name}");
            for named in source
                .split(['\\', '\n'])
                .filter(|part| part.ends_with(".md"))
            {
                let (_, path) = named.split_once("/usr/").unwrap_or_default();
                assert!(
                    !path.is_empty() && usr.join(path).exists(),
                    "{name} names {named}, which is not installed"
                );
            }
            if has("mandoc") {
                let lint = Command::new("mandoc").arg("-Tlint").arg(&page).output();
                assert_eq!(text(&lint.unwrap().stdout), "", "{name}");
            }
            if has("groff") {
                let groff = Command::new("groff")
                    .args(["-ww", "-t", "-man", "-Tutf8"])
                    .arg(&page)
                    .output();
                let groff = groff.unwrap();
                assert!(groff.status.success(), "{name}");
                assert_eq!(text(&groff.stderr), "", "{name}");
            }
            if has("man") {
                let man = Command::new("man")
                    .args(["-P", "cat", "--warnings=w", "-l"])
                    .arg(&page)
                    .output();
                let man = man.unwrap();
                assert!(
                    man.status.success() && man.stderr.is_empty(),
                    "{name}: {}",
                    text(&man.stderr)
                );
                assert!(text(&man.stdout).contains("DESCRIPTION"), "{name}");
            }
        }
    }
}

/// Each page has what readers of man pages look for, and each flag of the command.
fn pages_are_complete(man: &Path) {
    for tool in tools::every() {
        let name = match tool {
            "tcptools" => "tcptools.8".to_owned(),
            _ => format!("tcptools-{tool}.8"),
        };
        let source = fs::read_to_string(man.join(&name)).unwrap();
        for section in [
            "SYNOPSIS",
            "OPTIONS",
            "EXIT STATUS",
            "ENVIRONMENT",
            "FILES",
            "SEE ALSO",
        ] {
            let heading = format!(".SH \"{section}\"\n");
            assert_eq!(source.matches(&heading).count(), 1, "{name}: {section}");
        }
        let (_, options) = source.split_once(".SH \"OPTIONS\"\n").unwrap();
        let options = options.split("\n.SH ").next().unwrap();
        let options = options.replace("\\-", "-");
        let help = Command::new(tools::binary(tool))
            .arg("-h")
            .output()
            .unwrap();
        let help = text(&help.stdout);
        // Other lines that begin with a dash are further to the right.
        let defines = |line: &&str| line.find('-').is_some_and(|at| at <= 6);
        let lines = help.lines().filter(defines).map(str::trim_start);
        for line in lines.filter(|line| line.starts_with('-')) {
            let words = line.split([' ', ',', '=', '[']).take(4);
            for flag in words.filter(|word| word.starts_with('-') && word.len() > 1) {
                let flag = flag.trim_end_matches(['.', ']']);
                assert!(
                    options.contains(&format!("\\fB{flag}")),
                    "{name}: {flag} is not in OPTIONS"
                );
            }
        }
    }
}

/// The links of the pages that are installed, to each other.
fn links_lead_somewhere(doc: &Path) {
    let mut all = vec![];
    everything(doc, &mut all);
    let pages = all
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "md"));
    for page in pages {
        let source = fs::read_to_string(page).unwrap();
        let links = source
            .split("](")
            .skip(1)
            .filter_map(|l| l.split(')').next());
        for link in links {
            let file = link.split('#').next().unwrap();
            // A link of a page of this project has no blanks, and names a page.
            if file.ends_with(".md") && !file.contains("://") {
                let target = page.parent().unwrap().join(file);
                assert!(target.exists(), "{} links {link}", page.display());
            }
        }
    }
}
