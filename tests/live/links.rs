// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two links with the same link-local addresses: `fe80::1` here and `fe80::2` at the other end of both. Rows, counts and
//! filters tell them apart.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    missing,
    net::Netns,
    peer::Agent,
    tool::{self, Tool},
    trial,
};

pub fn tests() -> Vec<Trial> {
    let rows = ["tcplife", "tcpstates", "tcpinfo", "tcpconnect"];
    let rows = rows.map(|tool| trial(format!("links::rows_of_{tool}"), move || rows_of(tool)));
    let mut trials = Vec::from(rows);
    trials.extend([
        trial("links::accepted", accepted),
        trial("links::resets", resets),
        trial("links::counts", counts),
        trial("links::filters", filters),
        trial("links::tables", tables),
        trial("fallback::links::not_known", not_known),
        trial("fallback::links::read_from_sockets", read_from_sockets),
    ]);
    trials
}

/// A host with two cables, `v0` and `v1`, and what is at their other ends.
struct Scene {
    here: Netns,
    _there: [Netns; 2],
    client: Agent,
    servers: [Agent; 2],
    listeners: [u64; 2],
    /// Of `v0` and `v1`.
    ifindex: [u64; 2],
    /// The same on both.
    port: u64,
}

impl Scene {
    fn new() -> Result<Self> {
        let (here, there) = (Netns::new()?, [Netns::new()?, Netns::new()?]);
        for (n, ns) in there.iter().enumerate() {
            let path = ns.path();
            here.ip(&format!(
                "link add v{n} address 02:00:00:00:0{n}:01 type veth peer name w0 address 02:00:00:00:0{n}:02 netns {path}\n\
                 link set v{n} addrgenmode none up\naddr add fe80::1/64 dev v{n} nodad\n\
                 neigh replace fe80::2 dev v{n} lladdr 02:00:00:00:0{n}:02 nud permanent"
            ))?;
            ns.ip(&format!(
                "link set w0 addrgenmode none up\naddr add fe80::2/64 dev w0 nodad\n\
                 neigh replace fe80::1 dev w0 lladdr 02:00:00:00:0{n}:01 nud permanent"
            ))?;
        }
        let mut servers = [there[0].agent()?, there[1].agent()?];
        let port = 4000;
        let mut listeners = [0; 2];
        for (listener, server) in listeners.iter_mut().zip(&mut servers) {
            *listener = server.listen(&format!("[::]:{port}"))?.0;
        }
        Ok(Self {
            ifindex: [index(&here, "v0")?, index(&here, "v1")?],
            client: here.agent()?,
            here,
            _there: there,
            servers,
            listeners,
            port,
        })
    }

    /// A session over each link.
    fn sessions(&mut self) -> Result<()> {
        for n in [0, 1] {
            let at = format!("[fe80::2%{}]:{}", self.ifindex[n], self.port);
            let fd = self.client.open(&at)?;
            self.client.run(&format!("connect {fd} {at}"))?;
            let accepted = self.servers[n].number(&format!("accept {}", self.listeners[n]))?;
            self.client.run(&format!("close {fd}"))?;
            self.servers[n].run(&format!("eof {accepted}"))?;
            self.servers[n].run(&format!("close {accepted}"))?;
        }
        self.here.quiet()
    }
}

fn index(ns: &Netns, name: &str) -> Result<u64> {
    let path = format!("/sys/class/net/{name}/ifindex");
    // Of the namespace that mounts it: ip(8) asks the kernel.
    let shown = ns.feed(&["ip", "-json", "link", "show", "dev", name], "")?;
    let links: Value = serde_json::from_str(&shown).context(path)?;
    links[0]["ifindex"].as_u64().context("no ifindex")
}

/// The rows of a JSON run that were about the servers, by the number of their link.
fn by_link(rows: &[Value], scene: &Scene, key: &str) -> [Vec<Value>; 2] {
    let about = |n: usize| {
        let of_link = |row: &&Value| row["ifindex"] == scene.ifindex[n] && row[key] == scene.port;
        rows.iter().filter(of_link).cloned().collect()
    };
    [about(0), about(1)]
}

fn rows_of(name: &str) -> Result<()> {
    let mut scene = Scene::new()?;
    let inode = scene.here.inode.to_string();
    let inside = Tool::start_in(&scene.here, name, &["--json", "--netns", "self"])?;
    let outside = Tool::start(name, &["--json", "--netns", &inode])?;
    scene.sessions()?;
    let (inside, outside) = (inside.stop()?.rows()?, outside.stop()?.rows()?);
    for (n, rows) in by_link(&inside, &scene, "rport").iter().enumerate() {
        ensure!(!rows.is_empty(), "v{n}: {inside:#?}");
        for row in rows {
            let remote = format!("fe80::2%v{n}");
            ensure!(
                row["raddr"] == remote && row["ifname"] == format!("v{n}"),
                "{row}"
            );
            let local = row["laddr"].as_str().unwrap_or_default();
            ensure!(local == format!("fe80::1%v{n}") || local == "::", "{row}");
        }
    }
    // The name belongs to another namespace than the command: ss shows the number then.
    for (n, rows) in by_link(&outside, &scene, "rport").iter().enumerate() {
        ensure!(!rows.is_empty(), "v{n}: {outside:#?}");
        let remote = format!("fe80::2%{}", scene.ifindex[n]);
        let right = |row: &Value| row["raddr"] == remote && row["ifname"].is_null();
        ensure!(rows.iter().all(right), "{rows:#?}");
    }
    Ok(())
}

/// The sockets that a listener makes, bound to no link itself, are those of the link that the SYN came by.
fn accepted() -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = Tool::start_in(
        &scene._there[1],
        "tcpaccept",
        &["--json", "--netns", "self"],
    )?;
    scene.sessions()?;
    let rows = tool.stop()?.rows()?;
    let [row] = &rows[..] else {
        anyhow::bail!("{rows:#?}");
    };
    let ends = (
        row["raddr"].as_str(),
        row["laddr"].as_str(),
        row["ifname"].as_str(),
    );
    ensure!(
        ends == (Some("fe80::1%w0"), Some("fe80::2%w0"), Some("w0")),
        "{row}"
    );
    Ok(())
}

/// Without a socket, the link is known from the packet.
fn resets() -> Result<()> {
    missing::needs_reset_reasons()?;
    let mut scene = Scene::new()?;
    let inodes = format!("{},{}", scene.here.inode, scene._there[1].inode);
    let tool = Tool::start("tcpreset", &["--json", "--netns", &inodes])?;
    let at = format!("[fe80::2%{}]:{}", scene.ifindex[1], scene.port + 1);
    let fd = scene.client.open(&at)?;
    scene
        .client
        .fails(&format!("connect {fd} {at}"), nix::libc::ECONNREFUSED)?;
    let rows = tool.stop()?.rows()?;
    let there = index(&scene._there[1], "w0")?;
    let seen = |direction: &str, raddr: String| {
        let is = |row: &Value| row["direction"] == direction && row["raddr"] == raddr;
        rows.iter().any(is)
    };
    ensure!(
        seen("received", format!("fe80::2%{}", scene.ifindex[1])),
        "{rows:#?}"
    );
    ensure!(seen("sent", format!("fe80::1%{there}")), "{rows:#?}");
    Ok(())
}

fn counts() -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = Tool::start_in(
        &scene.here,
        "tcpconnect",
        &["--json", "-c", "--netns", "self"],
    )?;
    scene.sessions()?;
    scene.sessions()?;
    let rows = tool.stop()?.rows()?;
    for (n, rows) in by_link(&rows, &scene, "rport").iter().enumerate() {
        let [row] = &rows[..] else {
            anyhow::bail!("v{n}: {rows:#?}");
        };
        ensure!(
            row["count"] == 2 && row["raddr"] == format!("fe80::2%v{n}"),
            "{row}"
        );
    }
    Ok(())
}

/// A filter takes the name as a row shows it, or the number; without either it is of both links.
fn filters() -> Result<()> {
    let mut scene = Scene::new()?;
    let number = scene.ifindex[1];
    let cases = [
        ("--raddr", "fe80::2%v0".to_owned(), [true, false]),
        ("--raddr", format!("fe80::2%{number}"), [false, true]),
        ("--addr", "fe80::%v1/64".to_owned(), [false, true]),
        ("--raddr", "!fe80::2%v0".to_owned(), [false, true]),
        ("--laddr", "fe80::1".to_owned(), [true, true]),
        ("--raddr", "fe80::3%v0".to_owned(), [false, false]),
    ];
    let start = |(flag, list, _): &(&str, String, _)| {
        let args = ["--json", "--netns", "self", flag, list];
        Tool::start_in(&scene.here, "tcplife", &args)
    };
    let tools = cases.iter().map(start).collect::<Result<Vec<_>>>()?;
    scene.sessions()?;
    for ((flag, list, expected), tool) in cases.iter().zip(tools) {
        let rows = tool.stop()?.rows()?;
        let seen = by_link(&rows, &scene, "rport").map(|rows| rows.len() == 1);
        ensure!(seen == *expected, "{flag} {list}: {rows:#?}");
    }
    for wrong in ["10.0.0.1%v0", "fe80::2%no-such-link", "fe80::2%0"] {
        let run = tool::run("tcplife", &["--raddr", wrong])?;
        ensure!(run.status.code() == Some(2), "{run:?}");
        ensure!(
            run.stderr.lines().count() == 1 && run.stderr.contains(wrong),
            "{run:?}"
        );
    }
    Ok(())
}

/// An address with its link in a table, with a port, and in CSV.
fn tables() -> Result<()> {
    let mut scene = Scene::new()?;
    let tools = [
        ("tcplife", &["-w"][..], " fe80::2%v1 "),
        ("tcplife", &["--csv"], ",fe80::2%v1,4000,"),
        ("tcpstates", &["--csv"], ",fe80::2%v1,4000,"),
    ];
    let start = |(name, args, _): &(&str, &[&str], _)| {
        Tool::start_in(&scene.here, name, &[&["--netns", "self"], *args].concat())
    };
    let running = tools.iter().map(start).collect::<Result<Vec<_>>>()?;
    scene.sessions()?;
    for ((name, args, text), tool) in tools.iter().zip(running) {
        let run = tool.stop()?;
        ensure!(
            run.lines.iter().any(|line| line.contains(text)),
            "{name} {args:?}: {run:?}"
        );
    }
    Ok(())
}

/// The record of a tracepoint has no link: rows have none, and a filter is refused.
fn not_known() -> Result<()> {
    let mut scene = Scene::new()?;
    let tool = Tool::start_reduced(
        "btf",
        "tcpconnect",
        &["--json", "--raddr", "fe80::2", "-D", "4000"],
    )?;
    scene.sessions()?;
    let rows = tool.stop()?.rows()?;
    let blank = |row: &Value| row["raddr"] == "fe80::2" && row["ifindex"].is_null();
    ensure!(rows.len() >= 2 && rows.iter().all(blank), "{rows:#?}");
    let run = tool::run_without("btf", "tcpconnect", &["--raddr", "fe80::2%1"])?;
    ensure!(
        run.status.code() == Some(2) && run.stderr.contains('%'),
        "{run:?}"
    );
    Ok(())
}

/// Where only the ring buffer is lacking, sockets are read, and their links with them.
fn read_from_sockets() -> Result<()> {
    missing::needs_programs()?;
    let mut scene = Scene::new()?;
    let inode = scene.here.inode.to_string();
    let of_one = format!("fe80::2%{}", scene.ifindex[0]);
    let args = ["--json", "--netns", &inode];
    let start = |more: &[&str]| Tool::start_reduced("ringbuf", "tcplife", &[&args, more].concat());
    let (both, one) = (start(&[])?, start(&["--raddr", &of_one])?);
    scene.sessions()?;
    let (both, one) = (both.stop()?.rows()?, one.stop()?.rows()?);
    let seen = |rows: &[Value]| by_link(rows, &scene, "rport").map(|rows| rows.len());
    ensure!(
        (seen(&both), seen(&one)) == ([1, 1], [1, 0]),
        "{both:#?} {one:#?}"
    );
    Ok(())
}
