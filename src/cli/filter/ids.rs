// SPDX-License-Identifier: MIT OR Apache-2.0
//! Network namespaces and cgroups, as users name them.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::libc;
use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FsType, NSFS_MAGIC, fstatfs};

use super::Fill;
use super::lists::{limit, split};
use crate::abi::types;
use crate::kernel::pids;

/// No process id is larger (include/linux/threads.h: PID_MAX_LIMIT), and no namespace's inode number is as small.
const LAST_PID: u64 = 1 << 22;

#[derive(Clone, Debug, PartialEq)]
struct Ids {
    negate: bool,
    ids: Vec<u64>,
}

impl Ids {
    fn parse(text: &str, id: impl Fn(&str) -> Result<u64, String>) -> Result<Self, String> {
        let (negate, items) = split(text)?;
        let ids = items.into_iter().map(id).collect::<Result<_, _>>()?;
        Ok(Self {
            negate,
            ids: limit(ids, types::MAX_IDS)?,
        })
    }

    fn fill(&self, to: &mut types::id_list) {
        to.n = self.ids.len() as u32;
        to.negate = self.negate.into();
        for (to, id) in to.id.iter_mut().zip(&self.ids) {
            *to = *id;
        }
    }
}

/// The file at a path, without opening it: that could block (a FIFO) or have side effects (a device).
struct Place {
    file: File,
    fs: FsType,
    meta: fs::Metadata,
}

impl Place {
    fn of(path: &Path) -> Result<Self, String> {
        let look = || {
            let mut options = OpenOptions::new();
            let file = options.read(true).custom_flags(libc::O_PATH).open(path)?;
            let fs = fstatfs(&file)?.filesystem_type();
            let meta = file.metadata()?;
            Ok(Self { file, fs, meta })
        };
        look().map_err(|e: std::io::Error| format!("{}: {}", path.display(), reason(&e)))
    }
}

/// The inode number of a network namespace.
fn namespace_at(path: &Path) -> Result<u64, String> {
    let place = Place::of(path)?;
    // A file of nsfs is a namespace, so it is safe to open.
    if place.fs == NSFS_MAGIC && is_network(&place.file).unwrap_or(true) {
        return Ok(place.meta.ino());
    }
    Err(format!("{} is not a network namespace", path.display()))
}

/// Whether a namespace is a network namespace; `None` if it cannot be queried.
fn is_network(namespace: &File) -> Option<bool> {
    /// include/uapi/linux/nsfs.h: since 4.11.
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    let open = File::open(format!("/proc/self/fd/{}", namespace.as_raw_fd())).ok()?;
    // SAFETY: this request takes no argument, and the descriptor is open.
    let kind = unsafe { libc::ioctl(open.as_raw_fd(), NS_GET_NSTYPE as _) };
    (kind >= 0).then_some(kind == libc::CLONE_NEWNET)
}

/// The id of a cgroup (v2): the inode number of its directory.
fn cgroup_at(path: &Path) -> Result<u64, String> {
    let place = Place::of(path)?;
    let path = path.display();
    match place.fs {
        CGROUP2_SUPER_MAGIC if place.meta.is_dir() => Ok(place.meta.ino()),
        CGROUP_SUPER_MAGIC => Err(format!(
            "{path} is a v1 cgroup, but sockets belong to v2 cgroups"
        )),
        _ => Err(format!("{path} is not a cgroup (v2)")),
    }
}

/// The error without its number: "No such file or directory".
fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error")
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn number(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is not a number"))
}

/// A PID, for a lookup in /proc.
fn process(text: &str) -> Result<u64, String> {
    let pid = number(text)?;
    match pids::proc_is_ours() {
        true => Ok(pid),
        false => Err(format!(
            "pid:{pid}: /proc is not mounted, or belongs to another PID namespace: mount -t proc proc /proc"
        )),
    }
}

/// Network namespaces, by inode number.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespaces(Ids);

impl Namespaces {
    /// Whether the list lets this namespace pass.
    pub fn passes(&self, inode: u64) -> bool {
        self.0.ids.contains(&inode) != self.0.negate
    }
}

impl FromStr for Namespaces {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ids::parse(text, namespace).map(Self)
    }
}

fn namespace(text: &str) -> Result<u64, String> {
    if text == "self" {
        return namespace_at(Path::new("/proc/self/ns/net"));
    }
    if let Some(pid) = text.strip_prefix("pid:") {
        return namespace_at(Path::new(&format!("/proc/{}/ns/net", process(pid)?)));
    }
    let digits = text.trim_start_matches("id:");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let id = digits.parse::<u64>().unwrap_or(u64::MAX);
        if id > u32::MAX.into() {
            return Err(format!("'{text}': must be at most {}", u32::MAX));
        }
        if id <= LAST_PID {
            return Err(format!(
                "{id} is not the inode number of a namespace; to name a process, write pid:{id}"
            ));
        }
        return Ok(id);
    }
    match text.contains('/') {
        true => namespace_at(Path::new(text)),
        false => namespace_at(&Path::new("/run/netns").join(text)),
    }
}

impl Fill for Namespaces {
    type To = types::id_list;

    fn fill(&self, to: &mut types::id_list) {
        self.0.fill(to);
    }
}

/// Cgroups of the v2 hierarchy, by id (the inode number of their directory).
#[derive(Clone, Debug, PartialEq)]
pub struct Cgroups(Ids);

impl FromStr for Cgroups {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ids::parse(text, cgroup).map(Self)
    }
}

fn cgroup(text: &str) -> Result<u64, String> {
    if let Some(id) = text.strip_prefix("id:") {
        return number(id);
    }
    if text == "self" {
        return cgroup_at(&cgroup_of("self")?);
    }
    if let Some(pid) = text.strip_prefix("pid:") {
        return cgroup_at(&cgroup_of(&process(pid)?.to_string())?);
    }
    // A path of the file system, or of the hierarchy as /proc/PID/cgroup has it.
    let path = Path::new(text);
    let direct = match path.is_absolute() {
        true => Some(cgroup_at(path)),
        false => None,
    };
    if let Some(Ok(id)) = direct {
        return Ok(id);
    }
    let within = hierarchy().and_then(|root| cgroup_at(&root.join(text.trim_start_matches('/'))));
    match direct {
        Some(wrong) if within.is_err() && path.exists() => wrong,
        _ => within,
    }
}

/// Where the v2 hierarchy is mounted.
///
/// # Errors
/// When it is not.
pub fn hierarchy() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .map(|line| line.split(' '))
        .find_map(|mut fields| {
            let path = fields.nth(1)?;
            (fields.next() == Some("cgroup2")).then(|| PathBuf::from(path))
        })
        .ok_or_else(|| "no cgroup v2 hierarchy is mounted; use id:NUMBER".into())
}

fn cgroup_of(pid: &str) -> Result<PathBuf, String> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).map_err(|e| format!("{path}: {}", reason(&e)))?;
    let own = text
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or_else(|| format!("{path}: not in a v2 cgroup"))?;
    Ok(hierarchy()?.join(own))
}

impl Fill for Cgroups {
    type To = types::id_list;

    fn fill(&self, to: &mut types::id_list) {
        self.0.fill(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_has_many_spellings() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let pid = format!("pid:{}", std::process::id());
        for name in ["self", "/proc/self/ns/net", &pid, &own.to_string()] {
            assert_eq!(namespace(name), Ok(own), "{name}");
        }
    }

    #[test]
    fn bare_pid_is_not_a_namespace() {
        assert!(namespace("1234").unwrap_err().contains("pid:1234"));
        for number in ["4294967296", "id:99999999999999999999"] {
            assert!(namespace(number).unwrap_err().contains("at most"));
        }
        assert!(
            namespace("no-such-name")
                .unwrap_err()
                .contains("/run/netns/no-such-name")
        );
    }

    /// Whatever lies there: it is not waited for, not opened, and not taken for a namespace.
    #[test]
    fn only_network_namespaces_are_accepted() {
        let fifo = std::env::temp_dir().join(format!("tcptools-fifo-{}", std::process::id()));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let fifo = fifo.to_str().unwrap();
        let wrong = [
            fifo,
            "../../etc/passwd",
            "/etc/passwd",
            "/dev/null",
            "/proc/self/ns/mnt",
            "/proc/self/ns/",
            "/sys",
        ];
        for path in wrong {
            let said = namespace(path).unwrap_err();
            let missing = said.ends_with("No such file or directory");
            assert!(
                missing || said == format!("{path} is not a network namespace"),
                "{said}"
            );
        }
        assert!(namespace("..").unwrap_err().starts_with("/run/netns/..")); // none, or no namespace
        fs::remove_file(fifo).unwrap();
    }

    #[test]
    fn cgroups_have_ids() {
        assert_eq!(cgroup("id:7"), Ok(7));
        assert!(cgroup("pid:x").unwrap_err().contains("'x'"));
    }

    #[test]
    fn only_cgroup_directories_are_accepted() {
        for path in ["/etc", "/etc/passwd", "/dev/null", "/proc/self/ns/net"] {
            assert_eq!(cgroup(path), Err(format!("{path} is not a cgroup (v2)")));
        }
        let Ok(root) = hierarchy() else {
            return;
        };
        let inode = fs::metadata(&root).unwrap().ino();
        for root in ["", "/", root.to_str().unwrap()] {
            assert_eq!(cgroup(root), Ok(inode), "{root}");
        }
        for outside in ["../..", "/..", "cgroup.procs"] {
            let said = cgroup(outside).unwrap_err();
            assert!(said.ends_with(" is not a cgroup (v2)"), "{said}");
        }
    }
}
