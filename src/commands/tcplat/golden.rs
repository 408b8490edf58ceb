// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcplat.txt.

use super::*;
use crate::output::Style;
use crate::output::golden::{Kinds, heads};
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    let [_, client, server] = heads();
    let [s, c] = summary::examples();
    let totals = [(server, s), (client, c)];
    let keys = Keys::of(By::Comm);
    to.records("turn", columns, |_| {})
        .lines("total", || summary::columns(&keys), &totals)
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let rows = Rows::new("tcplat", style.clone(), columns()).expect("columns");

    let each = EachRow {
        rows,
        event: |_: &turn| "turn",
    };
    vec![(size_of::<turn>(), Box::new(each))]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcplat")).check();
}
