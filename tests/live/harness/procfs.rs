// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directories of /proc whose entries go away while they are read: threads, descriptors.

use std::{fs, io, path::Path};

use anyhow::Result;
use nix::libc::ESRCH;

/// What `read` makes of each entry of `dir` that is still there when its turn comes. A command's threads of the start
/// end soon, and it closes descriptors.
pub fn each<T>(dir: &str, read: impl Fn(&Path) -> io::Result<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir)? {
        match read(&entry?.path()) {
            Ok(value) => all.push(value),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(all)
}

/// The entry had gone before it was opened, or goes while it is read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}
