// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpstates.txt.

use super::*;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    to.records("state_change", || columns(true), |_| {})
        .records("active", || active::columns(true), |_| {})
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let rows = Rows::new("tcpstates", style.clone(), columns(true)).expect("columns");
    let log = None;
    vec![(size_of::<transition>(), Box::new(Changes { rows, log }))]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcpstates")).check();
}
