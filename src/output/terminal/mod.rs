// SPDX-License-Identifier: MIT OR Apache-2.0
//! What only a terminal gets: colour, a header on each screen, and rows that go on in a second line instead of beyond the
//! edge. A pipe and a file get the bare table: one row, one line.

mod page;
mod tones;

use std::env;
use std::io::{IsTerminal, stdout};

use nix::libc;

pub use page::Page;
pub use tones::{Tone, Tones, lines, word_at};

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
