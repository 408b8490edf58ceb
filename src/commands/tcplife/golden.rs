// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcplife.txt.

use super::*;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    to.records("session", columns, |_| {})
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let rows = Rows::new("tcplife", style.clone(), columns()).expect("columns");
    vec![(size_of::<session>(), Box::new(Sessions::new(rows)))]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcplife")).check();
}
