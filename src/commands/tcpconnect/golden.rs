// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpconnect.txt.

use super::columns::{columns, count_columns};
use super::*;
use crate::aggregate::by::By;
use crate::aggregate::counts::Per;
use crate::output::Style;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    let args = Args::parse_from(["tcpconnect", "--dns"]);
    let by = Keys::of(By::Comm).with(By::Uid);
    to.records(
        "connect",
        || columns(&args),
        |body| *body = Named::new(body.connect),
    )
    .sums("count", || count_columns(&Per::Flow(true)), |_| {})
    .sums("count", || count_columns(&Per::Keys(by.clone())), |_| {})
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let each = |args: &[&str]| -> (usize, Box<dyn Handler>) {
        let args = Args::parse_from([&["tcpconnect"], args].concat());
        let shape = Shape::new(style.clone(), &args).expect("columns");
        (size_of::<connect>(), Box::new(Connects::new(&args, shape)))
    };
    vec![
        each(&[]),
        each(&["--count"]),
        each(&["--hist=raddr", "--failed"]),
    ]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcpconnect")).check();
}
