// SPDX-License-Identifier: MIT OR Apache-2.0
//! BPF iterators: a program that visits every object of a kind once.

use std::io::{ErrorKind, Read};
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use libbpf_rs::{Iter, IterOpts, Link, MapIterOpts, ProgramMut};

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
pub fn run(link: &Link) -> Result<Vec<u8>> {
    let mut iter = Iter::new(link).context("cannot start the iterator")?;
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
