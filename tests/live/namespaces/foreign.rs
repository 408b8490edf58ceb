// SPDX-License-Identifier: MIT OR Apache-2.0
//! Network namespaces that come and go while a command runs, many of them, and some that it may not enter.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use caps::Capability;
use libtest_mimic::Trial;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    missing,
    net::{Net, Netns},
    tool::Tool,
    trial,
    wait::{self, PATIENCE},
};

/// Where each namespace is visited by itself.
const BY_NAMESPACE: &str = "map_elements";

pub fn tests() -> Vec<Trial> {
    vec![
        trial("foreign::visits_do_not_pin", || {
            does_not_pin(
                BY_NAMESPACE,
                &[
                    ("tcplife", &["--active=100ms"]),
                    ("tcpstates", &["--summary=100ms"]),
                    ("tcpretrans", &["--summary=100ms"]),
                    ("tcprcvspace", &["--summary=100ms"]),
                    ("tcpconnect", &["--pending=50"]),
                ],
            )
        }),
        trial("foreign::watching_does_not_pin", || {
            does_not_pin(
                "btf",
                &[("tcplife", &[]), ("tcpinfo", &[]), ("tcpreset", &[])],
            )
        }),
        trial("foreign::new_namespace_is_visited", later),
        trial(
            "foreign::more_than_descriptor_limit",
            more_than_descriptor_limit,
        ),
        trial("foreign::inaccessible_are_counted", unvisited),
        trial("foreign::worker_may_be_stopped", stopped),
    ]
}

/// A cable whose other end is in a namespace that nothing is left in, but what a command has in it: the kernel removes
/// it, and the cable with it.
fn does_not_pin(without: &str, commands: &[(&str, &[&str])]) -> Result<()> {
    let net = Net::new()?;
    let agent = net.b.agent()?;
    let start = |(name, args): &(&str, &[&str])| {
        Tool::start_reduced(without, name, &[&["--json"], *args].concat())
    };
    let tools = commands.iter().map(start).collect::<Result<Vec<_>>>()?;
    let Net { a, b } = net;
    agent.kill()?;
    drop(b);
    let gone = wait::until("the namespace's end", PATIENCE, || {
        let devices = a.inside(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        Ok((!devices.contains("v0:")).then_some(()))
    });
    for (tool, command) in tools.into_iter().zip(commands) {
        let run = tool.stop()?;
        ensure!(run.status.success(), "{command:?}: {}", run.stderr);
    }
    gone
}

/// Both ends of a session over loopback, in a namespace that a process keeps.
struct Place {
    ns: Netns,
    _session: [TcpStream; 2],
    process: Child,
}

impl Place {
    fn new(host: &str) -> Result<Self> {
        let ns = Netns::new()?;
        let session = ns.inside(|| {
            let listener = TcpListener::bind((host, 0))?;
            let client = TcpStream::connect(listener.local_addr()?)?;
            Ok([client, listener.accept()?.0])
        })?;
        let mut command = Command::new("sleep");
        command.arg("1000").stdin(Stdio::null());
        let process = ns.enter(&mut command)?.spawn().context("sleep")?;
        Ok(Self {
            ns,
            _session: session,
            process,
        })
    }

    /// Its ends among the rows of sessions that are open.
    fn shown(&self, rows: &[Value]) -> usize {
        let here = |r: &&Value| r["event"] == "active" && r["netns"] == self.ns.inode;
        rows.iter().filter(here).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One that was made after the command had dropped its privileges.
fn later() -> Result<()> {
    for without in ["", BY_NAMESPACE] {
        let tool = Tool::start_reduced(without, "tcplife", &["--json", "--active"])?;
        let places = ["127.0.0.1", "::1"].map(Place::new);
        let places = places.into_iter().collect::<Result<Vec<_>>>()?;
        let run = tool.stop()?;
        let rows = run.rows()?;
        for place in &places {
            ensure!(place.shown(&rows) == 2, "{without}: {rows:#?}");
        }
        ensure!(run.said_nothing(), "{without}: {}", run.stderr);
    }
    Ok(())
}

/// Fewer descriptors than there are namespaces: all are visited, one after the other.
fn more_than_descriptor_limit() -> Result<()> {
    const DESCRIPTORS: usize = 56;
    let places = (0..DESCRIPTORS + 4).map(|_| Place::new("127.0.0.1"));
    let places = places.collect::<Result<Vec<_>>>()?;
    let tool = Tool::start_limited(
        DESCRIPTORS as u64,
        BY_NAMESPACE,
        "tcplife",
        &["--json", "--active"],
    )?;
    // It can only watch some of them.
    let watch = Tool::start_limited(DESCRIPTORS as u64, "btf", "tcpinfo", &["--json"])?;
    let rows = tool.stop()?.rows()?;
    for place in &places {
        ensure!(
            place.shown(&rows) == 2,
            "{} of {}",
            place.shown(&rows),
            place.ns.inode
        );
    }
    let run = watch.stop()?;
    let summary = run.records()?.pop().context("no record")?;
    let unvisited = summary["unvisited"].as_u64();
    ensure!(
        unvisited.is_some_and(|n| n as usize >= places.len()),
        "{summary}: {}",
        run.stderr
    );
    ensure!(run.stderr.contains("network namespaces"), "{}", run.stderr);
    Ok(())
}

/// The summary has their number, and a sentence what would help.
fn unvisited() -> Result<()> {
    missing::needs_storage()?;
    let place = Place::new("127.0.0.1")?;
    let args = ["--json", "--active"];
    let tool =
        Tool::start_reduced_without(Capability::CAP_SYS_ADMIN, BY_NAMESPACE, "tcplife", &args)?;
    let run = tool.stop()?;
    let mut rows = run.records()?;
    let summary = rows.pop().context("no record")?;
    ensure!(place.shown(&rows) == 0, "{rows:#?}");
    ensure!(summary["unvisited"].as_u64() >= Some(1), "{summary}");
    ensure!(run.stderr.contains("CAP_SYS_ADMIN"), "{}", run.stderr);
    ensure!(run.stderr.lines().count() == 1, "{}", run.stderr);
    // Whoever may enter all leaves none out.
    let tool = Tool::start_reduced(BY_NAMESPACE, "tcplife", &args)?;
    let run = tool.stop()?;
    let summary = run.records()?.pop().context("no record")?;
    ensure!(summary["unvisited"] == 0, "{summary}: {}", run.stderr);
    Ok(())
}

/// The process that visits them is stopped by somebody: the command ends all the same, and says what it does not show.
fn stopped() -> Result<()> {
    missing::needs_storage()?;
    let tool = Tool::start_reduced(BY_NAMESPACE, "tcplife", &["--active"])?;
    let id = tool.child.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    let visitor = children.trim().parse().context("one child")?;
    kill(Pid::from_raw(visitor), Signal::SIGSTOP)?;
    let run = tool.stop()?;
    ensure!(run.status.success(), "{}", run.stderr);
    ensure!(
        run.stderr.contains("cannot show open sockets"),
        "{}",
        run.stderr
    );
    ensure!(!Path::new(&format!("/proc/{visitor}")).exists());
    Ok(())
}
