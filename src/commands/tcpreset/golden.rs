// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpreset.txt.

use super::*;
use crate::output::golden::Golden;

#[test]
fn golden() {
    // Reasons and symbols are those of the running kernel.
    Golden::new("tcpreset")
        .records(
            "reset",
            || columns(true),
            |body| {
                body.reason = !0;
                body.stack = Default::default();
            },
        )
        .check();
}
