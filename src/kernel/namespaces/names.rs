// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of network namespaces: those of `ip netns` (which CNI uses too), and Docker's by the name of the container.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where namespaces are mounted by name.
const FOLDERS: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// How long a name is remembered that is gone: the kernel gives the number to a new namespace.
const REMEMBER: Duration = Duration::from_secs(5);
/// More names are left out.
const MAX_NAMES: usize = 64 * 1024;

/// The names, as of some moment ago.
#[derive(Default)]
pub struct Names {
    names: HashMap<u32, (Vec<u8>, Instant)>,
    /// Containers by the paths that their namespaces are mounted at.
    containers: HashMap<PathBuf, String>,
}

impl Names {
    /// `containers`: where the namespaces of containers are mounted, and the containers' names.
    pub fn new(containers: impl Iterator<Item = (PathBuf, String)>) -> Self {
        // /var/run is /run.
        let resolved = |path: PathBuf| fs::canonicalize(&path).unwrap_or(path);
        Self {
            containers: containers
                .map(|(path, name)| (resolved(path), name))
                .collect(),
            ..Self::default()
        }
    }

    /// The name of a namespace, by its inode number.
    pub fn name(&self, inode: u32) -> Option<&[u8]> {
        self.names.get(&inode).map(|(name, _)| name.as_slice())
    }

    /// Reads the names again, which needs no privilege.
    pub fn refresh(&mut self) {
        let now = Instant::now();
        let Ok(kind) = fs::metadata("/proc/thread-self/ns/net").map(|file| file.dev()) else {
            return;
        };
        self.names
            .retain(|_, (_, seen)| now.duration_since(*seen) < REMEMBER);
        for folder in FOLDERS.iter().rev() {
            for entry in fs::read_dir(Path::new(folder))
                .into_iter()
                .flatten()
                .flatten()
            {
                let path = entry.path();
                // What is left of a name whose namespace was not mounted again is a plain file.
                let Ok(file) = fs::metadata(&path) else {
                    continue;
                };
                let room = self.names.len() < MAX_NAMES;
                if let (true, true, Ok(inode)) = (room, file.dev() == kind, file.ino().try_into()) {
                    let name = match self.containers.get(&path) {
                        Some(name) => name.clone().into_bytes(),
                        None => std::os::unix::ffi::OsStringExt::into_vec(entry.file_name()),
                    };
                    self.names.insert(inode, (name, now));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameless_namespace_has_no_name() {
        let mut names = Names::new([("/no/such/path".into(), "web".into())].into_iter());
        names.refresh();
        assert_eq!(names.name(1), None);
    }
}
