// SPDX-License-Identifier: MIT OR Apache-2.0
//! Columns in the places that a style gives them.

use super::digits::append::Piece;
use super::logs::{Cells, Logs, listed};
use super::value::Value;
use super::{Column, Row, Style};

/// A column, and what of it is the same in each row.
pub struct Placed<E> {
    pub column: Column<E>,
    /// Its columns in the table.
    pub width: usize,
    /// What is before its value in JSON, or in a record for logs.
    pub key: Piece,
}

impl<E> Placed<E> {
    /// In this style.
    pub fn new(column: Column<E>, style: &Style) -> Self {
        Self {
            width: column.room(style.wide),
            key: match style.format.is_logs() {
                true => Logs::before(style.format, column.key),
                false => Piece::new(format!(r#","{}":"#, column.key)),
            },
            column,
        }
    }
}

/// The values of a row by their keys.
pub struct Placeds<'r, E> {
    pub columns: &'r [Placed<E>],
    pub row: &'r Row<'r, E>,
}

impl<E> Placeds<'_, E> {
    fn get(&self, key: &str) -> Option<Value<'_>> {
        let found = self
            .columns
            .iter()
            .find(|placed| placed.column.key == key)?;
        Some(found.column.value(self.row))
    }
}

impl<E> Cells for Placeds<'_, E> {
    fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.number()
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(is) => Some(is),
            _ => None,
        }
    }

    fn is(&self, key: &str, text: &str) -> bool {
        self.get(key) == Some(Value::Text(text))
    }

    fn write(&self, key: &str, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        if let Some(value) = self.get(key) {
            value.bare(out);
        }
        out.len() > start
    }

    fn write_name(&self, key: &str, out: &mut Vec<u8>) -> bool {
        match self.get(key) {
            Some(Value::Comm(bytes)) => out.extend_from_slice(bytes),
            _ => return false,
        }
        true
    }

    fn list(&self, out: &mut Vec<u8>, all: bool) {
        let start = out.len();
        for Placed { column, .. } in self.columns {
            let value = column.value(self.row);
            listed(out, start, all, column.key, |out| value.bare(out));
        }
    }
}
