// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcptop.txt.

use super::*;
use crate::output::golden::Golden;

#[test]
fn golden() {
    Golden::new("tcptop")
        .records("connection", || columns(false), |_| {})
        .records("stalled", || columns(true), |_| {})
        .check();
}
