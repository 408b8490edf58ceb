// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--hist`: histograms of the round-trip time.

use std::time::Instant;

use crate::abi::types::{Record, decode};
use crate::aggregate::{hist_keys, histograms::Hists, keys::Keys, table::Table};
use crate::error::Usage;
use crate::output::Style;
use crate::session::{Figures, Handler, Printer, Shows};

use super::Args;
use super::bpf::types::probe;

pub(super) struct Histograms {
    hists: Hists,
}

impl Histograms {
    /// Of records, which have only the smoothed round-trip time.
    ///
    /// # Errors
    /// When columns were named, or keys twice.
    pub(super) fn new(style: Style, hist: &Keys, args: &Args) -> Result<Self, Usage> {
        let (unit, keys) = (("usecs", "us"), hist_keys::per(hist, args.by.as_ref())?);
        let mut hists = Hists::new("tcpprobe", style, unit, keys, args.refresh)?;
        hists.sample("srtt");
        Ok(Self { hists })
    }

    /// See [`Hists::bits`].
    pub(super) fn bits(&self) -> u32 {
        self.hists.bits()
    }

    /// Of the kernel half's table: it has the samples of which the smoothed round-trip time is made.
    pub(super) fn read_from(&mut self, table: Table) {
        self.hists.sample("rtt");
        self.hists.read_from(table);
    }

    /// count_rtt() of tcpprobe.bpf.c, of the smoothed one.
    fn add(&mut self, body: &probe) {
        if body.srtt_us != 0 {
            self.hists.add(body.head(), body.srtt_us.into());
        }
    }
}

impl Handler for Histograms {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.hists.header(out);
    }

    /// Only in fallback mode: the kernel half sends none.
    fn record(&mut self, record: &[u8], _out: &mut Printer) {
        if let Some(body) = decode::<probe>(record) {
            self.add(body);
        }
    }

    fn uncounted(&self) -> u64 {
        self.hists.uncounted()
    }

    fn tick(&mut self, out: &mut Printer) {
        self.hists.tick(out);
    }

    fn due(&self) -> Option<Instant> {
        self.hists.due()
    }

    fn finish(&mut self, out: &mut Printer) {
        self.hists.print(out);
    }

    fn shows(&self) -> Shows {
        self.hists.interval().into()
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.hists.summary(out, fields);
    }
}
