// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/tcpprobe.txt.

use super::*;
use crate::output::Style;
use crate::output::golden::Kinds;
use crate::session::handler::Handlers;

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    to.records("sample", columns, |_| {})
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let args = Args::parse_from(["tcpprobe", "--pid=1"]); // silent, however many rows come
    let rows = Rows::new("tcpprobe", style.clone(), columns()).expect("columns");
    let mut probes = Probe::new(rows, &args);
    probes.traces = Some(Traces::default());
    vec![(size_of::<probe>(), Box::new(probes))]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("tcpprobe")).check();
}
