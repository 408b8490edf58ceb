// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the other commands are, and whether they may be run.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

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

/// A process that will be a command of the suite, under the command's own name, which its file need not have
/// ([`crate::commands::single`]).
///
/// # Errors
/// As [`tool`].
pub fn command(name: &str) -> Result<Command> {
    let mut command = Command::new(tool(name)?);
    command.arg0(name);
    Ok(command)
}

/// [`command`] for a child, which reads nothing. A root directory that has nothing but `/proc` and `/sys` has no
/// `/dev/null`, and then the end of a pipe is as good.
///
/// # Errors
/// As [`tool`].
pub fn child(name: &str) -> Result<Command> {
    let nothing = match File::open("/dev/null") {
        Ok(file) => Stdio::from(file),
        Err(_) => Stdio::from(std::io::pipe().context("no pipe")?.0),
    };
    let mut command = command(name)?;
    command.stdin(nothing);
    Ok(command)
}

/// The path of a command of the suite. In the single-file form it is the file that runs, under a name by which nobody
/// can put another one in its place.
///
/// # Errors
/// A sentence: it is not installed, or others than root and this user can have put it there.
pub fn tool(name: &str) -> Result<PathBuf> {
    if cfg!(feature = "single") {
        directory()?;
        return Ok(PathBuf::from("/proc/self/exe"));
    }
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
