// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--color`, under the name that it has everywhere.

use clap::Args;

use crate::output::terminal;

/// When output has colours.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Colour {
    /// Colour what is wrong: on a terminal (auto), always or never
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        num_args = 0..=1,
        default_missing_value = "always"
    )]
    color: terminal::Colour,
}

impl Colour {
    /// Whether standard output gets colours.
    pub fn is_wanted(self) -> bool {
        self.color.is_wanted()
    }
}
