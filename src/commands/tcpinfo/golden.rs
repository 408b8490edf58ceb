// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpinfo.txt.

use super::*;
use crate::output::golden::Golden;

#[test]
fn golden() {
    Golden::new("tcpinfo")
        .records("connection", columns, |_| {})
        .check();
}
