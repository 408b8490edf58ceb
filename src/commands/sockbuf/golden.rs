// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rows of fixed records: tests/golden/rows/sockbuf.txt.

use super::*;
use crate::output::Style;
use crate::output::golden::Kinds;
use crate::session::{Handler, handler::Handlers};

use super::summary::{counter_columns, example, sum_columns, usual};

/// Each kind of rows.
pub(crate) fn rows<K: Kinds>(to: K) -> K {
    to.records("rcvqueue_full", columns, |_| {})
        .lines("count", || sum_columns(&usual()), &example(false))
        .lines("counter", counter_columns, &example(true))
}

/// What takes records, of so many bytes each: rows of them, or sums.
pub(crate) fn handlers(style: &Style) -> Handlers {
    let each = |args: &[&str]| -> (usize, Box<dyn Handler>) {
        let args = Args::parse_from([&["sockbuf"], args].concat());
        let shown = match args.summary {
            Some(every) => Shown::Sums(Box::new(
                Summary::new(&args, style.clone(), every).expect("sums"),
            )),
            None => Shown::Each(Box::new(
                Rows::new("sockbuf", style.clone(), columns()).expect("columns"),
            )),
        };
        (size_of::<overflow>(), Box::new(Overflows::new(shown)))
    };
    vec![each(&[])]
}

#[test]
fn golden() {
    rows(crate::output::golden::Golden::new("sockbuf")).check();
}
