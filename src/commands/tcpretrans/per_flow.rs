// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--count`: segments sent again per flow, or whatever `--by` names.

use std::time::{Duration, Instant};

use crate::abi::known::KNOWN_SOCKET;
use crate::abi::types::{Record, decode_stack};
use crate::aggregate::counts::{Counted, Counts, Per};
use crate::aggregate::table::Table;
use crate::error::Usage;
use crate::output::{Column, Format, Style, column::columns};
use crate::session::{Figures, Handler, Printer};

use super::MIN_BYTES;
use super::bpf::types::retrans;

/// Counts.
pub(super) struct PerFlow {
    counts: Counts,
}

/// What is counted: its name in JSON, and a heading. A tracepoint's record does not tell how many segments it is of.
const SEGMENTS: (&str, &str) = ("segments", "RETRANS");
const EVENTS: (&str, &str) = ("events", "EVENTS");

pub(super) fn count_columns(per: &Per, segments: bool) -> Vec<Column<Counted>> {
    let (_, heading) = if segments { SEGMENTS } else { EVENTS };
    let mut columns = per.columns(heading);
    columns.extend(columns! { |row, count: Counted|
        "count_unit" JSON => if row.head.event == COUNT_EVENTS { EVENTS.0 } else { SEGMENTS.0 };
    });
    columns
}

impl PerFlow {
    /// With a table of its own.
    ///
    /// # Errors
    /// When a column that was named does not exist.
    pub(super) fn new(
        style: Style,
        per: Per,
        segments: bool,
        interval: Option<Duration>,
    ) -> Result<Self, Usage> {
        // In a table the counts of a whole run have no time.
        let style = Style {
            time: style.time && style.format != Format::Table,
            ..style
        };
        let columns = count_columns(&per, segments);
        let counts = Counts::new("tcpretrans", style, per, columns, interval)?;
        Ok(Self { counts })
    }

    /// Reads the kernel half's table instead.
    pub(super) fn read_from(&mut self, table: Table) {
        self.counts.read_from(table);
    }
}

impl Handler for PerFlow {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.counts.header(out);
    }

    fn shows(&self) -> crate::session::Shows {
        self.counts.interval().into()
    }

    /// Only in fallback mode: the kernel half sends none.
    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(body) = decode_stack::<retrans>(record, MIN_BYTES) {
            let (kind, n) = match body.head.known & KNOWN_SOCKET {
                0 => (COUNT_EVENTS.into(), 1),
                _ => (0, body.segs.into()),
            };
            self.counts.add(body.head(), kind, n);
        }
    }

    fn uncounted(&self) -> u64 {
        self.counts.uncounted()
    }

    fn tick(&mut self, out: &mut Printer) {
        self.counts.tick(out);
    }

    fn due(&self) -> Option<Instant> {
        self.counts.due()
    }

    fn finish(&mut self, out: &mut Printer) {
        self.counts.print(out);
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.counts.summary(out, fields);
    }
}

/// The kind of a count of which only events are known, not segments; others are 0.
const COUNT_EVENTS: u16 = 1;
