// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of containers, from what their runtimes keep on this host. No daemon is asked.
//!
//! Most of it is root's alone, and so is read before root is dropped; of a container that starts later only what its
//! cgroup says is known.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use serde_json::Value;

use super::names::is_id;

/// A container, as its runtime keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// As in the name of its cgroup.
    pub id: String,
    /// What its user called it.
    pub name: String,
    /// What runs it.
    pub runtime: &'static str,
    /// Where its network namespace is mounted, if it has one of its own.
    pub netns: Option<PathBuf>,
}

/// No host runs as many; more are left out.
const MAX_CONTAINERS: usize = 16 * 1024;
/// The largest have some hundred KiB.
const MAX_BYTES: u64 = 16 << 20;

/// All containers whose name can be read, below `root` (`/`, but for tests).
pub fn containers(root: &Path) -> Vec<Container> {
    let docker = below(&root.join("var/lib/docker/containers"));
    let tasks = below(&root.join("run/containerd/io.containerd.runtime.v2.task"));
    let tasks = tasks.flat_map(|namespace| below(&namespace));
    let stores = below(&root.join("var/lib/containers/storage"));
    docker
        .filter_map(|at| of_docker(&at))
        .chain(tasks.filter_map(|at| of_containerd(&at)))
        .chain(stores.flat_map(|at| of_storage(&at)))
        .filter(|container| is_id(container.id.as_bytes()) && !container.name.is_empty())
        .take(MAX_CONTAINERS)
        .collect()
}

fn below(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// A file's JSON; `None` whatever is wrong with it.
fn json(path: &Path) -> Option<Value> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK);
    let file = file.open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(())?;
    let mut text = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn text(value: &Value) -> Option<String> {
    Some(value.as_str()?.to_owned())
}

/// moby: daemon/container/container.go: Container.
fn of_docker(folder: &Path) -> Option<Container> {
    let state = json(&folder.join("config.v2.json"))?;
    let sandbox = state.pointer("/NetworkSettings/SandboxKey");
    let sandbox = sandbox.and_then(text).filter(|key| !key.is_empty());
    Some(Container {
        id: text(state.get("ID")?)?,
        name: state.get("Name")?.as_str()?.trim_start_matches('/').into(),
        runtime: "docker",
        // The host's own has a sandbox too.
        netns: sandbox
            .map(PathBuf::from)
            .filter(|key| !key.ends_with("default")),
    })
}

/// containerd: internal/cri/annotations, and nerdctl: pkg/labels.
fn of_containerd(folder: &Path) -> Option<Container> {
    let state = json(&folder.join("config.json"))?;
    let note = |key: &str| text(state.get("annotations")?.get(key)?);
    let pause = || note("io.kubernetes.cri.sandbox-name");
    let name = note("io.kubernetes.cri.container-name")
        .or_else(|| note("nerdctl/name"))
        .or_else(pause)?;
    Some(Container {
        id: folder.file_name()?.to_str()?.to_owned(),
        name,
        runtime: "containerd",
        netns: None,
    })
}

/// containers/storage: `overlay-containers/containers.json`, of Podman and of CRI-O, whose names begin with `k8s_`.
fn of_storage(folder: &Path) -> Vec<Container> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let list = match name.ends_with("-containers") {
        true => json(&folder.join("containers.json")),
        false => None,
    };
    let Some(Value::Array(list)) = list else {
        return Vec::new();
    };
    let container = |entry: &Value| {
        let name = text(entry.get("names")?.get(0)?)?;
        let of_crio = name.starts_with("k8s_");
        Some(Container {
            id: text(entry.get("id")?)?,
            runtime: if of_crio { "cri-o" } else { "podman" },
            name,
            netns: None,
        })
    };
    list.iter().filter_map(container).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn state_names_containers() {
        let root = std::env::temp_dir().join(format!("tcptools-state-{}", std::process::id()));
        let id = |n: u8| format!("{n:064x}");
        let docker = |n: u8, text: &str| {
            let file = format!("var/lib/docker/containers/{}/config.v2.json", id(n));
            written(&root, &file, text);
        };
        let key = "/var/run/docker/netns/0123";
        docker(
            1,
            &format!(
                r#"{{"ID":"{}","Name":"/web","NetworkSettings":{{"SandboxKey":"{key}"}}}}"#,
                id(1)
            ),
        );
        docker(
            2,
            &format!(
                r#"{{"ID":"{}","Name":"/host","NetworkSettings":{{"SandboxKey":"/var/run/docker/netns/default"}}}}"#,
                id(2)
            ),
        );
        docker(3, "not JSON");
        docker(4, r#"{"ID":"../../etc","Name":"/evil"}"#);
        docker(5, &format!(r#"{{"ID":"{}","Name":7}}"#, id(5)));
        let task = |n: u8, text: &str| {
            let folder = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
            written(&root, &format!("{folder}/{}/config.json", id(n)), text);
        };
        task(
            6,
            r#"{"annotations":{"io.kubernetes.cri.container-name":"app","io.kubernetes.cri.sandbox-name":"app-0"}}"#,
        );
        task(
            7,
            r#"{"annotations":{"io.kubernetes.cri.sandbox-name":"app-0"}}"#,
        );
        task(8, "{}");
        let list = format!(
            r#"[{{"id":"{}","names":["db"]}},{{"id":"{}","names":["k8s_x_y"]}},{{"id":"{}"}}]"#,
            id(9),
            id(10),
            id(11)
        );
        written(
            &root,
            "var/lib/containers/storage/overlay-containers/containers.json",
            &list,
        );
        let mut found = containers(&root);
        fs::remove_dir_all(&root).unwrap();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        let found: Vec<_> = found
            .iter()
            .map(|c| (c.name.as_str(), c.runtime, c.netns.as_deref()))
            .collect();
        let expected = [
            ("web", "docker", Some(Path::new(key))),
            ("host", "docker", None),
            ("app", "containerd", None),
            ("app-0", "containerd", None),
            ("db", "podman", None),
            ("k8s_x_y", "cri-o", None),
        ];
        assert_eq!(found, expected);
        assert!(containers(Path::new("/no/such/root")).is_empty());
    }
}
