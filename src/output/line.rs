// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cells side by side in a table.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::digits::append::blanks;

/// How many columns of a terminal a cell takes: two for a wide character, none for a mark that combines.
fn width(cell: &[u8]) -> usize {
    if cell.is_ascii() {
        return cell.len();
    }
    std::str::from_utf8(cell).map_or(cell.len(), UnicodeWidthStr::width)
}

/// Cuts a name, which begins at `start`, to its column, as bcc does, and marks it with `…`; an escape stays whole.
/// Addresses and numbers are never cut.
pub fn cut(out: &mut Vec<u8>, start: usize, columns: usize) {
    let cell = out.get(start..).unwrap_or_default();
    if width(cell) <= columns {
        return;
    }
    let (mut kept, mut taken) = (0, 1); // the ellipsis
    let mut rest = std::str::from_utf8(cell).unwrap_or_default();
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
    out.truncate(start + kept);
    out.extend_from_slice("…".as_bytes());
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
        self.cell_of(out, columns, right, false, |out| {
            out.extend_from_slice(cell.as_bytes());
        });
    }

    /// The same of what `write` adds. `ascii`: that it is so is known.
    pub fn cell_of(
        &mut self,
        out: &mut Vec<u8>,
        columns: usize,
        right: bool,
        ascii: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        blanks(out, self.pad + usize::from(self.begun));
        self.begun = true;
        let start = out.len();
        write(out);
        let cell = out.get(start..).unwrap_or_default();
        let width = if ascii { cell.len() } else { width(cell) };
        self.pad = columns.saturating_sub(width);
        if right && self.pad > 0 {
            blanks(out, self.pad);
            let cell = out.get_mut(start..).unwrap_or_default();
            cell.rotate_right(std::mem::take(&mut self.pad));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_name_is_marked_and_keeps_escapes() {
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
            let mut out = format!("|{cell}").into_bytes();
            cut(&mut out, 1, columns);
            assert!(width(&out[1..]) <= columns);
            assert_eq!(&out[1..], expected.as_bytes());
        }
    }

    #[test]
    fn wide_and_combining_characters_align() {
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
