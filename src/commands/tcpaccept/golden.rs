// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpaccept.txt.

use super::*;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

use super::columns::listener_columns;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    to.records("accept", columns, |_| {})
        .sums("listener", || listener_columns(Which::Every), |_| {})
        .sums("listener", || listener_columns(Which::Busy), |_| {})
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let opens = opens(style.clone()).expect("columns");
    vec![(size_of::<accept>(), Box::new(opens))]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcpaccept")).check();
}
