// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--hist`: histograms of the round-trip time.

use std::time::Instant;

use crate::abi::types::{Record, decode};
use crate::aggregate::{histograms::Hists, table::Table};
use crate::error::Usage;
use crate::output::Style;
use crate::session::{Figures, Handler, Printer, Shows};
use clap::ValueEnum;

use super::Args;
use super::bpf::types::{hist_by, probe};

/// What there is one histogram for each of.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum By {
    /// One for all
    All = hist_by::HIST_ALL.0 as isize,
    /// Local address
    Laddr = hist_by::HIST_LADDR.0 as isize,
    /// Remote address
    Raddr = hist_by::HIST_RADDR.0 as isize,
    /// Local port
    Lport = hist_by::HIST_LPORT.0 as isize,
    /// Remote port
    Rport = hist_by::HIST_RPORT.0 as isize,
}

impl By {
    fn key(self) -> &'static str {
        match self {
            Self::All | Self::Raddr => "raddr",
            Self::Laddr => "laddr",
            Self::Lport => "lport",
            Self::Rport => "rport",
        }
    }
}

pub(super) struct Histograms {
    hists: Hists,
    by: By,
}

impl Histograms {
    /// Of records, which have only the smoothed round-trip time.
    ///
    /// # Errors
    /// When columns were named.
    pub(super) fn new(style: Style, by: By, args: &Args) -> Result<Self, Usage> {
        let unit = ("usecs", "us");
        let hists = Hists::new("tcpprobe", style, unit, args.refresh)?;
        let mut hists = hists.by(by.key());
        hists.sample("srtt");
        Ok(Self { hists, by })
    }

    /// Of the kernel half's table: it has the samples of which the smoothed round-trip time is made.
    pub(super) fn read_from(&mut self, table: Table) {
        self.hists.sample("rtt");
        self.hists.read_from(table);
    }

    /// count_rtt() of tcpprobe.bpf.c, of the smoothed one.
    fn add(&mut self, body: &probe) {
        let mut flow = body.head().flow;
        let value = u64::from(body.srtt_us);
        match self.by {
            _ if value == 0 => {}
            By::All => self.hists.add(None, 0, value),
            By::Raddr => self.hists.add(Some(&flow), 0, value),
            By::Laddr => {
                flow.raddr = flow.laddr;
                self.hists.add(Some(&flow), 0, value);
            }
            By::Lport => self.hists.add(None, flow.lport.into(), value),
            By::Rport => self.hists.add(None, flow.rport.into(), value),
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
