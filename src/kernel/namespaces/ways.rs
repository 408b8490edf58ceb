// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways into the network namespace with a certain inode number, for questions about sockets there.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use super::{mounted, open, processes};

/// How long a namespace is not looked for again that was not found: a look goes through all processes.
const AGAIN: Duration = Duration::from_secs(1);
/// Processes and mounts that are looked at.
const MAX_WAYS: usize = 64 * 1024;

/// Paths that led into namespaces. None is held open, so that none is kept alive.
#[derive(Default)]
pub(crate) struct Ways {
    paths: HashMap<u64, PathBuf>,
    looked: Option<Instant>,
}

impl Ways {
    /// Runs a function in the namespace with this inode number, if a process is in it (`pid`: perhaps this one) or it is
    /// mounted, and returns to this thread's own. `None` if it cannot be entered.
    pub(crate) fn inside<T>(
        &mut self,
        inode: u64,
        pid: Option<u32>,
        act: impl FnOnce() -> T,
    ) -> Option<T> {
        let of_process = pid.and_then(|pid| enter(inode, &path_of(pid)));
        let there = of_process.or_else(|| self.find(inode))?;
        let own = open(Path::new("/proc/thread-self/ns/net")).ok()?;
        setns(&there, CloneFlags::CLONE_NEWNET).ok()?;
        let result = act();
        setns(&own, CloneFlags::CLONE_NEWNET).ok()?;
        Some(result)
    }

    fn find(&mut self, inode: u64) -> Option<File> {
        let known = self.paths.get(&inode);
        if let Some(there) = known.and_then(|path| enter(inode, path)) {
            return Some(there);
        }
        if self.looked.is_some_and(|looked| looked.elapsed() < AGAIN) {
            // It was not there a moment ago, or has come since: the next look will tell.
            return None;
        }
        self.look();
        enter(inode, self.paths.get(&inode)?)
    }

    fn look(&mut self) {
        self.paths.clear();
        let of_processes = processes().map(path_of);
        let inode = |path: PathBuf| Some((fs::metadata(&path).ok()?.ino(), path));
        let found = mounted().into_iter().chain(of_processes.filter_map(inode));
        for (inode, path) in found.take(MAX_WAYS) {
            self.paths.entry(inode).or_insert(path);
        }
        self.looked = Some(Instant::now());
    }
}

fn path_of(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// Opens it, if it is this namespace: a PID may be another process's by now.
fn enter(inode: u64, path: &Path) -> Option<File> {
    let is_it = |file: &File| file.metadata().is_ok_and(|meta| meta.ino() == inode);
    open(path).ok().filter(is_it)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::namespaces::here;

    #[test]
    fn own_namespace_is_found_by_any_process() {
        let mut ways = Ways::default();
        let own = here().unwrap().inode;
        // Entering takes CAP_SYS_ADMIN, finding does not.
        assert!(ways.find(own).is_some());
        assert!(ways.find(0).is_none());
        assert!(enter(own, &path_of(std::process::id())).is_some());
    }
}
