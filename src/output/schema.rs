// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--describe-columns`: a command lists its own columns, for the tests of the pages. Needs neither privileges nor
//! BPF.

use std::process::ExitCode;

use serde::Serialize;

use crate::abi::known::Mode;

use super::column::{leading_columns, wide_columns};
use super::stamp::{BY, SUM_KEYS};
use super::{Column, Shown};

/// The flag, hidden; it must be the first.
pub const DESCRIBE: &str = "--describe-columns";

/// One kind of row.
#[derive(Debug, Serialize)]
pub struct Kind {
    event: &'static str,
    columns: Vec<ColumnInfo>,
}

/// A column: its key in JSON and CSV, its heading in tables (either may be empty), and the layouts that have it.
#[derive(Debug, Serialize)]
struct ColumnInfo {
    key: &'static str,
    heading: &'static str,
    layouts: Vec<&'static str>,
    /// Its columns in the narrow and in the wide table.
    widths: (usize, usize),
    #[serde(skip)]
    needs: u16,
    /// The ways to run in which every row has it, if the command told them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    known: Vec<&'static str>,
}

impl ColumnInfo {
    fn new<E>(column: &Column<E>) -> Self {
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
            widths: (column.room(false), column.room(true)),
            needs: column.needs,
            known: Vec::new(),
        }
    }
}

impl Kind {
    /// Rows of one socket each, which begin with the columns of every command.
    pub fn row<E>(event: &'static str, columns: &[Column<E>]) -> Self {
        let mut own = columns.to_vec();
        let mut kind = Self::aggregate(event, &leading_columns(&mut own));
        kind.columns.extend(own.iter().map(ColumnInfo::new));
        let wide = wide_columns::<E>();
        kind.columns.extend(wide.iter().map(ColumnInfo::new));
        kind
    }

    /// In which of the ways to run each column is known: what the pages say is compared with that.
    pub fn known(mut self, modes: &[Mode]) -> Self {
        for column in &mut self.columns {
            let has = |mode: &&Mode| mode.1 & column.needs == column.needs;
            column.known = modes.iter().filter(has).map(|mode| mode.0).collect();
        }
        self
    }

    /// Rows that speak of many sockets.
    pub fn aggregate<E>(event: &'static str, columns: &[Column<E>]) -> Self {
        Self {
            event,
            columns: columns.iter().map(ColumnInfo::new).collect(),
        }
    }

    /// Sums.
    pub fn sums<E>(event: &'static str, columns: &[Column<E>]) -> Self {
        let mut kind = Self::sum_record(event, &[]);
        kind.columns.extend(columns.iter().map(ColumnInfo::new));
        kind
    }

    /// Sums that say what they are made by.
    pub fn sums_by<E>(event: &'static str, columns: &[Column<E>]) -> Self {
        let mut kind = Self::sum_record(event, &[BY]);
        kind.columns.extend(columns.iter().map(ColumnInfo::new));
        kind
    }

    /// Sums that are not made of columns: their keys.
    pub fn sum_record(event: &'static str, keys: &[&'static str]) -> Self {
        Self::record(event, &[&SUM_KEYS, keys].concat())
    }

    /// Records that are not made of columns: their keys.
    pub fn record(event: &'static str, keys: &[&'static str]) -> Self {
        let column = |key: &&'static str| ColumnInfo {
            key,
            heading: "",
            layouts: vec!["json"],
            widths: (0, 0),
            needs: 0,
            known: Vec::new(),
        };
        Self {
            event,
            columns: keys.iter().map(column).collect(),
        }
    }
}

/// Handles [`DESCRIBE`], if it was given.
pub fn answer(kinds: impl FnOnce() -> Vec<Kind>) -> Option<ExitCode> {
    std::env::args_os().nth(1).filter(|a| a == DESCRIBE)?;
    let text = serde_json::to_vec(&kinds()).unwrap_or_default();
    Some(match crate::output::print::write_all(&text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    })
}
