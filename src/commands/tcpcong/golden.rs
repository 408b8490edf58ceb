// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpcong.txt.

use super::*;
use crate::aggregate::by::By;
use crate::output::golden::{Golden, heads};

#[test]
fn golden() {
    let examples = [0, 1, 3].map(totals::Times::example);
    let sums: Vec<_> = heads().into_iter().zip(examples).collect();
    Golden::new("tcpcong")
        .records("ca_state_change", columns, |_| {})
        .lines(
            "total",
            || totals::total_columns(&Keys::of(By::Flow)),
            &sums,
        )
        .check();
}
