// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container, the unit, the pod and the namespace of a socket, and the filters by their names.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::{HOSTS, Scene};
use crate::{
    cgroups::{Tree, root},
    missing,
    scratch::Scratch,
    tool::Tool,
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("owners::whose::container_that_ended", container_that_ended),
        trial("owners::whose::every_command", every_command),
        trial("owners::whose::in_cgroup_namespace", in_cgroup_namespace),
        trial("owners::whose::filters", filters),
        trial("owners::whose::hostile_names", hostile_names),
        trial("owners::whose::named_namespace", named_namespace),
        trial("owners::whose::without_btf", without_btf),
    ]
}

const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";

/// An id that no other test has: the name of the tree is this process's and this test's.
fn id_of(tree: &Tree) -> String {
    let digits: String = tree.name.bytes().map(|b| format!("{b:02x}")).collect();
    digits
        .chars()
        .rev()
        .chain("0".repeat(64).chars())
        .take(64)
        .collect()
}

impl Scene {
    /// The path of the client's cgroup, as the kernel says it.
    fn cgroup(&self) -> Result<String> {
        let text = fs::read_to_string(format!("/proc/{}/cgroup", self.c.pid()))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"));
        Ok(path.context("no v2 cgroup")?.to_owned())
    }

    fn join(&mut self, cgroup: &Path) -> Result<()> {
        let command = [b"cgroup ", cgroup.as_os_str().as_bytes()].concat();
        self.c.run(std::str::from_utf8(&command)?).map(drop)
    }

    /// A session whose client is created in the cgroup, which it leaves, and which is gone when the session ends.
    fn session_of(&mut self, tree: &Tree, cgroup: &Path, host: &str) -> Result<u64> {
        self.join(cgroup)?;
        let session = self.session(host)?;
        self.join(Path::new(&root()?))?;
        tree.remove(cgroup)?;
        self.c.run(&format!("close {}", session.c))?;
        self.s.run(&format!("close {}", session.s))?;
        self.net.quiet()?;
        Ok(session.port)
    }
}

/// The client's row, by the port of its server.
fn client(rows: &[Value], port: u64) -> Result<&Value> {
    let row = rows.iter().find(|row| row["rport"] == port);
    row.with_context(|| format!("no row of {port}: {rows:#?}"))
}

fn expect(row: &Value, wants: &Value) -> Result<()> {
    for (key, want) in wants.as_object().context("an object")? {
        ensure!(
            row[key] == *want,
            "{key} is {}, not {want}: {row}",
            row[key]
        );
    }
    Ok(())
}

/// In a pod, whose cgroup is removed before the session ends; in every format.
fn container_that_ended() -> Result<()> {
    for host in HOSTS {
        let (tree, mut scene) = (Tree::new()?, Scene::new()?);
        let id = id_of(&tree);
        let pod = format!("kubepods.slice/kubepods-pod{}.slice", UID.replace('-', "_"));
        let cgroup = tree.make(format!("{pod}/cri-containerd-{id}.scope"))?;
        let inodes = scene.net.inodes();
        let json = scene.watch("tcplife", &[])?;
        let table = |args: &[&str]| Tool::start("tcplife", &[&["--netns", &inodes], args].concat());
        let (csv, wide) = (table(&["--csv"])?, table(&["-w"])?);
        scene.join(&cgroup)?;
        let path = scene.cgroup()?;
        let port = scene.session_of(&tree, &cgroup, host)?;
        let rows = json.stop()?.rows()?;
        let wants = json!({
            "cgroup": path, "unit": null, "container": id, "runtime": "containerd", "pod": UID,
            "container_name": null, "netns_name": null,
        });
        expect(client(&rows, port)?, &wants)?;
        let server = rows.iter().find(|row| row["lport"] == port);
        let server = server.context("no row of the server")?;
        ensure!(
            server["container"].is_null() && server["cgroup"] != path,
            "{server}"
        );
        let csv = csv.stop()?.lines;
        let line = csv
            .iter()
            .find(|line| line.contains(&path))
            .context("no line of CSV")?;
        let cells = format!(",{path},,{id},,containerd,{UID},,");
        ensure!(line.contains(&cells), "{line}");
        let wide = wide.stop()?.lines;
        ensure!(wide[0].ends_with(" WHOSE"), "{}", wide[0]);
        let own = wide
            .iter()
            .filter(|line| line.ends_with(&format!(" {}", &id[..12])));
        ensure!(own.count() == 1, "{wide:#?}");
    }
    Ok(())
}

/// Rows of events, and those that visit sockets.
fn every_command() -> Result<()> {
    let (tree, mut scene) = (Tree::new()?, Scene::new()?);
    let unit = format!("{}.service", tree.name);
    let cgroup = tree.make(&unit)?;
    let watched = [
        ("tcplife", &["--active=1s"][..]),
        ("tcpconnect", &[]),
        ("tcpstates", &[]),
        ("tcpinfo", &[]),
        ("tcpprobe", &[]),
        ("tcpreset", &[]),
        ("tcpaccept", &[]),
    ];
    let tools: Vec<_> = watched
        .iter()
        .map(|(name, args)| scene.watch(name, args))
        .collect::<Result<_>>()?;
    scene.join(&cgroup)?;
    let path = scene.cgroup()?;
    let (listener, at) = scene.c.listen("10.9.0.1:0")?;
    let peer = scene.s.open(&at)?;
    scene.s.run(&format!("connect {peer} {at}"))?;
    let accepted = scene.c.number(&format!("accept {listener}"))?;
    let session = scene.session(HOSTS[0])?;
    scene.c.run(&format!("send {} 10", session.c))?;
    scene.s.run(&format!("recv {} 10", session.s))?;
    tools[0].wait_lines(2)?;
    // Closed with data that was not read: a reset.
    scene.s.run(&format!("send {} 10", session.s))?;
    for fd in [session.c, accepted, listener] {
        scene.c.run(&format!("close {fd}"))?;
    }
    scene.s.run(&format!("close {}", session.s))?;
    scene.s.run(&format!("close {peer}"))?;
    scene.net.quiet()?;
    for (tool, (name, _)) in tools.into_iter().zip(watched) {
        let rows = tool.stop()?.rows()?;
        let own: Vec<_> = rows.iter().filter(|row| row["unit"] == *unit).collect();
        ensure!(!own.is_empty(), "{name}: {rows:#?}");
        ensure!(
            own.iter().all(|row| row["cgroup"] == path),
            "{name}: {own:#?}"
        );
        let client = scene.c.pid();
        let missed = rows
            .iter()
            .find(|row| row["pid"] == client && row["unit"] != *unit);
        ensure!(missed.is_none(), "{name}: {missed:#?}");
    }
    Ok(())
}

/// Where the hierarchy begins elsewhere, and a filter too.
fn in_cgroup_namespace() -> Result<()> {
    missing::needs_unshare_cgroup()?;
    let (tree, mut scene) = (Tree::new()?, Scene::new()?);
    let unit = format!("{}.service", tree.name);
    let cgroup = tree.make(&unit)?;
    scene.join(&cgroup)?;
    let path = scene.cgroup()?;
    let inodes = scene.net.inodes();
    let args = ["--json", "--netns", inodes.as_str(), "--unit", &tree.name];
    let tool = Tool::start_through(&["unshare", "--cgroup", "--"], "", "tcplife", &args)?;
    let port = scene.session_of(&tree, &cgroup, HOSTS[0])?;
    let rows = tool.stop()?.rows()?;
    ensure!(rows.len() == 1, "{rows:#?}");
    expect(client(&rows, port)?, &json!({"cgroup": path, "unit": unit}))
}

/// A unit that is started twice, and a container in it, neither there when the commands start.
fn filters() -> Result<()> {
    let (tree, mut scene) = (Tree::new()?, Scene::new()?);
    let (name, id) = (tree.name.clone(), id_of(&tree));
    let cases = [
        (["--unit", &name], [true, true, false]),
        (
            ["--unit", &format!("other,{name}.service")],
            [true, true, false],
        ),
        (["--unit", &format!("!{name}")], [false, false, true]),
        (["--container", &id], [false, true, false]),
        (["--container", &id[..20]], [false, true, false]),
        (
            ["--container", &format!("!{}", &id[..20])],
            [true, false, true],
        ),
        (["--container", &format!("f{}", &id[..20])], [false; 3]),
        (["--unit", &id], [false; 3]),
    ];
    let tools: Vec<_> = cases
        .iter()
        .map(|(args, _)| scene.watch("tcplife", args))
        .collect::<Result<_>>()?;
    let unit = format!("{name}.service");
    let mut ports = Vec::new();
    for below in [
        unit.clone(),
        format!("{unit}/docker-{id}.scope"),
        "x.service".into(),
    ] {
        let cgroup = tree.make(&below)?;
        ports.push(scene.session_of(&tree, &cgroup, HOSTS[0])?);
        // The unit ends, too.
        let above = cgroup.parent().filter(|path| path.ends_with(&unit));
        above.map_or(Ok(()), |path: &Path| tree.remove(path))?;
    }
    for (tool, (args, passes)) in tools.into_iter().zip(&cases) {
        let rows = tool.stop()?.rows()?;
        let shown: Vec<_> = ports
            .iter()
            .map(|port| client(&rows, *port).is_ok())
            .collect();
        ensure!(shown == passes, "{args:?}: {shown:?}: {rows:#?}");
        // The servers' cgroup has none of these names.
        let servers = rows
            .iter()
            .filter(|row| ports.iter().any(|port| row["lport"] == *port));
        let expected = if args[1].starts_with('!') {
            ports.len()
        } else {
            0
        };
        ensure!(servers.count() == expected, "{args:?}: {rows:#?}");
    }
    Ok(())
}

/// Whatever a cgroup may be called: no control byte reaches a terminal, and JSON has all that there is.
fn hostile_names() -> Result<()> {
    let (tree, mut scene) = (Tree::new()?, Scene::new()?);
    let evil: Vec<u8> = (1..=255).filter(|byte| !b"/\n".contains(byte)).collect();
    let mut paths = vec![PathBuf::from("=1+1,\"x\u{1b}[2J.service")];
    paths.extend(
        evil.chunks(100)
            .map(|chunk| PathBuf::from(OsStr::from_bytes(chunk))),
    );
    paths.push("deep/".repeat(40).into());
    for path in paths {
        let cgroup = tree.make(&path)?;
        let inodes = scene.net.inodes();
        let json = scene.watch("tcplife", &["-p", &scene.c.pid().to_string()])?;
        let wide = Tool::start("tcplife", &["-w", "--netns", &inodes])?;
        // The client's commands are text.
        fs::write(cgroup.join("cgroup.procs"), scene.c.pid().to_string())?;
        let session = scene.session(HOSTS[0])?;
        fs::write(
            format!("{}/cgroup.procs", root()?),
            scene.c.pid().to_string(),
        )?;
        scene.c.run(&format!("close {}", session.c))?;
        scene.s.run(&format!("close {}", session.s))?;
        scene.net.quiet()?;
        let rows = json.stop()?.rows()?;
        let shown = client(&rows, session.port)?["cgroup"]
            .as_str()
            .context("no path")?;
        let plain = unescaped(shown);
        let whole = Path::new("/").join(&tree.name).join(&path);
        let whole = whole.as_os_str().as_bytes();
        let whole = whole.strip_suffix(b"/").unwrap_or(whole);
        match plain.strip_prefix(b"...") {
            Some(end) => ensure!(whole.ends_with(end) && end.len() > 75, "{shown}"),
            None => ensure!(plain == whole, "{shown} is not {path:?}"),
        }
        for line in wide.stop()?.lines {
            ensure!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
    Ok(())
}

/// What an escaped name stands for.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, after @ ..] = rest {
        (out, rest) = match (first, after) {
            (b'\\', [b'x', a, b, after @ ..]) => {
                let hex = [*a, *b];
                let hex = std::str::from_utf8(&hex).expect("digits");
                out.push(u8::from_str_radix(hex, 16).expect("digits"));
                (out, after)
            }
            (b'\\', [next, after @ ..]) => {
                out.push(*next);
                (out, after)
            }
            _ => {
                out.push(*first);
                (out, after)
            }
        };
    }
    out
}

/// Named by `ip netns` after the command began.
fn named_namespace() -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = scene.watch("tcplife", &[])?;
    let name = Scratch::path("netns");
    let name = name
        .file_name()
        .context("a name")?
        .to_string_lossy()
        .into_owned();
    let ip = |args: &[&str]| {
        let status = std::process::Command::new("ip").args(args).status()?;
        ensure!(status.success(), "ip {args:?}: {status}");
        Ok(())
    };
    ip(&["netns", "attach", &name, &scene.c.pid().to_string()])?;
    let seen = (|| {
        // Names are read again when a second has passed.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let session = scene.session(HOSTS[0])?;
        scene.c.run(&format!("close {}", session.c))?;
        scene.s.run(&format!("close {}", session.s))?;
        scene.net.quiet()?;
        let rows = tool.stop()?.rows()?;
        expect(client(&rows, session.port)?, &json!({"netns_name": name}))?;
        let server = rows.iter().find(|row| row["lport"] == session.port);
        expect(server.context("no server")?, &json!({"netns_name": null}))
    })();
    ip(&["netns", "del", &name])?;
    seen
}

/// Then `/proc` tells, while the owner runs.
fn without_btf() -> Result<()> {
    let (tree, mut scene) = (Tree::new()?, Scene::new()?);
    let unit = format!("{}.service", tree.name);
    let cgroup = tree.make(&unit)?;
    scene.join(&cgroup)?;
    let path = scene.cgroup()?;
    let inodes = scene.net.inodes();
    // A record without BTF has no namespace.
    let tool = Tool::start_reduced("btf", "tcpconnect", &["--json", "--duration", "60"])?;
    let session = scene.session(HOSTS[0])?;
    let found = crate::wait::until("the row", crate::wait::PATIENCE, || {
        let rows = tool.seen()?;
        Ok(client(&rows, session.port).ok().cloned())
    })?;
    expect(&found, &json!({"cgroup": path, "unit": unit}))?;
    tool.stop()?;
    for flag in ["--unit", "--container"] {
        let run = crate::tool::run_without("btf", "tcplife", &["--netns", &inodes, flag, "x"])?;
        ensure!(
            run.status.code() == Some(2) && run.stderr.contains("--"),
            "{}",
            run.stderr
        );
    }
    Ok(())
}
