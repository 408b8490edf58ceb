// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cgroups of a process while it lives (cgroups(7)): what a socket cannot tell where containers are in v1
//! hierarchies, or where the kernel does not say the socket's cgroup.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fs;

use super::names::names;

/// A process's cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// In the v2 hierarchy.
    pub unified: Option<Vec<u8>>,
    /// In the v1 hierarchy that tells most: that of a container, or systemd's own.
    pub v1: Option<Vec<u8>>,
}

impl Cgroups {
    /// Of a process of this PID namespace; `None` when it is gone.
    pub fn of(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/cgroup")).ok()?;
        Some(Self::parse(&text))
    }

    /// `HIERARCHY:CONTROLLERS:PATH`, a line each.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut found = Self::default();
        for line in text.split(|&byte| byte == b'\n') {
            let mut fields = line.splitn(3, |&byte| byte == b':');
            let (Some(hierarchy), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
            if hierarchy == b"0" && controllers.is_empty() {
                found.unified = Some(path.to_vec());
                continue;
            }
            let tells = names(path).container.is_some();
            let known = found
                .v1
                .as_deref()
                .is_some_and(|p| names(p).container.is_some());
            if !known && (tells || controllers == b"name=systemd" && path != b"/") {
                found.v1 = Some(path.to_vec());
            }
        }
        found
    }
}

/// Whether this kernel has v1 hierarchies, which a container's runtime may use.
pub fn has_v1() -> bool {
    let text = fs::read("/proc/self/cgroup").unwrap_or_default();
    let lines = text.split(|&byte| byte == b'\n');
    let mut v1 = lines.filter(|line| !line.is_empty() && !line.starts_with(b"0::"));
    v1.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Option<String>, Option<String>) {
        let found = Cgroups::parse(text.as_bytes());
        let text = |path: Option<Vec<u8>>| path.map(|path| String::from_utf8(path).unwrap());
        (text(found.unified), text(found.v1))
    }

    #[test]
    fn container_of_v1_is_found() {
        let id = "0".repeat(64);
        let text = format!(
            "12:memory:/docker/{id}\n2:cpu,cpuacct:/docker/{id}\n1:name=systemd:/system.slice/x.service\n0::/system.slice/containerd.service\n"
        );
        let (unified, v1) = parsed(&text);
        assert_eq!(unified.as_deref(), Some("/system.slice/containerd.service"));
        assert_eq!(v1, Some(format!("/docker/{id}")));
        let (unified, v1) = parsed("1:name=systemd:/system.slice/x.service\n3:pids:/a:b\n");
        assert_eq!(
            (unified, v1),
            (None, Some("/system.slice/x.service".into()))
        );
        let gone = parsed("1:name=systemd:/\n0::/a:b/c (deleted)\n");
        assert_eq!(gone, (Some("/a:b/c".into()), None));
        assert_eq!(parsed("\n::\nx\n"), (None, None));
    }

    #[test]
    fn own_cgroups_are_known() {
        assert_ne!(Cgroups::of(std::process::id()), None);
        assert_eq!(Cgroups::of(u32::MAX), None);
    }
}
