// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that are shown without an event: visited once who has them open is known anew.

use anyhow::{Context, Result};
use libbpf_rs::{Link, MapCore, MapHandle, Object};

use crate::iter::{self, Visit};
use crate::namespaces;

/// Visits all sockets that a command follows, as often as it likes, after a look at the files of every process.
pub struct Holders {
    /// `None` with `--no-seed`: owners are those that acted.
    files: Option<Link>,
    sockets: Visit,
}

impl Holders {
    pub(crate) fn new(files: Option<Link>, sockets: Visit) -> Self {
        Self { files, sockets }
    }

    /// Visits each socket once, and returns what was written of them.
    ///
    /// # Errors
    /// When reading fails, or the caller may no longer use BPF.
    pub fn run(&self) -> Result<Vec<u8>> {
        if let Some(files) = &self.files {
            iter::run(files).context("owners are not known")?;
        }
        self.sockets.run()
    }

    /// The most network namespaces that any visit had to leave out.
    pub fn unvisited(&self) -> u64 {
        self.sockets.unvisited()
    }
}

/// The subflows of MPTCP sockets: files have the sockets above them.
pub(crate) struct Subflows {
    found: Option<MapHandle>,
    subflows: Option<Link>,
}

impl Subflows {
    /// Nothing, if sockets that exist already are not looked at.
    pub(crate) fn of(object: &mut Object) -> Self {
        let found = object.maps().find(|map| map.name() == "mptcp_holders");
        let found = found.and_then(|map| MapHandle::try_from(&map).ok());
        let mut programs = object.progs_mut();
        let program = programs.find(|p| p.name() == "seed_subflows" && p.autoload());
        Self {
            found,
            subflows: program.and_then(|program| iter::attach(&program, None).ok()),
        }
    }

    /// Visits them in every network namespace, if a look at all files has found any MPTCP socket.
    ///
    /// # Errors
    /// See [`iter::run`].
    pub(crate) fn seed(&self) -> Result<()> {
        let any = |map: &MapHandle| map.keys().next().is_some();
        let (Some(link), true) = (&self.subflows, self.found.as_ref().is_some_and(any)) else {
            return Ok(());
        };
        let runs = namespaces::in_each(|| iter::run(link));
        runs.all.into_iter().try_for_each(|run| run.map(drop))
    }
}
