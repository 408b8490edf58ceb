// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which connections are shown, in which order.

use crate::aggregate::keys::Keys;

use super::sort::{Ranked, Sort};
use super::traffic::Connection;

/// What the flags, or the keys of the screen, have chosen.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) sort: Sort,
    pub(super) by: Option<Keys>,
    pub(super) top: usize,
    /// Rows are sorted by columns that were named instead: all are kept until then.
    pub(super) by_columns: bool,
    /// Those too whose sorted value is zero.
    pub(super) all: bool,
    /// `--stalled`: only those that have not moved for so many microseconds.
    pub(super) stalled_us: Option<u64>,
}

impl Choice {
    /// How many are kept of those that are shown.
    pub(super) fn kept(&self) -> usize {
        if self.by_columns {
            usize::MAX
        } else {
            self.top
        }
    }

    pub(super) fn shows(&self, one: &Connection) -> bool {
        match self.stalled_us {
            Some(least) => {
                let why = one.why();
                why.is_any() && why.us >= least
            }
            None => self.all || one.value(self.sort) != (0, 0),
        }
    }

    /// Whether a connection is added up with those of its group.
    pub(super) fn counts(&self, one: &Connection) -> bool {
        self.stalled_us.is_none() || self.shows(one)
    }

    /// `event` of its rows of single connections.
    pub(super) fn event(&self) -> &'static str {
        match self.stalled_us {
            Some(_) => "stalled",
            None => "connection",
        }
    }

    /// One of its rows, and several.
    pub(super) fn what(&self) -> (&'static str, &'static str) {
        match self.by {
            Some(_) => ("group", "groups"),
            None => ("connection", "connections"),
        }
    }
}
