// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is made of the opens: rows, counts or histograms.

use crate::aggregate::by::By;
use crate::aggregate::counts::{Counts, Per};
use crate::aggregate::hist_keys;
use crate::aggregate::histograms::Hists;
use crate::aggregate::keys::Keys;
use crate::aggregate::table::Table;
use crate::error::Usage;
use crate::output::{Rows, Style};
use anyhow::Result;

use super::Args;
use super::bpf::TcpconnectSkel;
use super::columns::{Named, columns, count_columns};

/// What is made of the opens.
pub(super) enum Shape {
    Rows(Rows<Named>),
    Counts(Counts),
    Hists(Hists),
}

impl Shape {
    /// For `group_by` of the kernel half.
    pub(super) fn bits(&self) -> u32 {
        match self {
            Self::Rows(_) => 0,
            Self::Counts(counts) => counts.bits(),
            Self::Hists(hists) => hists.bits(),
        }
    }

    /// With tables of its own.
    ///
    /// # Errors
    /// When a column that was named does not exist.
    pub(super) fn new(mut style: Style, args: &Args) -> Result<Self, Usage> {
        if args.by.is_some() && args.count.is_none() && args.hist.is_none() {
            return Err(Usage("--by requires --count or --hist".into()));
        }
        Ok(match (args.count, &args.hist) {
            (Some(interval), _) => {
                style.sort.clone_from(&args.sort);
                let per = per(args);
                let columns = count_columns(&per);
                Self::Counts(Counts::new("tcpconnect", style, per, columns, interval)?)
            }
            (_, Some(hist)) => {
                let (unit, keys) = (("usecs", "us"), hist_keys::per(hist, args.by.as_ref())?);
                Self::Hists(Hists::new("tcpconnect", style, unit, keys, args.refresh)?)
            }
            _ => Self::Rows(Rows::new("tcpconnect", style, columns(args))?),
        })
    }

    /// Reads the tables of the kernel half instead.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn read_from(&mut self, skel: &TcpconnectSkel<'_>) -> Result<()> {
        match self {
            Self::Rows(_) => {}
            Self::Counts(counts) => counts.read_from(Table::new(&skel.maps.counts)?),
            Self::Hists(hists) => hists.read_from(Table::new(&skel.maps.hists)?),
        }
        Ok(())
    }
}

/// What `--count` counts by.
fn per(args: &Args) -> Per {
    let with_port = |keys: Keys| match args.print_lport {
        true => keys.with(By::Lport),
        false => keys,
    };
    let by = args.by.clone().map(with_port);
    Per::new(by.as_ref(), args.print_lport)
}
