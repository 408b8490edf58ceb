// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcpaccept --listeners` by netlink: queue, limit, drops, who waits, and whose it is.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::libc;
use serde_json::Value;

use super::{scene::Scene, trials};
use crate::{
    net::Side,
    tool::{Run, Tool},
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        trials("tcpaccept::listeners", listeners),
        trials("tcpaccept::listener_filters", filters),
    ])
}

/// What netlink does not tell.
const BLANK: [&str; 10] = [
    "accepts",
    "accepts_per_s",
    "syn_queue",
    "syn_queue_max",
    "syn_cookie_us",
    "fastopen_queue",
    "fastopen_queue_max",
    "reuseport",
    "reuseport_group",
    "accept_queue_high",
];

fn watch(scene: &Scene, args: &[&str]) -> Result<[Tool; 2]> {
    let inode = scene.net.b.inode.to_string();
    let all = ["--listeners=1h", "--json", "--netns", &inode];
    let args = [&all, args].concat();
    Ok([
        Tool::start("tcpaccept", &args)?,
        Tool::start_reduced(scene.without, "tcpaccept", &args)?,
    ])
}

/// Full and stuck, stuck, and idle; the first with two names, so that it is not known who waits there.
fn listeners(mut scene: Scene) -> Result<()> {
    let (full, at) = scene.s.listen("[::]:0")?;
    scene.s.run(&format!("listen {full} 1"))?;
    let to = format!(
        "{}:{}",
        scene.hosts()[0].1,
        at.rsplit_once(':').context("a port")?.1
    );
    let (stuck, stuck_at) = scene.listen(&scene.hosts()[1])?;
    scene.s.listen(&scene.hosts()[0].0)?;
    for _ in 0..3 {
        let fd = scene.c.open(&to)?;
        scene.c.run(&format!("nonblock {fd}"))?;
        scene
            .c
            .fails(&format!("connect {fd} {to}"), libc::EINPROGRESS)?;
    }
    let fd = scene.c.open(&stuck_at)?;
    scene.c.run(&format!("connect {fd} {stuck_at}"))?;
    wait::until("the accept queues", PATIENCE, || {
        let waiting = [
            scene.s.info(full)?["unacked"],
            scene.s.info(stuck)?["unacked"],
        ];
        Ok((waiting == [2, 1]).then_some(()))
    })?;
    let tools = watch(&scene, &[])?;
    let before = scene.net.b.counters()?["TcpExt.ListenOverflows"];
    wait::until("an overflow", PATIENCE, || {
        Ok((scene.net.b.counters()?["TcpExt.ListenOverflows"] > before).then_some(()))
    })?;
    scene.net.hold(Side::A)?;
    let (with_btf, without_btf) = stop(tools)?;
    let drops = scene.net.b.counters()?["TcpExt.ListenDrops"];
    agree(&with_btf, &without_btf)?;
    ensure!(without_btf.len() == 3, "{without_btf:#?}");
    let verdicts: Vec<_> = without_btf
        .iter()
        .map(|row| row["verdict"].as_str())
        .collect();
    let expected = [Some("not accepting"), Some("not accepting"), None];
    ensure!(
        verdicts == expected && without_btf[0]["drops"] == drops,
        "{without_btf:#?}"
    );
    let whose = without_btf
        .iter()
        .all(|row| row["pid"] == scene.s.pid() && row["comm"] == "server");
    ensure!(
        whose && without_btf[0]["drops_per_s"].as_f64() > Some(0.0),
        "{without_btf:#?}"
    );
    Ok(())
}

fn stop([with_btf, without_btf]: [Tool; 2]) -> Result<(Vec<Value>, Vec<Value>)> {
    let (with_btf, without_btf) = (with_btf.stop()?, without_btf.stop()?);
    let note = |run: &Run| {
        run.stderr
            .lines()
            .filter(|line| line.contains("SYN queues"))
            .count()
    };
    ensure!(
        without_btf.has_only_records() && note(&without_btf) == 1,
        "{}",
        without_btf.stderr
    );
    Ok((with_btf.rows()?, without_btf.rows()?))
}

/// What both tell is the same, but for the times of their looks.
fn agree(with_btf: &[Value], without_btf: &[Value]) -> Result<()> {
    ensure!(
        with_btf.len() == without_btf.len(),
        "{with_btf:#?}\n{without_btf:#?}"
    );
    for (left, right) in with_btf.iter().zip(without_btf) {
        for key in BLANK.iter().filter(|key| **key != "accept_queue_high") {
            ensure!(right[key].is_null(), "{key}: {right}");
        }
        let own = [
            "ts",
            "boot_ns",
            "interval_us",
            "drops_per_s",
            "oldest_wait_us",
            "pid_source",
        ];
        let fields = right.as_object().context("an object")?;
        let mut same = fields
            .iter()
            .filter(|(key, _)| !own.contains(&key.as_str()) && !BLANK.contains(&key.as_str()));
        ensure!(
            same.all(|(key, value)| left[key] == *value),
            "{left}\n{right}"
        );
        let wait = |row: &Value| row["oldest_wait_us"].as_u64();
        let near = match (wait(left), wait(right)) {
            // Each run's own look, which takes long where much is open.
            (Some(left), Some(right)) => left != 0 && right != 0,
            (left, right) => left == right,
        };
        ensure!(near, "{left}\n{right}");
    }
    Ok(())
}

/// Its own process, which netlink finds too, and namespaces and users, which records do not have.
fn filters(mut scene: Scene) -> Result<()> {
    let (_, at) = scene.s.listen(&scene.hosts()[0].0)?;
    let mut other = scene.net.b.agent()?;
    other.comm("other")?;
    other.listen(&scene.hosts()[1].0)?;
    let (pid, port) = (
        scene.s.pid().to_string(),
        at.rsplit_once(':').context("a port")?.1,
    );
    for (args, count) in [
        (&["-p", &*pid][..], 1),
        (&["--comm", "!other"], 1),
        (&["-L", port], 1),
        (&["-6"], 1),
        (&["-u", "0"], 2),
        (&["-u", "!0"], 0),
        (&["--no-scan"], 2),
    ] {
        let tools = watch(&scene, args)?;
        let (_, rows) = stop(tools)?;
        let known = rows
            .iter()
            .all(|row| row["pid"].is_null() == (args[0] == "--no-scan"));
        ensure!(rows.len() == count && known, "{args:?}: {rows:#?}");
    }
    let run = crate::tool::run_without(
        scene.without,
        "tcpaccept",
        &["--listeners", "--cgroup", "id:1"],
    )?;
    ensure!(
        run.status.code() == Some(2) && run.stderr.contains("--cgroup"),
        "{run:?}"
    );
    Ok(())
}
