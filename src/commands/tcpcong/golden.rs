// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpcong.txt.

use super::*;
use crate::aggregate::by::By;
use crate::output::golden::{Kinds, heads};
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    let examples = [0, 1, 3].map(totals::Times::example);
    let sums: Vec<_> = heads().into_iter().zip(examples).collect();
    to.records("ca_state_change", columns, |_| {}).lines(
        "total",
        || totals::total_columns(&Keys::of(By::Flow)),
        &sums,
    )
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let args = Args::parse_from(["tcpcong"]);
    match Shape::new(&args, style.clone()) {
        Ok(Shape::Each(each)) => vec![(size_of::<change>(), Box::new(each))],
        _ => Vec::new(),
    }
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcpcong")).check();
}
