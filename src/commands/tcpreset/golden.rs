// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpreset.txt.

use super::*;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    // Reasons and symbols are those of the running kernel.
    to.records(
        "reset",
        || columns(true),
        |body| {
            body.reason = !0;
            body.stack = Default::default();
        },
    )
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let each = |args: &[&str]| -> (usize, Box<dyn Handler>) {
        let args = Args::parse_from([&["tcpreset"], args].concat());
        let resets = Resets {
            shape: Shape::new(&args, style.clone()).expect("columns"),
            deferred: Deferred::default(),
            hints: Hints::default(),
        };
        (size_of::<reset>(), Box::new(resets))
    };
    vec![each(&["--stack"]), each(&["--summary"])]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcpreset")).check();
}
