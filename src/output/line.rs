// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cells side by side in a table.

use std::ops::Range;

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

/// How a cell is put.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cell {
    /// So many columns, or more.
    pub columns: usize,
    /// Aligned to the right.
    pub right: bool,
    /// That it is ASCII is known.
    pub ascii: bool,
    /// What does not fit, and must be neither cut nor move what follows: an address.
    pub address: bool,
}

/// Where the line of a column begins that has no room in the first one.
const INDENT: usize = 6;

/// Puts cells side by side, each in its place, or one blank behind a cell that is too wide. The padding of a cell is
/// written before the next one, so no line ends in blanks.
///
/// On a terminal a row is broken instead: before what would go beyond the edge, and behind an address that is too wide, so
/// that the next cell is below its heading.
#[derive(Debug, Default)]
pub struct Line {
    /// The edge of the terminal, if there is one.
    edge: Option<usize>,
    /// The place of the next cell.
    next: usize,
    /// The end of the last one, 0 at the beginning of a line.
    at: usize,
    /// That was an address.
    address: bool,
}

impl Line {
    /// A row that is broken at this edge.
    pub fn within(edge: Option<usize>) -> Self {
        Self {
            edge,
            ..Self::default()
        }
    }

    /// Adds a cell of so many columns, or more.
    pub fn cell(&mut self, out: &mut Vec<u8>, cell: &str, columns: usize, right: bool) {
        let shape = Cell {
            columns,
            right,
            ..Cell::default()
        };
        self.cell_of(out, shape, |out| out.extend_from_slice(cell.as_bytes()));
    }

    /// The same of what `write` adds; returns where that is.
    pub fn cell_of(
        &mut self,
        out: &mut Vec<u8>,
        cell: Cell,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Range<usize> {
        let from = out.len();
        // Most cells need not be known for that.
        let before = !cell.right && self.edge.is_none();
        if before {
            blanks(out, self.free().saturating_sub(self.at));
        }
        let text = out.len();
        write(out);
        let width = match out.get(text..).unwrap_or_default() {
            // Nothing, or lines of its own.
            [] | [b'\n', ..] => {
                out.drain(from..text);
                self.next += cell.columns + 1;
                return from..out.len();
            }
            text if cell.ascii => text.len(),
            text => width(text),
        };
        let long = out.len() - text;
        if before {
            self.at = self.free() + width;
        } else {
            let (breaks, start) = self.place(cell, width);
            let end = out.len();
            if breaks {
                out.push(b'\n');
                self.at = 0;
            }
            blanks(out, start.saturating_sub(self.at));
            let padding = out.len() - end;
            out.get_mut(from..)
                .unwrap_or_default()
                .rotate_right(padding);
            self.at = start + width;
        }
        self.next += cell.columns + 1;
        self.address = cell.address;
        out.len() - long..out.len()
    }

    /// Where a cell can begin: in its place, or behind the last one.
    fn free(&self) -> usize {
        self.next.max(self.at + usize::from(self.at > 0))
    }

    /// Whether a new line begins, and where in it the cell does.
    fn place(&mut self, cell: Cell, width: usize) -> (bool, usize) {
        let lead = if cell.right {
            cell.columns.saturating_sub(width)
        } else {
            0
        };
        let behind = self.at + usize::from(self.at > 0);
        let (wanted, start) = (self.next + lead, behind.max(self.next + lead));
        let Some(edge) = self.edge else {
            return (false, start);
        };
        if self.next + cell.columns > edge && self.next > INDENT {
            // No row has it in the first line, nor has the header.
            self.next = INDENT;
            return (true, INDENT + lead);
        }
        let breaks = self.address && start > wanted;
        let start = if breaks { wanted } else { start };
        if start + width <= edge {
            return (breaks, start);
        }
        let start = edge.saturating_sub(width);
        (breaks || start < behind, start)
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

    /// Names and addresses from the left, numbers from the right, as in a narrow table.
    fn row(edge: Option<usize>, cells: [&str; 6]) -> String {
        let (mut out, mut line) = (vec![], Line::within(edge));
        let columns = [5, 15, 5, 15, 5, 10];
        for (n, (cell, columns)) in cells.iter().zip(columns).enumerate() {
            let shape = Cell {
                columns,
                right: n == 4,
                ascii: true,
                address: n == 1 || n == 3,
            };
            let place = line.cell_of(&mut out, shape, |out| {
                out.extend_from_slice(cell.as_bytes());
            });
            assert_eq!(&out[place], cell.as_bytes());
        }
        String::from_utf8(out).unwrap()
    }

    const LONG: &str = "2001:db8:1111:2222:3333:4444:5555:6666";

    #[test]
    fn columns_are_found_again_behind_what_is_too_wide() {
        let plain = row(None, ["7", "10.0.0.1", "80", "10.0.0.2", "443", "app"]);
        assert_eq!(
            plain,
            "7     10.0.0.1        80    10.0.0.2          443 app"
        );
        let moved = row(None, ["7", "2001:db8:1:2::77", "80", "::1", "443", "app"]);
        assert_eq!(
            moved,
            "7     2001:db8:1:2::77 80   ::1               443 app"
        );
    }

    #[test]
    fn what_follows_a_wide_address_is_below_its_heading() {
        let short = row(Some(80), ["7", "::1", "80", "::2", "443", "app"]);
        assert_eq!(short, row(None, ["7", "::1", "80", "::2", "443", "app"]));
        let broken = row(Some(80), ["7", LONG, "80", LONG, "443", "app"]);
        let expected = format!("7     {LONG}\n{:22}80    {LONG}\n{:44}  443 app", "", "");
        assert_eq!(broken, expected);
        assert!(broken.lines().all(|line| line.len() <= 80));
    }

    #[test]
    fn nothing_goes_beyond_the_edge() {
        // The last cell is too long for the line; the last two columns are.
        let long = row(
            Some(62),
            ["7", "::1", "80", "::2", "443", "retransmitting unread"],
        );
        let first = "7     ::1             80    ::2               443";
        assert_eq!(long, format!("{first}\n{:41}retransmitting unread", ""));
        let narrow = row(Some(45), ["7", "::1", "80", "::2", "443", "app"]);
        assert_eq!(narrow, "7     ::1             80    ::2\n        443 app");
        // An address that would, is moved to the left.
        let moved = row(Some(50), ["7", LONG, "80", LONG, "443", "app"]);
        let lines: Vec<_> = moved.lines().collect();
        assert_eq!(lines[1], format!("{:22}80", ""));
        assert_eq!(lines[2], format!("{:12}{LONG}", ""));
        assert!(lines.iter().all(|line| line.len() <= 50), "{moved}");
    }

    #[test]
    fn empty_cells_leave_no_blanks() {
        assert_eq!(row(None, ["7", "", "", "", "", ""]), "7");
        let stack = row(None, ["7", "", "", "", "", "\n    f"]);
        assert_eq!(stack, "7\n    f");
        assert_eq!(
            row(Some(80), ["7", "", "80", "", "", "x"]),
            format!("7{:21}80{:26}x", "", "")
        );
    }
}
