// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cells side by side in a table.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How many columns of a terminal a cell takes: two for a wide character, none for a mark that combines.
fn width(cell: &str) -> usize {
    match cell.is_ascii() {
        true => cell.len(),
        false => cell.width(),
    }
}

/// A name is cut to its column, as bcc does, and ends in `…` then; an escape stays whole. An address or a number never is
/// cut.
pub fn cut(cell: &str, columns: usize) -> Cow<'_, str> {
    if width(cell) <= columns {
        return Cow::Borrowed(cell);
    }
    let (mut kept, mut taken) = (0, 1); // the ellipsis
    let mut rest = cell;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '\\' if rest.starts_with("\\x") => 4,
            '\\' => 2,
            _ => first.len_utf8(),
        };
        let Some((unit, after)) = rest.split_at_checked(len) else {
            break;
        };
        taken += unit.chars().map(|c| c.width().unwrap_or(0)).sum::<usize>();
        if taken > columns {
            break;
        }
        (kept, rest) = (kept + len, after);
    }
    Cow::Owned(format!("{}…", cell.get(..kept).unwrap_or_default()))
}

/// Puts cells side by side. The padding of a cell is written before the next one, so no line ends in blanks.
#[derive(Default)]
pub struct Line {
    begun: bool,
    pad: usize,
}

impl Line {
    /// Adds a cell of so many columns, or more.
    pub fn cell(&mut self, out: &mut Vec<u8>, cell: &str, columns: usize, right: bool) {
        let blanks = self.pad + usize::from(self.begun);
        out.resize(out.len() + blanks, b' ');
        self.begun = true;
        let pad = columns.saturating_sub(width(cell));
        if right {
            out.resize(out.len() + pad, b' ');
            self.pad = 0;
        } else {
            self.pad = pad;
        }
        out.extend_from_slice(cell.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_name_says_so_and_keeps_its_escapes_whole() {
        for (cell, columns, expected) in [
            ("nginx", 5, "nginx"),
            ("postgres", 5, "post…"),
            (r"ab\x2cd", 7, r"ab\x2cd"),
            (r"ab\x2cd", 6, "ab…"),
            (r"ab\\d", 4, "ab…"),
            ("服务器守护", 5, "服务…"),
            ("te\u{301}st", 4, "te\u{301}st"),
            ("te\u{301}sts", 4, "te\u{301}s…"),
        ] {
            assert_eq!(cut(cell, columns), expected);
            assert!(width(&cut(cell, columns)) <= columns);
        }
    }

    #[test]
    fn wide_and_combining_characters_keep_the_columns() {
        for name in ["nginx", "服务", "te\u{301}st", "🦀", ""] {
            let (mut out, mut line) = (vec![], Line::default());
            line.cell(&mut out, name, 10, false);
            line.cell(&mut out, "80", 5, true);
            line.cell(&mut out, "x", 1, false);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.width(), 18, "{text}");
            assert!(text.ends_with(" x"));
        }
    }
}
