// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--hist`: histograms of the time in each congestion state.

use std::time::{Duration, Instant};

use crate::abi::names::CA_STATES;
use crate::aggregate::{histograms::Hists, keys::Keys, table::Table};
use crate::error::Usage;
use crate::output::Style;
use crate::session::{Figures, Handler, Printer, Shows};

pub(super) struct Histograms(Hists);

impl Histograms {
    /// # Errors
    /// When columns were named.
    pub(super) fn new(
        style: Style,
        keys: Option<Keys>,
        interval: Option<Duration>,
    ) -> Result<Self, Usage> {
        let hists = Hists::new("tcpcong", style, ("usecs", "us"), keys, interval)?;
        Ok(Self(hists.kinds("ca_state", &CA_STATES)))
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

    fn uncounted(&self) -> u64 {
        self.0.uncounted()
    }

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
