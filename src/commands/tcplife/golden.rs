// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcplife.txt.

use super::*;
use crate::output::golden::Golden;

#[test]
fn golden() {
    Golden::new("tcplife")
        .records("session", columns, |_| {})
        .check();
}
