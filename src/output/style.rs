// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the user chose about the output.

use super::logs::Host;
use super::{Choice, Shown, Sort};

/// How rows are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON Lines: one object per row, documented in docs/json.md.
    Json,
    /// Comma-separated values (RFC 4180): the fields and values of JSON, below a header.
    Csv,
    /// Entries of the systemd journal, with the values of JSON as their fields: docs/logs.md.
    Journal,
    /// OTLP/JSON log lines, with the values of JSON as their attributes: docs/logs.md.
    Otlp,
}

impl Format {
    /// Whether it is for what keeps logs.
    pub fn is_logs(self) -> bool {
        matches!(self, Self::Journal | Self::Otlp)
    }
}

/// What the user chose about the output.
#[derive(Clone, Debug, Default)]
pub struct Style {
    /// Table, JSON, CSV, or one for logs.
    pub format: Format,
    /// More and wider columns.
    pub wide: bool,
    /// A column with the time of day.
    pub time: bool,
    /// A column with the seconds since the first row.
    pub timestamp: bool,
    /// Whether a header line comes first.
    pub header: bool,
    /// Whether a table has colours.
    pub colour: bool,
    /// Whether a table may be on a terminal, for which rows are broken and the header is repeated.
    pub screen: bool,
    /// Which columns, if not the format's own.
    pub columns: Option<Choice>,
    /// The order of sums and lists, if not their own.
    pub sort: Option<Sort>,
    /// The host that each record names; not in tables.
    pub host: Option<Host>,
}

impl Style {
    /// In which columns its rows are laid out.
    pub fn layout(&self) -> Shown {
        match (self.format, self.wide) {
            (Format::Table, false) => Shown::NARROW,
            (Format::Table, true) => Shown::WIDE,
            _ => Shown::JSON,
        }
    }
}
