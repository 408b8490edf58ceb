// SPDX-License-Identifier: MIT OR Apache-2.0
//! Network namespaces and cgroups, by the ways users name them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Fill;
use super::lists::{limit, split};
use crate::types;

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
        to.id[..self.ids.len()].copy_from_slice(&self.ids);
    }
}

fn inode(path: &Path) -> Result<u64, String> {
    fs::metadata(path)
        .map(|meta| meta.ino())
        .map_err(|e| format!("{}: {}", path.display(), reason(&e)))
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

/// Network namespaces, by inode number.
#[derive(Clone, Debug, PartialEq)]
pub struct Namespaces(Ids);

impl FromStr for Namespaces {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ids::parse(text, namespace).map(Self)
    }
}

fn namespace(text: &str) -> Result<u64, String> {
    if text == "self" {
        return inode(Path::new("/proc/self/ns/net"));
    }
    if let Some(pid) = text.strip_prefix("pid:") {
        return inode(Path::new(&format!("/proc/{}/ns/net", number(pid)?)));
    }
    let digits = text.trim_start_matches("id:");
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        let id = digits.parse::<u64>().unwrap_or(u64::MAX);
        if id > u32::MAX.into() {
            return Err(format!("'{text}': must be at most {}", u32::MAX));
        }
        if id <= LAST_PID {
            return Err(format!(
                "{id} is not the inode number of a namespace; for that of a process write pid:{id}"
            ));
        }
        return Ok(id);
    }
    match text.contains('/') {
        true => inode(Path::new(text)),
        false => inode(&Path::new("/run/netns").join(text)),
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
        return inode(&cgroup_of("self")?);
    }
    if let Some(pid) = text.strip_prefix("pid:") {
        return inode(&cgroup_of(&number(pid)?.to_string())?);
    }
    match text.starts_with('/') && Path::new(text).exists() {
        true => inode(Path::new(text)),
        false => inode(&hierarchy()?.join(text.trim_start_matches('/'))),
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
        .ok_or_else(|| "no cgroup v2 hierarchy is mounted; give id:NUMBER".into())
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
    fn a_namespace_has_many_names() {
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let pid = format!("pid:{}", std::process::id());
        for name in ["self", "/proc/self/ns/net", &pid, &own.to_string()] {
            assert_eq!(namespace(name), Ok(own), "{name}");
        }
    }

    #[test]
    fn a_bare_process_id_is_not_taken_for_a_namespace() {
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

    #[test]
    fn cgroups_have_ids() {
        assert_eq!(cgroup("id:7"), Ok(7));
        assert!(cgroup("pid:x").unwrap_err().contains("'x'"));
    }
}
