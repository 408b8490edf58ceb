// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpinfo.txt.

use super::*;
use crate::output::Style;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    to.records("connection", columns, |_| {})
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let rows = Rows::new("tcpinfo", style.clone(), columns()).expect("columns");
    vec![(size_of::<info>(), Box::new(EachRow { rows, event }))]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcpinfo")).check();
}
