// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the path of a cgroup tells: systemd's unit, a container and its runtime, a pod of Kubernetes.
//!
//! Names as runtimes and systemd give them, with systemd's driver (`docker-ID.scope`) and with that of cgroup files
//! (`/docker/ID`). The innermost container counts: in kind a container holds a node, whose containers are below it.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

/// What a path names; borrowed from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names<'p> {
    /// The innermost unit that is no container's own scope.
    pub unit: Option<&'p [u8]>,
    /// The innermost container: 64 hexadecimal digits, or the name of one of LXC or systemd-nspawn.
    pub container: Option<&'p [u8]>,
    /// What runs the container, where its cgroup's name or that of the cgroup above tells.
    pub runtime: Option<&'static str>,
    /// The UID of the innermost pod, as it is written in the path: [`pod_uid`].
    pub pod: Option<&'p [u8]>,
}

/// How the runtimes name the scope or the directory of a container, before its id.
pub const PREFIXES: [(&str, &str); 6] = [
    ("docker-", "docker"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "cri-o"),
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
];

/// See [`Names`]. Any bytes are a path.
pub fn names(path: &[u8]) -> Names<'_> {
    let mut names = Names::default();
    let mut above: &[u8] = b"";
    for part in path.split(|&byte| byte == b'/') {
        names.pod = pod(part).or(names.pod);
        if let Some((container, runtime)) = container(part, above) {
            (names.container, names.runtime) = (Some(container), runtime);
            // A unit of the host, which manages the container.
            names.unit = None;
        }
        if is_unit(part) && own_scope(part, names.container).is_none() {
            names.unit = Some(part);
        }
        above = part;
    }
    names
}

/// Whether it is a cgroup that systemd makes for a unit. A slice groups units.
fn is_unit(part: &[u8]) -> bool {
    let kinds = [".service", ".scope", ".socket", ".mount", ".swap"];
    kinds
        .iter()
        .any(|kind| part.len() > kind.len() && part.ends_with(kind.as_bytes()))
}

/// The container, if this is the scope of a container alone.
fn own_scope<'p>(part: &[u8], container: Option<&'p [u8]>) -> Option<&'p [u8]> {
    let scope = part.strip_suffix(b".scope")?;
    container.filter(|name| scope.ends_with(name) || scope.starts_with(b"machine-"))
}

fn container<'p>(part: &'p [u8], above: &[u8]) -> Option<(&'p [u8], Option<&'static str>)> {
    let scope = part.strip_suffix(b".scope");
    let name = scope.unwrap_or(part);
    for (prefix, runtime) in PREFIXES {
        let id = name.strip_prefix(prefix.as_bytes());
        if let Some(id) = id.filter(|id| is_id(id)) {
            return Some((id, Some(runtime)));
        }
    }
    if is_id(part) {
        return Some((part, (above == b"docker").then_some("docker")));
    }
    // Of containerd without systemd in a cluster that thinks it has it: SLICE:cri-containerd:ID.
    if let Some(id) = part.rsplit(|&b| b == b':').next().filter(|id| is_id(id)) {
        let cri = part.windows(15).any(|text| text == b"cri-containerd:");
        return Some((id, cri.then_some("containerd")));
    }
    if let Some(name) = part.strip_prefix(b"lxc.payload.").filter(|n| !n.is_empty()) {
        return Some((name, Some("lxc")));
    }
    if above == b"lxc" && !part.is_empty() {
        return Some((part, Some("lxc")));
    }
    let machine = scope.and_then(|scope| scope.strip_prefix(b"machine-"));
    let unit = part.strip_suffix(b".service");
    let nspawn = unit.and_then(|unit| unit.strip_prefix(b"systemd-nspawn@"));
    let name = machine.filter(|name| !is_virtual(name)).or(nspawn)?;
    (!name.is_empty()).then_some((name, Some("systemd-nspawn")))
}

/// A virtual machine of libvirt: its sockets are those of its hypervisor.
fn is_virtual(machine: &[u8]) -> bool {
    machine.starts_with(b"qemu") || machine.starts_with(b"kvm")
}

/// An id as all runtimes of OCI make them.
pub fn is_id(text: &[u8]) -> bool {
    text.len() == 64 && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `podUID` of the driver of files, or `kubepods-burstable-podUID.slice` of systemd's.
fn pod(part: &[u8]) -> Option<&[u8]> {
    let slice = part.strip_suffix(b".slice").unwrap_or(part);
    // As above: SLICE:cri-containerd:ID.
    let slice = slice.split(|&b| b == b':').next().unwrap_or(slice);
    let slice = slice.strip_suffix(b".slice").unwrap_or(slice);
    let uid = match slice.strip_prefix(b"pod") {
        Some(uid) => uid,
        None => {
            let at = slice.windows(4).rposition(|text| text == b"-pod")?;
            slice.get(at.checked_add(4)?..)?
        }
    };
    let is_digit = |b: &u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f' | b'-' | b'_');
    // Static pods have a hash, without dashes.
    (matches!(uid.len(), 32 | 36) && uid.iter().all(is_digit)).then_some(uid)
}

/// As Kubernetes writes it: systemd's names have `_` for `-`.
pub fn pod_uid(uid: &[u8]) -> String {
    let text = String::from_utf8_lossy(uid);
    text.replace('_', "-")
}

/// `\x2d` and so on, as systemd writes what is no letter in the name of a unit (systemd.unit(5)).
pub fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.strip_prefix(b"x").and_then(|hex| hex.get(..2));
        let byte = hex
            .filter(|_| first == b'\\')
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(byte.unwrap_or(first));
        rest = match byte {
            Some(_) => after.get(3..).unwrap_or_default(),
            None => after,
        };
    }
    out
}

/// The same the other way round, as systemd-escape(1) does.
pub fn escape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for (n, &byte) in name.iter().enumerate() {
        match byte {
            b'/' => out.push(b'-'),
            b'.' if n == 0 => out.extend(br"\x2e"),
            b'.' | b':' | b'_' => out.push(byte),
            _ if byte.is_ascii_alphanumeric() => out.push(byte),
            _ => out.extend(format!(r"\x{byte:02x}").bytes()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const B: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
    const UID_: &str = "2c48913c_b29f_11e7_9350_020968147796";

    /// Path, with A, B, UID and UID_ replaced; unit, container, runtime, whether there is a pod.
    const PATHS: &[(&str, &str, &str, &str, bool)] = &[
        ("/", "", "", "", false),
        ("/init.scope", "init.scope", "", "", false),
        (
            "/system.slice/nginx.service",
            "nginx.service",
            "",
            "",
            false,
        ),
        (
            "/system.slice/system-postgresql.slice/postgresql@15-main.service",
            "postgresql@15-main.service",
            "",
            "",
            false,
        ),
        (
            r"/system.slice/system-serial\x2dgetty.slice/serial-getty@ttyS0.service",
            "serial-getty@ttyS0.service",
            "",
            "",
            false,
        ),
        (
            "/user.slice/user-1000.slice/session-3.scope",
            "session-3.scope",
            "",
            "",
            false,
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope",
            "vte-spawn-1.scope",
            "",
            "",
            false,
        ),
        ("/docker/A", "", "A", "docker", false),
        ("/system.slice/docker-A.scope", "", "A", "docker", false),
        // systemd within a container.
        (
            "/system.slice/docker-A.scope/system.slice/ssh.service",
            "ssh.service",
            "A",
            "docker",
            false,
        ),
        ("/docker/A/docker/B", "", "B", "docker", false),
        (
            "/system.slice/docker.service",
            "docker.service",
            "",
            "",
            false,
        ),
        ("/machine.slice/libpod-A.scope", "", "A", "podman", false),
        (
            "/machine.slice/libpod-A.scope/container",
            "",
            "A",
            "podman",
            false,
        ),
        (
            "/machine.slice/libpod-conmon-A.scope",
            "libpod-conmon-A.scope",
            "",
            "",
            false,
        ),
        ("/libpod_parent/libpod-A", "", "A", "podman", false),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-A.scope/container",
            "",
            "A",
            "podman",
            false,
        ),
        ("/kubepods/besteffort/podUID/A", "", "A", "", true),
        ("/kubepods/podUID/A", "", "A", "", true),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-A.scope",
            "",
            "A",
            "containerd",
            true,
        ),
        (
            "/kubepods.slice/kubepods-podUID_.slice/crio-A.scope",
            "",
            "A",
            "cri-o",
            true,
        ),
        (
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice/docker-A.scope",
            "",
            "A",
            "docker",
            true,
        ),
        (
            "/system.slice/containerd.service/kubepods-besteffort-podUID_.slice:cri-containerd:A",
            "",
            "A",
            "containerd",
            true,
        ),
        // kind: a cluster in Docker.
        (
            "/system.slice/docker-A.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podUID_.slice/cri-containerd-B.scope",
            "",
            "B",
            "containerd",
            true,
        ),
        (
            "/docker/A/kubelet/kubepods/burstable/podUID/B",
            "",
            "B",
            "",
            true,
        ),
        ("/lxc.payload.web", "", "web", "lxc", false),
        ("/lxc/web", "", "web", "lxc", false),
        (
            "/lxc.payload.web/system.slice/nginx.service",
            "nginx.service",
            "web",
            "lxc",
            false,
        ),
        ("/lxc.monitor.web", "", "", "", false),
        (
            r"/machine.slice/machine-my\x2dbox.scope",
            "",
            r"my\x2dbox",
            "systemd-nspawn",
            false,
        ),
        (
            "/machine.slice/systemd-nspawn@box.service/payload/system.slice/sshd.service",
            "sshd.service",
            "box",
            "systemd-nspawn",
            false,
        ),
        (
            r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator",
            r"machine-qemu\x2d1\x2dvm.scope",
            "",
            "",
            false,
        ),
        ("/ecs/01ab/A", "", "A", "", false),
        ("/inc-kubepods/pod-aaaa", "", "", "", false),
        ("/.service", "", "", "", false),
    ];

    #[test]
    fn paths_name_units_and_containers() {
        for &(path, unit, id, runtime, in_pod) in PATHS {
            let mend = |text: &str| {
                text.replace("UID_", UID_)
                    .replace("UID", UID)
                    .replace('A', A)
                    .replace('B', B)
            };
            let whole = mend(path);
            let found = names(whole.as_bytes());
            let text =
                |part: Option<&[u8]>| String::from_utf8(part.unwrap_or_default().to_vec()).unwrap();
            assert_eq!(text(found.unit), mend(unit), "{path}");
            assert_eq!(text(found.container), mend(id), "{path}");
            assert_eq!(found.runtime.unwrap_or_default(), runtime, "{path}");
            let uid = found.pod.map(pod_uid);
            assert_eq!(uid.as_deref(), in_pod.then_some(UID), "{path}");
        }
    }

    #[test]
    fn static_pods_have_a_hash() {
        let hash = "0123456789abcdef0123456789abcdef";
        let path = format!("/kubepods.slice/kubepods-burstable-pod{hash}.slice/crio-{A}.scope");
        assert_eq!(names(path.as_bytes()).pod, Some(hash.as_bytes()));
    }

    #[test]
    fn escapes_of_units() {
        for (name, escaped) in [("my-box", r"my\x2dbox"), ("a/b", "a-b"), (".x", r"\x2ex")] {
            assert_eq!(escape(name.as_bytes()), escaped.as_bytes());
        }
        for (escaped, name) in [
            (r"my\x2dbox", "my-box"),
            (r"a\b", r"a\b"),
            (r"\x2", r"\x2"),
            (r"\xzz", r"\xzz"),
        ] {
            assert_eq!(unescape(escaped.as_bytes()), name.as_bytes());
        }
    }

    proptest! {
        /// Whoever may make cgroups may give them any name.
        #[test]
        fn any_bytes_are_a_path(path: Vec<u8>) {
            let found = names(&path);
            for part in [found.unit, found.container, found.pod].into_iter().flatten() {
                prop_assert!(!part.contains(&b'/') && !part.is_empty());
            }
        }

        #[test]
        fn names_survive_being_a_unit(name in "[^/\0]{0,40}") {
            prop_assert_eq!(unescape(&escape(name.as_bytes())), name.as_bytes());
        }
    }
}
