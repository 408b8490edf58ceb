// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only a terminal gets: colour, a header on each screen, and rows that go on in a second line instead of beyond the
//! edge. A pipe and a file get the bare table: one row, one line.

mod page;
mod tones;

use std::env;
use std::io::{IsTerminal, stdout};
use std::ops::Range;

use nix::libc;

pub use tones::{Tone, lines, word_at};

use super::line::Line;
use super::{Format, Style};
use page::Page;
use tones::Tones;

/// When colours are written: `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    #[default]
    Auto,
    /// Also into a pipe or a file, as for `less -R`
    Always,
    /// Nowhere
    Never,
}

impl Colour {
    /// Whether standard output gets colours.
    pub fn is_wanted(self) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            // https://no-color.org
            Self::Auto => {
                let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                is_there() && !is_dumb() && !refused
            }
        }
    }
}

/// Whether standard output is a terminal.
pub fn is_there() -> bool {
    stdout().is_terminal()
}

/// Whether the terminal is said to know no more than lines of text.
pub fn is_dumb() -> bool {
    env::var_os("TERM").is_none_or(|term| term == "dumb")
}

/// What a table is on the screen: nothing in a pipe or a file, unless colours are wanted there.
#[derive(Debug, Default)]
pub struct Screen {
    page: Page,
    tones: Tones,
    /// Wide rows are broken by the terminal alone.
    wide: bool,
}

impl Screen {
    /// For a table with these headings; other formats have none of it.
    pub fn new(style: &Style, headings: &[&str]) -> Self {
        if style.format != Format::Table {
            return Self::default();
        }
        let tones = style.colour.then(|| Tones::new(headings));
        Self {
            page: Page::new(style.screen),
            tones: tones.unwrap_or_default(),
            wide: style.wide,
        }
    }

    /// Whether the next row would be without a header above it.
    pub fn is_over(&self) -> bool {
        self.page.is_over()
    }

    /// A header begins.
    pub fn header(&mut self) -> Line {
        self.page.begin();
        self.row()
    }

    /// A row begins.
    pub fn row(&mut self) -> Line {
        self.tones.begin();
        Line::within(self.page.width().filter(|_| !self.wide))
    }

    /// A cell of a row is there.
    pub fn cell(&mut self, place: Range<usize>) {
        self.tones.cell(place);
    }

    /// All of a row or a header is there, from `begin` on: colours the cells.
    pub fn shown(&mut self, out: &mut Vec<u8>, begin: usize) {
        self.page.add(out.get(begin..).unwrap_or_default());
        self.tones.paint(out);
    }
}

/// Of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Its height.
    pub lines: usize,
    /// Its width.
    pub columns: usize,
}

/// That of standard output; `None`: it is no terminal, or one without a size, as a serial line may be.
pub fn size() -> Option<Size> {
    // SAFETY: of integers only: zero is a value of each.
    let mut size: libc::winsize = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes such a struct, which outlives the call.
    let ret = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    match (ret, size.ws_col, size.ws_row) {
        (0, columns @ 1.., lines @ 1..) => Some(Size {
            lines: lines.into(),
            columns: columns.into(),
        }),
        _ => None,
    }
}
