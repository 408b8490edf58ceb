// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--hist`: histograms of turns, and of how long data waited unread.

use std::time::{Duration, Instant};

use crate::aggregate::{histograms::Hists, keys::Keys, table::Table};
use crate::by_number;
use crate::error::Usage;
use crate::output::Style;
use crate::session::{Figures, Handler, Printer, Shows};

use super::bpf::types::measure;

/// What a histogram is of.
const SAMPLES: [&str; 3] = by_number! { measure:
    MEASURE_APP => "app",
    MEASURE_WAIT => "wait",
    MEASURE_UNREAD => "unread",
};

pub(super) struct Histograms(Hists);

impl Histograms {
    /// # Errors
    /// When columns were named.
    pub(super) fn new(
        style: Style,
        keys: Option<Keys>,
        refresh: Option<Duration>,
    ) -> Result<Self, Usage> {
        let hists = Hists::new("tcplat", style, ("usecs", "us"), keys, refresh)?;
        Ok(Self(hists.kinds("sample", &SAMPLES)))
    }

    /// For `group_by` of the kernel half.
    pub(super) fn bits(&self) -> u32 {
        self.0.bits()
    }

    pub(super) fn read_from(&mut self, table: Table) {
        self.0.read_from(table);
    }
}

impl Handler for Histograms {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.0.header(out);
    }

    fn record(&mut self, _record: &[u8], _out: &mut Printer) {}

    fn tick(&mut self, out: &mut Printer) {
        self.0.tick(out);
    }

    fn due(&self) -> Option<Instant> {
        self.0.due()
    }

    fn finish(&mut self, out: &mut Printer) {
        self.0.print(out);
    }

    fn shows(&self) -> Shows {
        self.0.interval().into()
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.0.summary(out, fields);
    }
}
