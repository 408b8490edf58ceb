// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a table is on the screen.

use super::{Size, is_there, size};

/// A terminal narrower than this is left to break lines itself.
const NARROWEST: usize = 40;

/// Knows when the header has left the screen, as vmstat does, and how wide a line may be.
#[derive(Debug, Default)]
pub struct Page {
    /// Standard output is a terminal, and gets a table.
    terminal: bool,
    /// As it was at the last header.
    size: Option<Size>,
    /// Lines since then, and those of the header.
    lines: usize,
}

impl Page {
    /// `wanted`: whether a terminal matters at all.
    pub fn new(wanted: bool) -> Self {
        let terminal = wanted && is_there();
        let size = if terminal { size() } else { None };
        Self {
            terminal,
            size,
            lines: 0,
        }
    }

    /// How many characters a line may have; `None`: any number.
    pub fn width(&self) -> Option<usize> {
        let columns = self.size.map(|size| size.columns);
        columns.filter(|columns| *columns >= NARROWEST)
    }

    /// Whether the next row would be without a header on the screen, or below one for another width.
    pub fn is_over(&self) -> bool {
        self.terminal && self.is_over_at(size())
    }

    fn is_over_at(&self, now: Option<Size>) -> bool {
        let Some(now) = now else {
            return false;
        };
        // The cursor is below the last line.
        Some(now) != self.size || self.lines + 1 >= now.lines
    }

    /// A header comes.
    pub fn begin(&mut self) {
        if self.terminal {
            self.size = size();
        }
        self.lines = 0;
    }

    /// Counts the lines of the screen that this text takes.
    pub fn add(&mut self, text: &[u8]) {
        let Some(size) = self.size else {
            return;
        };
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        for line in text.split(|byte| *byte == b'\n') {
            // All but the continuations of UTF-8.
            let width = line.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
            self.lines += width.div_ceil(size.columns).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_comes_back_before_it_would_leave() {
        let size = Size {
            lines: 5,
            columns: 50,
        };
        let mut page = Page {
            terminal: true,
            size: Some(size),
            lines: 0,
        };
        page.add(b"HEADER\n");
        for _ in 0..3 {
            assert!(!page.is_over_at(Some(size)));
            page.add(b"row\n");
        }
        // Four lines, and the cursor in the fifth.
        assert!(page.is_over_at(Some(size)));
        assert!(!page.is_over_at(None), "the terminal is gone");
    }

    #[test]
    fn long_and_broken_rows_count_as_they_are_seen() {
        let columns = 50;
        let size = Some(Size { lines: 99, columns });
        let mut page = Page {
            terminal: true,
            size,
            lines: 0,
        };
        page.add(&[b'x'; 101]);
        page.add(b"one\ntwo\n");
        page.add(b"\n");
        page.add("\u{2026}".repeat(50).as_bytes());
        assert_eq!(page.lines, 7);
        let wider = Some(Size {
            lines: 99,
            columns: 60,
        });
        assert!(!page.is_over_at(size) && page.is_over_at(wider));
    }

    #[test]
    fn lines_are_broken_where_there_is_room_for_it() {
        let width = |columns| {
            let size = Some(Size { lines: 24, columns });
            let page = Page {
                size,
                ..Page::default()
            };
            page.width()
        };
        assert_eq!((width(80), width(39)), (Some(80), None));
        assert_eq!(Page::default().width(), None);
    }
}
