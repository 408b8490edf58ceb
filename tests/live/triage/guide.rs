// SPDX-License-Identifier: MIT OR Apache-2.0
//! The outputs in docs/field-guide.md are these tests' own: each is compared with what the incident printed now, and
//! written anew if `UPDATE_GUIDE` is set.

use std::{env, fs, sync::Mutex};

use anyhow::{Context, Result, ensure};

/// Tests run side by side.
static PAGE: Mutex<()> = Mutex::new(());

/// The output of a command in an incident, which stands in the guide behind the line `<!-- INCIDENT: COMMAND -->`.
///
/// Compared are the words of the first `lines` lines, however they are wrapped: figures differ from run to run.
pub fn shows(incident: &str, command: &str, output: &str, lines: usize) -> Result<()> {
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
        let text: Vec<_> = text.lines().take(lines + 1).collect();
        text.join(" ")
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
