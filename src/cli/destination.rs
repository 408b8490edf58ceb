// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where rows go (`--output journal`), and what their format has room for (`--host`).

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

use crate::output::Format;
use crate::output::logs::socket;

/// The format that was chosen, if it is one of these flags' command.
fn format(matches: &ArgMatches) -> Option<Format> {
    let is = |flag| matches!(matches.try_get_one::<bool>(flag), Ok(Some(true)));
    let chosen = matches.try_get_one::<Format>("output").ok()??;
    Some(match (is("json"), is("csv")) {
        (true, _) => Format::Json,
        (_, true) => Format::Csv,
        _ => *chosen,
    })
}

/// # Errors
/// A host is asked for, where rows are a table.
pub(super) fn check(command: &Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let given = |flag: &str| {
        let known = command.get_arguments().any(|arg| arg.get_id() == flag);
        known && matches.value_source(flag) == Some(ValueSource::CommandLine)
    };
    if !given("host") || format(matches) != Some(Format::Table) {
        return Ok(());
    }
    let mut error = clap::Error::new(ErrorKind::ArgumentConflict).with_cmd(command);
    let word = |text: &str| ContextValue::String(text.to_owned());
    error.insert(ContextKind::InvalidArg, word("--host"));
    error.insert(
        ContextKind::PriorArg,
        word("a table: add --json, --csv or --output"),
    );
    Err(error)
}

/// Connects to the journal, if rows go there.
///
/// # Errors
/// A sentence, when nothing listens.
pub(super) fn choose(matches: &ArgMatches) -> Result<()> {
    if format(matches) != Some(Format::Journal) {
        return Ok(());
    }
    let path = matches.try_get_one::<PathBuf>("journal_socket");
    let path = path
        .ok()
        .flatten()
        .map_or(Path::new(socket::SOCKET), PathBuf::as_path);
    socket::choose(path)
}
