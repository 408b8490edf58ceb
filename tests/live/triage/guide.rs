// SPDX-License-Identifier: MIT OR Apache-2.0
//! The outputs in docs/field-guide.md are these tests' own: each is compared with what the incident printed now, and
//! written anew if `UPDATE_GUIDE` is set.

use std::{env, fs, process::Command, sync::Mutex, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{Found, look};
use crate::{net::Netns, scratch::Scratch, tool};

/// Tests run side by side.
static PAGE: Mutex<()> = Mutex::new(());

/// As `super::findings`, and what a person is shown of the incident.
pub fn findings(
    name: &str,
    namespaces: &[&Netns],
    time: Duration,
    incident: impl FnOnce() -> Result<()>,
) -> Result<Found> {
    let recording = Scratch::path("recording");
    let found = look(namespaces, time, &["--record", recording.text()], incident)?;
    let mut command = Command::new(tool::path("tcptools"));
    let output = command
        .args(["triage", "--from", recording.text()])
        .output()?;
    let page = named(&String::from_utf8(output.stdout)?);
    shows(name, "tcptools triage", &page)?;
    Ok(found)
}

/// With a name for this process, whose own differs from build to build.
fn named(page: &str) -> String {
    let mut parts = page.split("live-");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("traffic");
        text.push_str(part.trim_start_matches(|letter: char| letter.is_ascii_hexdigit()));
    }
    text
}

/// The output of a command in an incident, which stands in the guide behind the line `<!-- INCIDENT: COMMAND -->`.
///
/// Compared are what was found first, and the command that shows more: figures, and with them sentences, differ from run
/// to run.
fn shows(incident: &str, command: &str, output: &str) -> Result<()> {
    let _alone = PAGE.lock().expect("no panic");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/field-guide.md");
    let page = fs::read_to_string(path)?;
    let mark = format!("<!-- {incident}: {command} -->\n```\n");
    let (before, rest) = page
        .split_once(&mark)
        .with_context(|| format!("no {mark}"))?;
    let (block, after) = rest.split_once("```\n").context("a block without an end")?;
    let new = format!("# {command}\n{}\n", output.trim_end());
    if env::var_os("UPDATE_GUIDE").is_some() {
        return Ok(fs::write(path, format!("{before}{mark}{new}```\n{after}"))?);
    }
    let words = |text: &str| {
        let next = text
            .lines()
            .find(|line| line.trim_start().starts_with("> "));
        let told: Vec<_> = text.lines().nth(1).into_iter().chain(next).collect();
        let words = told.join(" ");
        words
            .split_whitespace()
            .map(figures)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let (shown, printed) = (words(block), words(&new));
    ensure!(shown == printed, "the guide shows\n{shown}\nnot\n{printed}");
    Ok(())
}

/// A word with `N` for each number in it.
fn figures(word: &str) -> String {
    let mut text = String::new();
    for letter in word.chars() {
        match letter {
            '0'..='9' if text.ends_with('N') => {}
            '0'..='9' => text.push('N'),
            other => text.push(other),
        }
    }
    text
}
