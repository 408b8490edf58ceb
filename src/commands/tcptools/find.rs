// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the other commands are, and whether they may be run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::kernel::{mounts, trust};
use anyhow::{Context, Result, bail};

/// The directory of the commands: `../libexec/tcptools` where that exists, as it does when installed, and otherwise
/// this command's own, as in a build tree.
///
/// Never `PATH`, and never `/usr/bin` beside an installation: other packages have commands of the same names.
///
/// # Errors
/// A sentence: this command does not know where it is itself.
pub fn directory() -> Result<PathBuf> {
    if let Some(problem) = mounts::proc() {
        bail!("cannot find its commands: {problem}");
    }
    let own = std::env::current_exe().context("cannot find its commands")?;
    let own = own.parent().context("cannot find its commands")?;
    let installed = own.parent().map(|prefix| prefix.join("libexec/tcptools"));
    Ok(installed
        .filter(|path| path.is_dir())
        .unwrap_or_else(|| own.to_owned()))
}

/// The path of a command of the suite.
///
/// # Errors
/// A sentence: it is not installed, or others than root and this user can have put it there.
pub fn tool(name: &str) -> Result<PathBuf> {
    let directory = directory()?;
    let path = directory.join(name);
    let executable = |m: fs::Metadata| m.is_file() && m.permissions().mode() & 0o111 != 0;
    if !fs::metadata(&path).is_ok_and(executable) {
        bail!(
            "{name} is not installed: it is not in {}",
            directory.display()
        );
    }
    let path = path
        .canonicalize()
        .with_context(|| format!("cannot run {name}"))?;
    if let Err(why) = trust::may_run(&path) {
        bail!("refusing to run {name}: {why}");
    }
    Ok(path)
}
