// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpretrans.txt.

use super::*;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    let args = Args::parse_from(["tcpretrans", "--stack", "--failed", "--why"]);
    to
        // Symbols and reasons are those of the running kernel.
        .records(
            "retransmit",
            || columns(&args),
            |body| {
                body.stack = Default::default();
                body.drop_reason = !0;
            },
        )
        .sums(
            "count",
            || per_flow::count_columns(&Per::Flow(true), true),
            |_| {},
        )
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let each = |args: &[&str]| -> (usize, Box<dyn Handler>) {
        let args = Args::parse_from([&["tcpretrans"], args].concat());
        let handler: Box<dyn Handler> = match Shape::new(&args, style.clone(), true) {
            Ok(Shape::Each(each)) => each,
            Ok(Shape::Counts(counts)) => Box::new(counts),
            _ => unreachable!("rows, or counts"),
        };
        (size_of::<retrans>(), handler)
    };
    vec![
        each(&["--stack", "--why", "--sequence"]),
        each(&["--count"]),
    ]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcpretrans")).check();
}
