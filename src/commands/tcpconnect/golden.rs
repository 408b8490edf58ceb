// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpconnect.txt.

use super::columns::{columns, count_columns};
use super::*;
use crate::aggregate::by::By;
use crate::aggregate::counts::Per;
use crate::output::golden::Golden;

#[test]
fn golden() {
    let args = Args::parse_from(["tcpconnect", "--dns"]);
    let by = Keys::of(By::Comm).with(By::Uid);
    Golden::new("tcpconnect")
        .records(
            "connect",
            || columns(&args),
            |body| *body = Named::new(body.connect),
        )
        .sums("count", || count_columns(&Per::Flow(true)))
        .sums("count", || count_columns(&Per::Keys(by.clone())))
        .check();
}
