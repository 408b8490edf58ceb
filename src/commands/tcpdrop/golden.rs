// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpdrop.txt.

use super::*;
use crate::output::golden::Golden;

#[test]
fn golden() {
    // Reasons and symbols are those of the running kernel.
    Golden::new("tcpdrop")
        .records(
            "drop",
            || columns(true),
            |body| {
                body.reason = !0;
                body.ifname[1..].fill(0);
                body.stack = Default::default();
            },
        )
        .check();
}
