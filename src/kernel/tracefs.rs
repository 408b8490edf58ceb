// SPDX-License-Identifier: MIT OR Apache-2.0
//! tracefs, mounted privately for this process if it is not mounted.

use std::path::{Path, PathBuf};

use anyhow::Result;
use anyhow::bail;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::kernel::{diagnose, features, limits, problem::Problem, tracepoints};

/// The directory of events in tracefs, which is mounted privately for this process if it is not mounted.
///
/// # Errors
/// A sentence: it may not be read, or not be mounted.
pub fn tracefs() -> Result<PathBuf> {
    let error = match tracepoints::tracefs_events() {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    let place = Path::new("/sys/kernel/tracing");
    let mounted = || -> nix::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        // Later mounts elsewhere still propagate here, and this mount propagates nowhere.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
        mount(
            Some("tracefs"),
            place,
            Some("tracefs"),
            MsFlags::empty(),
            none,
        )
    };
    let found = mounted().is_ok().then(tracepoints::tracefs_events);
    if let Some(Ok(path)) = found {
        return Ok(path);
    }
    let no_privileges = diagnose::capabilities();
    let (kind, error) = (error.kind(), anyhow::Error::from(error));
    if let Some(problem) = no_privileges.or_else(|| limits::exhausted(&error)) {
        bail!("{problem}");
    }
    let (why, remedy) = tracepoints::tracefs_remedy(kind);
    let why = format!("{}, and {why}", features::this_kernel());
    bail!("{}", Problem::new(why, remedy))
}
