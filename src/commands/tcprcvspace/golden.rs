// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcprcvspace.txt.

use super::*;
use crate::output::Style;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    to.records("adjust", || columns(Of::Calls), |_| {})
        .records("limited", || columns(Of::Sockets), |_| {})
        .records("grow", || columns(Of::Steps), |_| {})
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let each = |by: Option<&str>| -> (usize, Box<dyn Handler>) {
        let args = Args::parse_from(["tcprcvspace", "--summary"].into_iter().chain(by));
        let grouped = args
            .by
            .map(|by| Grouped::new(by, style.clone()).expect("columns"));
        let rows = Rows::new("tcprcvspace", style.clone(), columns(Of::Calls)).expect("columns");
        let open = None;
        (
            size_of::<adjust>(),
            Box::new(RcvSpace {
                rows,
                open,
                grouped,
            }),
        )
    };
    vec![each(None), each(Some("--by=comm,raddr"))]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcprcvspace")).check();
}
