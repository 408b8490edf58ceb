// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows: one column table per tool gives the table, JSON Lines, CSV, and records for logs.

pub mod address;
pub mod choice;
pub mod logs;
pub mod message;
pub mod nonblocking;
pub mod print;
pub mod units;
pub mod value;
pub mod whose;

pub mod column;
mod digits;
pub mod escape;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, allow(dead_code))] // its files
pub(crate) mod golden;
mod line;
mod placed;
mod rows;
pub mod schema;
mod stamp;
mod style;
pub mod terminal;
pub mod types;

pub use choice::Choice;
pub use choice::sort::Sort;
pub use column::{Column, Shown};
pub(crate) use line::cut;
pub use rows::Rows;
pub use stamp::{Figures, Period, Stamp};
pub use style::{Format, Style};
pub use value::Value;

use crate::abi::types::{Record, head};

/// A record as a row sees it: the shared head and the tool's own part.
pub struct Row<'a, E> {
    /// The shared part.
    pub head: &'a head,
    /// The whole record.
    pub body: &'a E,
}

impl<'a, E: Record> From<&'a E> for Row<'a, E> {
    fn from(body: &'a E) -> Self {
        let head = body.head();
        Self { head, body }
    }
}
