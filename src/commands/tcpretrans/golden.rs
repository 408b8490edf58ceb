// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpretrans.txt.

use super::*;
use crate::output::golden::Golden;

#[test]
fn golden() {
    let args = Args::parse_from(["tcpretrans", "--stack", "--failed", "--why"]);
    Golden::new("tcpretrans")
        // Symbols and reasons are those of the running kernel.
        .records(
            "retransmit",
            || columns(&args),
            |body| {
                body.stack = Default::default();
                body.drop_reason = !0;
            },
        )
        .sums("count", || per_flow::count_columns(&Per::Flow(true), true))
        .check();
}
