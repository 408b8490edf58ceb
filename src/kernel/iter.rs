// SPDX-License-Identifier: MIT OR Apache-2.0
//! BPF iterators: a program that visits every object of a kind once.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd};
use std::thread;

use anyhow::{Context, Result};
use libbpf_rs::{IterOpts, Link, MapIterOpts, ProgramMut, libbpf_sys};

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
    let mut all = Vec::new();
    read(link, |chunk| all.extend_from_slice(chunk))?;
    Ok(all)
}

/// The name of a thread that looks through files; the kernel half knows it by its first eight letters
/// (`bpf/common/owner/whose.bpf.h: is_visitor`).
const VISITOR: &str = "tcptools-scan";

/// Looks through the files of all processes, in a thread that is known by its name. While it holds a file, the file's
/// process may close it; then this thread is the last to have it, and closes the socket.
pub fn visit<T: Send>(look: impl Fn() -> T + Send + Sync) -> T {
    thread::scope(|scope| {
        let visitor = thread::Builder::new().name(VISITOR.into());
        let visited = visitor.spawn_scoped(scope, &look);
        let visited = visited.ok().and_then(|visitor| visitor.join().ok());
        visited.unwrap_or_else(&look)
    })
}

/// Whether a thread, by its name, is one that looks through files.
pub fn is_visitor(comm: &[u8]) -> bool {
    comm.starts_with(VISITOR.as_bytes())
}

/// As [`run`], of an iterator over the files of all processes.
///
/// # Errors
/// See [`run`].
pub fn scan(link: &impl AsFd) -> Result<Vec<u8>> {
    let link = link.as_fd();
    visit(|| run(&link))
}

/// Runs an attached iterator once and hands on its records of `size` bytes, one by one: they are not collected.
///
/// # Errors
/// See [`run`].
pub fn each(link: &impl AsFd, size: usize, mut act: impl FnMut(&[u8])) -> Result<()> {
    let mut records = Records::new(size);
    read(link, |chunk| records.add(chunk, &mut act))
}

/// Finds records in bytes that come in pieces.
pub struct Records {
    size: usize,
    /// The beginning of a record whose rest the next piece has.
    begun: Vec<u8>,
}

impl Records {
    /// Of records of `size` bytes.
    pub fn new(size: usize) -> Self {
        Self {
            size: size.max(1),
            begun: Vec::new(),
        }
    }

    /// Takes the next piece, and hands on the records that end in it.
    pub fn add(&mut self, piece: &[u8], act: impl FnMut(&[u8])) {
        self.begun.extend_from_slice(piece);
        let records = self.begun.chunks_exact(self.size);
        let rest = records.remainder().len();
        records.for_each(act);
        self.begun.drain(..self.begun.len().saturating_sub(rest));
    }
}

/// Runs an attached iterator once and hands on what it writes, as it comes.
///
/// # Errors
/// See [`run`].
pub fn read(link: &impl AsFd, mut act: impl FnMut(&[u8])) -> Result<()> {
    let mut iter = start(link).context("cannot start the iterator")?;
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match iter.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => act(chunk.get(..n).unwrap_or_default()),
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
