// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpaccept.txt.

use super::*;
use crate::output::golden::Golden;

use super::columns::listener_columns;

#[test]
fn golden() {
    Golden::new("tcpaccept")
        .records("accept", columns, |_| {})
        .sums("listener", || listener_columns(Which::Every))
        .sums("listener", || listener_columns(Which::Busy))
        .check();
}
