// SPDX-License-Identifier: MIT OR Apache-2.0
//! The network namespaces of this host, for what a process only sees in its own.
//!
//! Nothing holds a namespace after the visit: a descriptor, a thread or a socket in it would keep it alive after its
//! last process and its name are gone (docs/principles.md 7).

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod names;
pub(crate) mod ways;
pub(crate) mod worker;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};

/// A network namespace, by what can be seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Namespace {
    /// As in `readlink /proc/PID/ns/net`, which takes the privilege to trace that process.
    pub inode: u64,
    /// Of `/proc/PID/net/dev`, which anybody may look at: each namespace has a file of its own there.
    pub files: u64,
}

/// The results from each, and how many could not be entered.
pub(crate) struct Visited<T> {
    pub all: Vec<T>,
    pub unvisited: u64,
}

/// The one that this thread is in.
pub(crate) fn here() -> Option<Namespace> {
    let inode = fs::metadata("/proc/thread-self/ns/net").ok()?.ino();
    let files = files_of("/proc/thread-self").ok()?;
    Some(Namespace { inode, files })
}

fn files_of(process: &str) -> io::Result<u64> {
    Ok(fs::metadata(format!("{process}/net/dev"))?.ino())
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Runs a function in every network namespace that has a process or is mounted (`ip netns add`), if this process may
/// enter it; in its own first.
pub(crate) fn in_each<T: Send>(act: impl Fn() -> T + Sync) -> Visited<T> {
    let mut all = vec![act()];
    // In a new thread: the current one stays in its namespace.
    let rest = thread::scope(|scope| {
        let inside = || {
            let mut rest = Vec::new();
            let unvisited = visit_others(|| rest.push(act()));
            (rest, unvisited)
        };
        let thread = thread::Builder::new().spawn_scoped(scope, inside);
        thread.ok().and_then(|thread| thread.join().ok())
    });
    let (rest, unvisited) = rest.unwrap_or_else(|| (Vec::new(), count_others()));
    all.extend(rest);
    Visited { all, unvisited }
}

/// Runs a function in every namespace except this thread's own, then returns to it. Returns how many could not be
/// entered; one that has both processes and a name may count twice.
pub(crate) fn visit_others(mut act: impl FnMut()) -> u64 {
    let (Ok(own), Some(at)) = (open(Path::new("/proc/thread-self/ns/net")), here()) else {
        return count_others();
    };
    let mut seen = Seen {
        inodes: HashSet::from([at.inode]),
        files: HashSet::from([at.files]),
    };
    let mut refused = HashSet::new();
    for pid in processes() {
        let process = format!("/proc/{pid}");
        let Some(files) = files_of(&process).ok().filter(|f| !seen.files.contains(f)) else {
            continue;
        };
        match seen.enter(&Path::new(&process).join("ns/net")) {
            Ok(true) => act(),
            Ok(false) => {}
            // It has ended meanwhile.
            Err(Errno::ENOENT | Errno::ESRCH) => {}
            Err(_) => {
                refused.insert(files);
            }
        }
    }
    refused.retain(|files| !seen.files.contains(files));
    let mut unvisited = refused.len();
    for (inode, path) in mounted() {
        if seen.inodes.contains(&inode) {
            continue;
        }
        match seen.enter(&path) {
            Ok(true) => act(),
            Ok(false) | Err(Errno::ENOENT) => {}
            Err(_) => {
                seen.inodes.insert(inode);
                unvisited = unvisited.saturating_add(1);
            }
        }
    }
    let _ = setns(&own, CloneFlags::CLONE_NEWNET);
    unvisited as u64
}

/// Those that were entered.
struct Seen {
    inodes: HashSet<u64>,
    files: HashSet<u64>,
}

impl Seen {
    /// Moves this thread there. Returns whether it is the first time.
    fn enter(&mut self, path: &Path) -> nix::Result<bool> {
        let namespace = open(path)?;
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        // Looked up again: the PID may belong to another process by now.
        let at = here().ok_or(Errno::ENOENT)?;
        self.inodes.insert(at.inode);
        Ok(self.files.insert(at.files))
    }
}

/// Opens it without blocking, whatever it is by now.
fn open(path: &Path) -> nix::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    let errno = |e: io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
    options.open(path).map_err(errno)
}

/// Inode number and mount point of each network namespace that is mounted where this process sees it.
fn mounted() -> Vec<(u64, PathBuf)> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    table.lines().filter_map(mount).collect()
}

/// A line of mountinfo (Documentation/filesystems/proc.rst), if it is a network namespace's.
fn mount(line: &str) -> Option<(u64, PathBuf)> {
    let mut fields = line.split(' ').skip(3);
    let inode = fields.next()?.strip_prefix("net:[")?.strip_suffix(']')?;
    Some((inode.parse().ok()?, unescaped(fields.next()?)))
}

/// `\040` and so on, as the kernel writes blanks and backslashes in tables of mounts.
fn unescaped(path: &str) -> PathBuf {
    let mut parts = path.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..3).and_then(|d| u8::from_str_radix(d, 8).ok());
        match digits {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(part.bytes().skip(3));
            }
            None => {
                bytes.push(b'\\');
                bytes.extend(part.bytes());
            }
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

/// The namespaces that have a process or are mounted.
#[derive(Default)]
pub(crate) struct Inhabited {
    files: HashSet<u64>,
    inodes: HashSet<u64>,
}

impl Inhabited {
    /// Takes no privilege. `None` if /proc does not show every process: then they are unknown.
    pub(crate) fn look() -> Option<Self> {
        // The first process is the one that a restricted /proc (hidepid) hides.
        files_of("/proc/1").ok()?;
        let mut files = HashSet::new();
        for pid in processes() {
            match files_of(&format!("/proc/{pid}")) {
                Ok(inode) => drop(files.insert(inode)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                Err(_) => return None,
            }
        }
        let inodes = mounted().into_iter().map(|(inode, _)| inode).collect();
        Some(Self { files, inodes })
    }

    /// Whether it has a process or a name; a socket or a descriptor alone does not count.
    pub(crate) fn has(&self, namespace: &Namespace) -> bool {
        self.files.contains(&namespace.files) || self.inodes.contains(&namespace.inode)
    }
}

/// How many others there are that have a process.
pub(crate) fn count_others() -> u64 {
    let own = files_of("/proc/thread-self").ok();
    let all: HashSet<_> = processes()
        .filter_map(|pid| files_of(&format!("/proc/{pid}")).ok())
        .filter(|files| Some(*files) != own)
        .collect();
    all.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespace_is_always_visited() {
        let visited = in_each(here);
        assert!(visited.all.first().is_some_and(|first| *first == here()));
        let inodes: HashSet<_> = visited.all.iter().flatten().map(|n| n.inode).collect();
        assert_eq!(inodes.len(), visited.all.len(), "each once");
    }

    #[test]
    fn namespace_of_process_needs_no_privileges() {
        let own = here().unwrap();
        let process = format!("/proc/{}", std::process::id());
        assert_eq!(files_of(&process).unwrap(), own.files);
        assert!(Inhabited::look().is_none_or(|all| all.has(&own)));
        let other = Namespace { inode: 0, files: 0 };
        assert!(Inhabited::look().is_none_or(|all| !all.has(&other)));
    }

    #[test]
    fn mounted_namespace_is_found() {
        let line = "61 25 0:4 net:[4026532700] /run/netns/a\\040b rw shared:9 - nsfs nsfs rw";
        assert_eq!(
            mount(line),
            Some((4_026_532_700, PathBuf::from("/run/netns/a b")))
        );
        for other in [
            "",
            "1 2",
            "61 25 0:4 mnt:[4026532700] /x rw - nsfs nsfs rw",
            "net:[",
        ] {
            assert_eq!(mount(other), None, "{other}");
        }
        assert_eq!(unescaped("\\9\\134x\\é"), PathBuf::from("\\9\\x\\é"));
    }
}
