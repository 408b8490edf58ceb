// SPDX-License-Identifier: MIT OR Apache-2.0
//! BPF iterators: a program that visits every object of a kind once.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::cell::Cell;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};

use anyhow::{Context, Result};
use libbpf_rs::{IterOpts, Link, MapIterOpts, ProgramMut, libbpf_sys};

use crate::namespace_worker::{NamespaceWorker, Visited};
use crate::namespaces;

/// Attaches an iterator: over `map`'s elements, or over what its section names.
///
/// # Errors
/// When the kernel lacks this kind of iterator.
pub fn attach(program: &ProgramMut<'_>, map: Option<BorrowedFd<'_>>) -> Result<Link> {
    let opts = map.map_or(IterOpts::None, |fd| {
        IterOpts::Map(MapIterOpts {
            fd,
            _non_exhaustive: (),
        })
    });
    Ok(program.attach_iter_with_opts(opts)?)
}

/// Runs an attached iterator once and returns what it wrote.
///
/// # Errors
/// When reading fails, or the caller may no longer use BPF.
pub fn run(link: &impl AsFd) -> Result<Vec<u8>> {
    let mut iter = start(link).context("cannot start the iterator")?;
    let mut all = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match iter.read(&mut chunk) {
            Ok(0) => return Ok(all),
            Ok(n) => all.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            // The kernel pauses a long iteration this way.
            Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(e) => return Err(e).context("cannot read the iterator"),
        }
    }
}

fn start(link: &impl AsFd) -> std::io::Result<File> {
    // SAFETY: a system call on a descriptor that is open.
    let fd = unsafe { libbpf_sys::bpf_iter_create(link.as_fd().as_raw_fd()) };
    match fd {
        ..0 => Err(std::io::Error::from_raw_os_error(fd.wrapping_neg())),
        // SAFETY: it is new, so nobody else has it.
        _ => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}

/// A way to visit all sockets that a command follows, as often as it likes.
pub enum Visit {
    /// One iterator sees them all.
    AtOnce(Link),
    /// It sees those of the network namespace that it is run in: here, and in all others that there are by then.
    ByNamespace(EachNamespace),
}

impl Visit {
    /// For an iterator that only sees its own network namespace. To be called before there are other threads than that
    /// for signals.
    pub fn by_namespace(tool: &'static str, link: Link) -> Self {
        Self::ByNamespace(EachNamespace {
            tool,
            worker: NamespaceWorker::start(&link).ok(),
            link,
            unvisited: Cell::new(0),
        })
    }

    /// Visits each socket once, and returns what was written of them.
    ///
    /// # Errors
    /// See [`run`].
    pub fn run(&self) -> Result<Vec<u8>> {
        match self {
            Self::AtOnce(link) => run(link),
            Self::ByNamespace(each) => each.run(),
        }
    }

    /// The most network namespaces that any visit had to leave out.
    pub fn unvisited(&self) -> u64 {
        match self {
            Self::AtOnce(_) => 0,
            Self::ByNamespace(each) => each.unvisited.get(),
        }
    }
}

/// See [`Visit::ByNamespace`].
pub struct EachNamespace {
    tool: &'static str,
    link: Link,
    /// `None` where there can be no other process: then only the own namespace is visited.
    worker: Option<NamespaceWorker>,
    unvisited: Cell<u64>,
}

impl EachNamespace {
    fn run(&self) -> Result<Vec<u8>> {
        let Visited { bytes, unvisited } = match &self.worker {
            Some(worker) => worker.visit()?,
            None => Visited {
                bytes: run(&self.link)?,
                unvisited: namespaces::count_others(),
            },
        };
        if unvisited > self.unvisited.replace(self.unvisited.get().max(unvisited)) {
            namespaces::say_unvisited(self.tool, "what is open", unvisited);
        }
        Ok(bytes)
    }
}
