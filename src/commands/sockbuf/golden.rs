// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/sockbuf.txt.

use super::*;
use crate::output::golden::Golden;

use super::summary::{counter_columns, example, sum_columns, usual};

#[test]
fn golden() {
    Golden::new("sockbuf")
        .records("rcvqueue_full", columns, |_| {})
        .lines("count", || sum_columns(&usual()), &example(false))
        .lines("counter", counter_columns, &example(true))
        .check();
}
