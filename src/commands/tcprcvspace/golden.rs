// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcprcvspace.txt.

use super::*;
use crate::output::golden::Golden;

#[test]
fn golden() {
    Golden::new("tcprcvspace")
        .records("adjust", || columns(Of::Calls), |_| {})
        .records("limited", || columns(Of::Sockets), |_| {})
        .records("grow", || columns(Of::Steps), |_| {})
        .check();
}
