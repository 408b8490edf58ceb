// SPDX-License-Identifier: MIT OR Apache-2.0
//! A good citizen of a pipeline: readers that leave, do not read, or read late.

use std::{
    io::{BufRead, BufReader, Read},
    os::fd::AsFd,
    path::Path,
    process::{ChildStdout, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    fcntl::{FcntlArg, fcntl},
    sched::{CpuSet, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};
use serde_json::Value;

use crate::scene::{HOSTS, Scene};
use crate::{procfs, tool::Tool, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcplife::pipes::reader_closes", reader_closes),
        trial(
            "tcplife::pipes::reader_closes_before_first_row",
            reader_closes_before_first_row,
        ),
        trial("tcplife::pipes::rows_are_flushed", rows_are_flushed),
        trial("tcplife::pipes::full_pipe", full_pipe),
        trial("tcplife::pipes::late_reader", late_reader),
        trial("tcplife::pipes::overflow", overflow),
    ]
}

/// A command whose rows go into a pipe that the test reads, or does not; a small one.
fn piped(scene: &Scene, args: &[&str]) -> Result<(Tool, ChildStdout)> {
    let inodes = scene.net.inodes();
    let mut tool = Tool::with_stdout(
        "tcplife",
        &[&["--netns", &inodes], args].concat(),
        Stdio::piped(),
    )?;
    let pipe = tool.child.stdout.take().context("no stdout")?;
    fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(4096))?;
    Ok((tool, pipe))
}

/// `tcplife | head -1`: nothing more happens on the host, and yet it ends.
fn reader_closes() -> Result<()> {
    let mut scene = Scene::new()?;
    let (listener, at) = scene.s.listen(HOSTS[0])?;
    let (tool, pipe) = piped(&scene, &[])?;
    scene.brief(&at, listener, 1)?;
    let mut line = String::new();
    BufReader::new(pipe).read_line(&mut line)?;
    let run = tool.finish(Duration::from_secs(2))?;
    ensure!(run.status.success() && run.said_nothing(), "{run:?}");
    Ok(())
}

fn reader_closes_before_first_row() -> Result<()> {
    let (tool, pipe) = piped(&Scene::new()?, &["--json"])?;
    drop(pipe);
    let run = tool.finish(Duration::from_secs(2))?;
    ensure!(run.status.success() && run.said_nothing(), "{run:?}");
    Ok(())
}

/// Each row can be read before the next session begins.
fn rows_are_flushed() -> Result<()> {
    let mut scene = Scene::new()?;
    let (listener, at) = scene.s.listen(HOSTS[0])?;
    scene.watch(&[])?;
    for sessions in 1..=5 {
        scene.brief(&at, listener, 1)?;
        scene
            .tool
            .as_ref()
            .context("it watches")?
            .wait_lines(2 * sessions)?;
    }
    ensure!(scene.stop()?.rows()?.len() == 10);
    Ok(())
}

/// Nobody reads: it stops all the same when it is told to, and says how many rows it could not write. Several at
/// once, because a signal may come at a bad moment or a good one.
fn full_pipe() -> Result<()> {
    let mut scene = Scene::new()?;
    let (listener, at) = scene.s.listen(HOSTS[0])?;
    let tools: Vec<_> = (0..6)
        .map(|_| piped(&scene, &["--json"]))
        .collect::<Result<_>>()?;
    scene.brief(&at, listener, 100)?;
    scene.net.quiet()?;
    for (tool, _) in &tools {
        on_one_cpu(tool.child.id())?;
        tool.signal(Signal::SIGTERM)?;
    }
    for (tool, mut pipe) in tools {
        let run = tool.finish(Duration::from_secs(6))?;
        ensure!(run.status.code() == Some(1), "{run:?}");
        let mut text = String::new();
        pipe.read_to_string(&mut text)?;
        let whole = |line: &&str| serde_json::from_str::<Value>(line).is_ok();
        let left = 200 - text.lines().filter(whole).count();
        let mut numbers = run
            .stderr
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse::<usize>().ok());
        ensure!(
            numbers.any(|n| n == left),
            "{left} rows not written, but {:?}",
            run.stderr
        );
    }
    Ok(())
}

/// All threads of a process share a CPU from now on: the one that is interrupted by a signal goes on before the one
/// that handles it has had its turn.
fn on_one_cpu(pid: u32) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(0)?;
    let bind = |thread: &Path| {
        let id = thread
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        Ok(sched_setaffinity(
            Pid::from_raw(id.expect("a number")),
            &cpus,
        )?)
    };
    procfs::each(&format!("/proc/{pid}/task"), bind).map(drop)
}

/// A reader that stands still for a while gets every row in the end.
fn late_reader() -> Result<()> {
    let mut scene = Scene::new()?;
    let (listener, at) = scene.s.listen(HOSTS[0])?;
    let (tool, pipe) = piped(&scene, &["--json"])?;
    scene.brief(&at, listener, 100)?;
    scene.net.quiet()?;
    let records = read_while_stopping(tool, pipe)?;
    let summary = records.last().context("nothing")?;
    ensure!(
        summary["lost"] == 0 && summary["events"] == 200 && records.len() == 201,
        "{summary}"
    );
    Ok(())
}

/// More rows than a small buffer holds: what is not there is counted.
fn overflow() -> Result<()> {
    // About a thousand rows fit in the buffer, in the backlog behind the pipe, and in what is read beyond its limit.
    const SESSIONS: usize = 1500;
    let mut scene = Scene::new()?;
    let (listener, at) = scene.s.listen(HOSTS[0])?;
    let (tool, pipe) = piped(&scene, &["--json", "--buffer", "64"])?;
    scene.brief(&at, listener, SESSIONS)?;
    scene.net.quiet()?;
    let records = read_while_stopping(tool, pipe)?;
    let summary = records.last().context("nothing")?;
    let number = |name: &str| summary[name].as_u64().unwrap_or_default();
    ensure!(
        number("lost") > 0,
        "the buffer is not as small as it was asked to be: {summary}"
    );
    ensure!(
        number("events") + 1 == records.len() as u64,
        "{} records, {summary}",
        records.len()
    );
    ensure!(
        number("events") + number("lost") == 2 * SESSIONS as u64,
        "{summary}"
    );
    Ok(())
}

/// Reads everything from now on, with the end asked for at the same time.
fn read_while_stopping(tool: Tool, mut pipe: ChildStdout) -> Result<Vec<Value>> {
    let reader = thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).map(|_| text)
    });
    let run = tool.stop()?;
    ensure!(run.status.success(), "{run:?}");
    let text = reader.join().expect("no panic")?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}
