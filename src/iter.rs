// SPDX-License-Identifier: MIT OR Apache-2.0
//! BPF iterators: a program that visits every object of a kind once.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use libbpf_rs::{IterOpts, Link, MapIterOpts, ProgramMut, libbpf_sys};

use crate::{namespaces, privileges};

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
            Ok(n) => all.extend_from_slice(&chunk[..n]),
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
        ..0 => Err(std::io::Error::from_raw_os_error(-fd)),
        // SAFETY: it is new, so nobody else has it.
        _ => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}

/// A way to visit all sockets that a command follows, as often as it likes.
pub enum Visit {
    /// One iterator sees them all.
    AtOnce(Link),
    /// It sees those of the network namespace that it is run in: here, and in others.
    ByNamespace(Vec<Visitor>, Arc<OwnedFd>),
}

impl Visit {
    /// For an iterator that only sees its own network namespace. Those that there are now, and that this process may
    /// enter, have each a thread in it, since later there is no privilege to enter any.
    ///
    /// # Errors
    /// When there are no more descriptors.
    pub fn by_namespace(link: &Link) -> Result<Self> {
        let link = Arc::new(link.as_fd().try_clone_to_owned()?);
        let others = namespaces::others();
        let visitors = others.into_iter().map(|n| Visitor::new(n, link.clone()));
        Ok(Self::ByNamespace(visitors.collect(), link))
    }

    /// Visits each socket once, and returns what was written of them.
    ///
    /// # Errors
    /// See [`run`].
    pub fn run(&self) -> Result<Vec<u8>> {
        let (visitors, link) = match self {
            Self::AtOnce(link) => return run(link),
            Self::ByNamespace(visitors, link) => (visitors, link),
        };
        let asked = visitors.iter().filter(|v| v.ask.send(()).is_ok());
        let asked: Vec<_> = asked.collect();
        let mut all = run(link)?;
        // One whose namespace could not be entered has ended.
        for answer in asked.iter().filter_map(|v| v.answer.recv().ok()) {
            all.extend(answer?);
        }
        Ok(all)
    }
}

/// A thread in another network namespace, which runs the iterator there when it is asked to.
pub struct Visitor {
    ask: Sender<()>,
    answer: Receiver<Result<Vec<u8>>>,
}

impl Visitor {
    fn new(namespace: File, link: Arc<OwnedFd>) -> Self {
        let (ask, asked) = channel();
        let (say, answer) = channel();
        // Ends when `ask` is dropped. If there can be no thread the channels are closed, as if it had not got in.
        let body = move || {
            if !namespaces::enter(&namespace) {
                return;
            }
            drop(namespace);
            privileges::drop_unless(|| start(&link).is_err());
            while asked.recv().is_ok() && say.send(run(&link)).is_ok() {}
        };
        let _ = thread::Builder::new().stack_size(256 * 1024).spawn(body);
        Self { ask, answer }
    }
}
