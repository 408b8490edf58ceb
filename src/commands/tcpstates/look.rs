// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking at all sockets: see active.bpf.h.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::aggregate::table::Table;
use crate::kernel::holders::{Holders, SocketIterator};
use crate::kernel::iter;
use crate::kernel::namespaces::worker::Found;
use crate::output::message;

use super::bpf::TcpstatesSkel;
use super::bpf::types::active;
use super::ports;

crate::record!(active, super::bpf::types::head);

/// What owners were found so long ago is not looked up again.
const FRESH: Duration = Duration::from_millis(200);

/// Visits every socket of every network namespace, again and again.
pub(super) struct Look {
    /// What each namespace has, and its settings.
    here: SocketIterator,
    /// `None`: all is found there.
    rest: Option<Rest>,
    looks: u64,
    /// When the run looked for owners, at its start.
    scanned: Option<Instant>,
}

/// What the programs need.
struct Rest {
    /// The sockets that are left, and who has sockets open.
    sockets: Holders,
    /// The number of the look.
    number: Table,
}

impl From<SocketIterator> for Look {
    fn from(here: SocketIterator) -> Self {
        Self {
            here,
            rest: None,
            looks: 0,
            scanned: None,
        }
    }
}

impl Look {
    /// With privileges, as it starts a process that keeps some.
    ///
    /// # Errors
    /// When the kernel has no such iterator.
    pub(super) fn new(skel: &TcpstatesSkel<'_>, rest: Holders) -> Result<Self> {
        let link = iter::attach(&skel.progs.sockets_here, None)?;
        let link = link.as_fd().try_clone_to_owned()?;
        let kept = [link.as_raw_fd()];
        let look = move |found: &mut Found<'_>| {
            ports::settings(found);
            iter::read(&link, found)
        };
        let report = |n| message::unvisited("tcpstates", "sockets", n);
        let rest = Rest {
            sockets: rest,
            number: Table::new(&skel.maps.data_look)?,
        };
        Ok(Self {
            rest: Some(rest),
            ..Self::from(SocketIterator::looking(Box::new(look), &kept, &[], report))
        })
    }

    /// The run has begun, and with it a look for owners, which is as good as one for sockets that are shown at once.
    pub(super) fn begin(&mut self) {
        self.scanned = Some(Instant::now());
    }

    /// Hands on each socket once, and the settings of each namespace before its sockets.
    ///
    /// # Errors
    /// When the iterators cannot be read.
    pub(super) fn each(&mut self, mut act: impl FnMut(&active)) -> Result<()> {
        self.looks += 1;
        if let Some(rest) = &mut self.rest {
            if self.scanned.take().is_none_or(|at| at.elapsed() > FRESH) {
                rest.sockets.scan()?;
            }
            let number = self.looks.to_ne_bytes();
            rest.number.write(&number).context("cannot begin a look")?;
        }
        let mut record = active::default();
        let mut decoded = |bytes: &[u8]| {
            if plain::copy_from_bytes(&mut record, bytes).is_ok() {
                act(&record);
            }
        };
        self.here.each(size_of::<active>(), &mut decoded)?;
        match &self.rest {
            Some(rest) => rest.sockets.each(false, size_of::<active>(), decoded),
            None => Ok(()),
        }
    }

    /// See [`Holders::unvisited`].
    pub(super) fn unvisited(&self) -> u64 {
        let rest = self.rest.as_ref();
        let rest = rest.map_or(0, |rest| rest.sockets.unvisited());
        self.here.unvisited().max(rest)
    }
}
