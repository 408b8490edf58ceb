// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that are shown without an event: visited after a new scan for the processes that have them open.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::{Context, Result};
use caps::Capability;
use libbpf_rs::{Link, MapCore, MapHandle, Object};

use crate::kernel::iter;
use crate::kernel::namespaces;
use crate::kernel::namespaces::worker::{Found, Look, NamespaceWorker};

/// A way to visit all tracked sockets, any number of times.
pub enum SocketIterator {
    /// These iterators see them all, each one some.
    AtOnce(Vec<Link>),
    /// The iterator sees only one network namespace: it is run here, and in all others that exist at each visit.
    ByNamespace(EachNamespace),
}

impl SocketIterator {
    /// For an iterator that only sees its own network namespace. Call it before any thread exists but the one for
    /// signals.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn by_namespace(link: &Link, report: impl Fn(u64) + 'static) -> Result<Self> {
        let link = link.as_fd().try_clone_to_owned()?;
        let kept = [link.as_raw_fd()];
        let look = Box::new(move |found: &mut Found<'_>| iter::read(&link, found));
        Ok(Self::looking(look, &kept, &[], report))
    }

    /// For what only sees its own network namespace, whatever it is; see [`NamespaceWorker::start`].
    pub(crate) fn looking(
        look: Box<Look>,
        kept: &[RawFd],
        rights: &[Capability],
        report: impl Fn(u64) + 'static,
    ) -> Self {
        Self::ByNamespace(EachNamespace {
            report: Box::new(report),
            worker: NamespaceWorker::start(&*look, kept, rights).ok(),
            look,
            unvisited: Cell::new(0),
        })
    }

    /// Visits each socket once, and returns what the program wrote.
    ///
    /// # Errors
    /// See [`iter::run`].
    pub fn run(&self) -> Result<Vec<u8>> {
        match self {
            Self::AtOnce(links) => {
                let runs: Result<Vec<_>> = links.iter().map(iter::run).collect();
                Ok(runs?.concat())
            }
            Self::ByNamespace(each) => {
                let mut all = Vec::new();
                each.run(&mut |piece| all.extend_from_slice(piece))?;
                Ok(all)
            }
        }
    }

    /// As [`Self::run`], one record of `size` bytes after the other.
    ///
    /// # Errors
    /// See [`iter::run`].
    pub fn each(&self, size: usize, mut act: impl FnMut(&[u8])) -> Result<()> {
        match self {
            Self::AtOnce(links) => {
                let mut links = links.iter();
                links.try_for_each(|link| iter::each(link, size, &mut act))
            }
            Self::ByNamespace(each) => {
                let mut records = iter::Records::new(size);
                each.run(&mut |piece| records.add(piece, &mut act))
            }
        }
    }

    /// The largest number of network namespaces that a visit had to omit.
    pub fn unvisited(&self) -> u64 {
        match self {
            Self::AtOnce(_) => 0,
            Self::ByNamespace(each) => each.unvisited.get(),
        }
    }
}

/// See [`SocketIterator::ByNamespace`].
pub struct EachNamespace {
    /// Called with the number of namespaces that a visit had to omit, if it has grown.
    report: Box<dyn Fn(u64)>,
    look: Box<Look>,
    /// `None` if no process could be created: then only the own namespace is visited.
    worker: Option<NamespaceWorker>,
    unvisited: Cell<u64>,
}

impl EachNamespace {
    fn run(&self, found: &mut Found<'_>) -> Result<()> {
        let unvisited = match &self.worker {
            Some(worker) => worker.visit(found)?,
            None => {
                (self.look)(found)?;
                namespaces::count_others()
            }
        };
        if unvisited > self.unvisited.replace(self.unvisited.get().max(unvisited)) {
            (self.report)(unvisited);
        }
        Ok(())
    }
}

/// Runs an iterator that only sees its own network namespace once in each. A namespace that cannot be entered is
/// left out.
///
/// # Errors
/// See [`iter::run`].
pub fn in_each_namespace(link: &Link) -> Result<()> {
    let runs = namespaces::in_each(|| iter::run(link));
    runs.all.into_iter().try_for_each(|run| run.map(drop))
}

/// Visits all tracked sockets, any number of times, each time after a scan of the files of all processes.
pub struct Holders {
    /// `None` with `--no-scan`: owners are those that acted.
    files: Option<Link>,
    sockets: SocketIterator,
}

impl Holders {
    /// `files`: the iterator over all files, if they are scanned.
    pub fn new(files: Option<Link>, sockets: SocketIterator) -> Self {
        Self { files, sockets }
    }

    /// Looks for the processes that have sockets open.
    ///
    /// # Errors
    /// See [`Self::run`].
    pub fn scan(&self) -> Result<()> {
        match &self.files {
            Some(files) => iter::scan(files)
                .map(drop)
                .context("cannot scan open files"),
            None => Ok(()),
        }
    }

    /// Visits each socket once, and returns what the program wrote.
    ///
    /// # Errors
    /// When reading fails, or the caller may no longer use BPF.
    pub fn run(&self) -> Result<Vec<u8>> {
        self.scan()?;
        self.sockets.run()
    }

    /// As [`Self::run`], and hands on the records of `size` bytes one by one: of very many none is kept. `scan`: look for
    /// the processes that have the sockets open; otherwise they are those of the last scan.
    ///
    /// # Errors
    /// See [`Self::run`].
    pub fn each(&self, scan: bool, size: usize, act: impl FnMut(&[u8])) -> Result<()> {
        if scan {
            self.scan()?;
        }
        self.sockets.each(size, act)
    }

    /// The largest number of network namespaces that a visit had to omit.
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
    pub(crate) fn from_object(object: &mut Object) -> Self {
        let found = object.maps().find(|map| map.name() == "mptcp_holders");
        let found = found.and_then(|map| MapHandle::try_from(&map).ok());
        let mut programs = object.progs_mut();
        let program = programs.find(|p| p.name() == "scan_subflows" && p.autoload());
        Self {
            found,
            subflows: program.and_then(|program| iter::attach(&program, None).ok()),
        }
    }

    /// Visits them in every network namespace, if a look at all files has found any MPTCP socket.
    ///
    /// # Errors
    /// See [`iter::run`].
    pub(crate) fn scan(&self) -> Result<()> {
        let any = |map: &MapHandle| map.keys().next().is_some();
        let (Some(link), true) = (&self.subflows, self.found.as_ref().is_some_and(any)) else {
            return Ok(());
        };
        in_each_namespace(link)
    }
}
