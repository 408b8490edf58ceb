// SPDX-License-Identifier: MIT OR Apache-2.0
//! The network namespaces of this host, for what a process only sees of the one that it is in.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::thread;

use anyhow::{Result, anyhow};

use nix::sched::{CloneFlags, setns};

use crate::limits;

/// Does something in every network namespace that a process is in or that has a name, as far as this process may enter
/// it; in its own first.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn in_each<T: Send>(act: impl Fn() -> T + Sync) -> Result<Vec<T>> {
    let mut all = vec![act()];
    let others = others();
    let inside = || {
        let entered = others.iter().filter(|namespace| enter(namespace));
        entered.map(|_| act()).collect::<Vec<_>>()
    };
    // A thread of its own: this one stays where it is.
    let rest = thread::scope(|scope| {
        let spawned = thread::Builder::new().spawn_scoped(scope, inside);
        spawned.map(|thread| thread.join().unwrap_or_default())
    });
    all.extend(rest.map_err(|_| anyhow!("{}", limits::thread()))?);
    Ok(all)
}

/// Every network namespace but this process's own.
pub(crate) fn others() -> Vec<File> {
    let mut seen = HashSet::new();
    seen.extend(fs::metadata("/proc/self/ns/net").map(|m| m.ino()));
    let numeric = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let list = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten();
    let processes = list("/proc").filter(|entry| numeric(&entry.file_name()));
    let paths = processes.map(|entry| entry.path().join("ns/net"));
    let named = list("/run/netns").map(|entry| entry.path());
    let others = paths.chain(named).filter_map(|path| {
        let ino = fs::metadata(&path).ok()?.ino();
        seen.insert(ino).then(|| File::open(path).ok())?
    });
    others.collect()
}

/// Moves this thread there. Whether it may.
pub(crate) fn enter(namespace: &File) -> bool {
    setns(namespace, CloneFlags::CLONE_NEWNET).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_always_visited() {
        assert!(!in_each(|| ()).unwrap().is_empty());
    }
}
