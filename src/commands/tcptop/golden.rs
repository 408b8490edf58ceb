// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcptop.txt.

use super::*;
use crate::commands::tcptools::feed::{Matching, Recording};
use crate::output::golden;

/// Each kind of rows.
pub(crate) fn rows<K: golden::Kinds>(to: K) -> K {
    to.records("connection", || columns(false), |_| {})
        .records("stalled", || columns(true), |_| {})
}

/// A recording's rows, of connections and of groups of them.
pub(crate) fn replay(open: impl Fn() -> Option<Recording>, matching: &Matching) {
    for args in [
        &["--json"][..],
        &["--csv", "--stalled=0.1"],
        &["--by", "comm,raddr"],
    ] {
        let args = Args::parse_from([&["tcptop"], args].concat());
        let (style, choice) = (args.common.output.style(), args.choice());
        let kinds = match &args.by {
            Some(by) => Kinds::groups(style.clone(), by.clone()).expect("columns"),
            None => {
                let columns = columns(args.stalled.is_some());
                let rows = Rows::new("tcptop", style.clone(), columns);
                Kinds::connections(rows.expect("columns"), &choice)
            }
        };
        if let Some(recording) = open() {
            let _ = recorded::replay(recording, matching, &style, (choice, kinds), |_| Ok(()));
        }
    }
}

#[test]
fn golden() {
    rows(golden::Golden::new("tcptop")).check();
}
