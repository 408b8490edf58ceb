// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a command's rows consist of, told by the command itself: `--describe-columns`, for the tests of the pages. Needs
//! neither privileges nor a kernel.

use std::process::ExitCode;

use serde::Serialize;

use super::{Column, Shown, common_columns};

/// The flag, hidden; it must be the first.
pub const DESCRIBE: &str = "--describe-columns";

/// One kind of row.
#[derive(Debug, Serialize)]
pub struct Kind {
    event: &'static str,
    columns: Vec<Described>,
}

/// A column: its key in JSON and CSV, its heading in tables (either may be empty), and the layouts that have it.
#[derive(Debug, Serialize)]
struct Described {
    key: &'static str,
    heading: &'static str,
    layouts: Vec<&'static str>,
}

impl Described {
    fn of<E>(column: &Column<E>) -> Self {
        let all = [
            (Shown::NARROW, "table"),
            (Shown::WIDE, "wide"),
            (Shown::JSON, "json"),
            (Shown::JSON, "csv"),
        ];
        let layouts = all
            .into_iter()
            .filter(|(layout, _)| column.shown.has(*layout));
        Self {
            key: column.key,
            heading: column.heading,
            layouts: layouts.map(|(_, name)| name).collect(),
        }
    }
}

impl Kind {
    /// Rows of one socket each, which begin with the columns of every command.
    pub fn row<E>(event: &'static str, columns: &[Column<E>]) -> Self {
        let mut kind = Self::aggregate(event, &common_columns::<E>());
        kind.columns.extend(columns.iter().map(Described::of));
        kind
    }

    /// Rows that speak of many sockets.
    pub fn aggregate<E>(event: &'static str, columns: &[Column<E>]) -> Self {
        Self {
            event,
            columns: columns.iter().map(Described::of).collect(),
        }
    }

    /// Records that are not made of columns: their keys.
    pub fn record(event: &'static str, keys: &[&'static str]) -> Self {
        let column = |key: &&'static str| Described {
            key,
            heading: "",
            layouts: vec!["json"],
        };
        Self {
            event,
            columns: keys.iter().map(column).collect(),
        }
    }
}

/// Answers [`DESCRIBE`], if that is what the command was asked.
pub fn answer(kinds: impl FnOnce() -> Vec<Kind>) -> Option<ExitCode> {
    std::env::args_os().nth(1).filter(|a| a == DESCRIBE)?;
    let text = serde_json::to_vec(&kinds()).unwrap_or_default();
    Some(match crate::sink::write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}
