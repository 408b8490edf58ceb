// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose a socket is: the path of its cgroup, and the unit, container and pod that the path names.
//!
//! The kernel half reads the path from the socket itself when it first shows one of that cgroup
//! (`src/bpf/common/kernel/cgroup_path.bpf.h`), so it is known after the cgroup is gone, in whatever hierarchy and
//! namespace this process is. What the socket cannot tell is asked of `/proc/PID/cgroup` while its owner lives.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod names;
pub mod process;
pub mod runtimes;

use std::collections::HashMap;
use std::path::Path;

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};

use crate::abi::types::{cgroup_path, trim_nul};
use crate::kernel::pids;
use names::{Names, names, pod_uid};
use process::Cgroups;
use runtimes::Container;

/// Whose a socket is. Bytes are as the kernel has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whose {
    /// The path of the cgroup, from the root of its hierarchy.
    pub path: Vec<u8>,
    /// The systemd unit.
    pub unit: Option<Vec<u8>>,
    /// The container's id, or its name where the runtime has no ids.
    pub container: Option<Vec<u8>>,
    /// What runs the container.
    pub runtime: Option<&'static str>,
    /// What its user called it, if that was known when the command started.
    pub container_name: Option<String>,
    /// The UID of its pod.
    pub pod: Option<String>,
}

/// Finds out whose a cgroup is.
#[derive(Default)]
pub struct Resolver {
    paths: Option<MapHandle>,
    containers: HashMap<Vec<u8>, Container>,
    has_v1: bool,
}

impl Resolver {
    /// With the paths that these programs note, and the containers of this host. Takes root, to know containers' names.
    pub fn new(object: &Object) -> Self {
        let map = object.maps().find(|map| map.name() == "cgroup_paths");
        let containers = runtimes::containers(Path::new("/")).into_iter();
        Self {
            paths: map.and_then(|map| MapHandle::try_from(&map).ok()),
            containers: containers.map(|c| (c.id.clone().into_bytes(), c)).collect(),
            has_v1: process::has_v1(),
        }
    }

    /// The containers that were there at the start.
    pub fn containers(&self) -> impl Iterator<Item = &Container> {
        self.containers.values()
    }

    /// Whether the answer may be another one for another process of the same cgroup, or later.
    pub fn asks_process(&self, cgroup: u64) -> bool {
        cgroup == 0 || self.has_v1
    }

    /// Whose a socket of this cgroup is (0: not known), and of this process.
    pub fn whose(&self, cgroup: u64, pid: Option<u32>) -> Option<Whose> {
        let path = self.path(cgroup);
        let tells = path
            .as_deref()
            .is_some_and(|p| names(p).container.is_some());
        let process = match !tells && self.asks_process(cgroup) && pids::proc_is_ours() {
            true => pid.and_then(Cgroups::of).unwrap_or_default(),
            false => Cgroups::default(),
        };
        let v1 = process.v1.as_deref().map(names).unwrap_or_default();
        let is_root = |path: &Vec<u8>| path == b"/";
        let path = path
            .or(process.unified)
            .filter(|path| !(is_root(path) && process.v1.is_some()))
            .or(process.v1.clone())?;
        let of_path = names(&path);
        // A daemon may keep containers below its own unit in one hierarchy, and elsewhere in the other.
        let found = match of_path.container.is_none() && v1.container.is_some() {
            true => v1,
            false => of_path,
        };
        Some(self.named(path.clone(), &found))
    }

    fn named(&self, path: Vec<u8>, found: &Names<'_>) -> Whose {
        let known = found.container.and_then(|id| self.containers.get(id));
        let own = |text: Option<&[u8]>| text.map(<[u8]>::to_vec);
        Whose {
            unit: own(found.unit),
            container: own(found.container),
            runtime: found.runtime.or(known.map(|c| c.runtime)),
            container_name: known.map(|c| c.name.clone()),
            pod: found.pod.map(pod_uid),
            path,
        }
    }

    /// What the kernel half noted of a cgroup.
    fn path(&self, cgroup: u64) -> Option<Vec<u8>> {
        let key = cgroup.to_ne_bytes();
        let bytes = self.paths.as_ref()?.lookup(&key, MapFlags::ANY).ok()??;
        let mut noted = cgroup_path::default();
        plain::copy_from_bytes(&mut noted, &bytes).ok()?;
        Some(joined(&noted))
    }
}

/// From the root down, as `/proc/PID/cgroup` has it.
fn joined(noted: &cgroup_path) -> Vec<u8> {
    let names = noted
        .names
        .get(..usize::from(noted.len))
        .unwrap_or_default();
    let mut parts: Vec<_> = names.split(|&byte| byte == 0).map(trim_nul).collect();
    parts.pop(); // what follows the last NUL
    let mut path = match noted.cut {
        0 => Vec::new(),
        _ => b"...".to_vec(),
    };
    for part in parts.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(part);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(names: &[u8], cut: u8) -> String {
        let mut path = cgroup_path {
            len: names.len() as u16,
            cut,
            ..cgroup_path::default()
        };
        path.names[..names.len()].copy_from_slice(names);
        String::from_utf8(joined(&path)).unwrap()
    }

    #[test]
    fn names_are_joined_from_the_root() {
        assert_eq!(noted(b"", 0), "/");
        assert_eq!(
            noted(b"nginx.service\0system.slice\0", 0),
            "/system.slice/nginx.service"
        );
        assert_eq!(noted(b"c\0b\0", 1), ".../b/c");
    }

    #[test]
    fn process_tells_what_socket_cannot() {
        let resolver = Resolver::default();
        let own = resolver.whose(0, Some(std::process::id()));
        assert!(own.is_some_and(|whose| whose.path.starts_with(b"/")));
        assert_eq!(resolver.whose(0, None), None);
    }
}
