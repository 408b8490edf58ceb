// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpstates.txt.

use super::*;
use crate::output::golden::Golden;

#[test]
fn golden() {
    Golden::new("tcpstates")
        .records("state_change", || columns(true), |_| {})
        .records("active", || active::columns(true), |_| {})
        .check();
}
