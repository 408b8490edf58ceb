// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcplat.txt.

use super::*;
use crate::output::golden::{Golden, heads};

#[test]
fn golden() {
    let [_, client, server] = heads();
    let [s, c] = summary::examples();
    let totals = [(server, s), (client, c)];
    let keys = Keys::of(By::Comm);
    Golden::new("tcplat")
        .records("turn", columns, |_| {})
        .lines("total", || summary::columns(&keys), &totals)
        .check();
}
