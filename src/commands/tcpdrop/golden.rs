// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpdrop.txt.

use super::*;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    // Reasons and symbols are those of the running kernel.
    to.records(
        "drop",
        || columns(true),
        |body| {
            body.reason = !0;
            body.ifname[1..].fill(0);
            body.stack = Default::default();
        },
    )
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let each = |args: &[&str]| -> (usize, Box<dyn Handler>) {
        let args = Args::parse_from([&["tcpdrop"], args].concat());
        let shape = Shape::new(&args, style.clone()).expect("columns");
        (size_of::<dropped>(), Box::new(shape))
    };
    vec![
        each(&["--stack"]),
        each(&["--summary", "--by", "reason,where,lport"]),
    ]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcpdrop")).check();
}
