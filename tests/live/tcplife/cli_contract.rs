// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the command line promises: exit codes, one sentence for what is wrong, limits, signals.

use std::{
    fs::{self, File},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use crate::scene::{HOSTS, Scene};
use crate::{
    net::Netns,
    scratch::Scratch,
    tool::{self, Tool},
    trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("tcplife::cli_contract::wrong_arguments", wrong_arguments),
        trial(
            "tcplife::cli_contract::without_privileges",
            without_privileges,
        ),
        trial("tcplife::cli_contract::duration", duration),
        trial("tcplife::cli_contract::count", count),
        trial("tcplife::cli_contract::signals", signals),
        trial("tcplife::cli_contract::into_a_file", into_a_file),
    ]
}

/// The arguments, and what the one sentence has to name.
const WRONG: [(&str, &str); 18] = [
    ("-p x", "x"),
    ("-p 5-3", "5-3"),
    ("--pid 1,,2", "1,,2"),
    ("--lport 70000", "70000"),
    ("-D 80-", "80-"),
    ("--port !", "!"),
    ("--raddr 10.0.0.0/33", "10.0.0.0/33"),
    ("--laddr nonsense", "nonsense"),
    ("-o xml", "xml"),
    ("--netns /nonexistent", "/nonexistent"),
    ("--netns pid:999999999", "999999999"),
    ("--cgroup /nonexistent", "/nonexistent"),
    ("-u root_x", "root_x"),
    ("-d x", "x"),
    ("-d -1", "-1"),
    ("-n 0", "0"),
    ("--bogus", "--bogus"),
    ("-4 -6", "--ipv6"),
];

fn wrong_arguments() -> Result<()> {
    let mut complaints = Vec::new();
    for (args, culprit) in WRONG {
        let run = tool::run("tcplife", &args.split(' ').collect::<Vec<_>>())?;
        let one_sentence = run.stderr.lines().count() == 1 && run.stderr.starts_with("tcplife: ");
        if run.status.code() != Some(2)
            || !run.lines.is_empty()
            || !one_sentence
            || !run.stderr.contains(culprit)
        {
            complaints.push(format!("{args}: {run:?}"));
        }
    }
    ensure!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    Ok(())
}

/// A copy, because nobody may not enter the directories that lead to the original.
fn without_privileges() -> Result<()> {
    let copy = Scratch::path("tcplife");
    fs::copy(tool::path("tcplife"), &*copy)?;
    fs::set_permissions(&*copy, fs::Permissions::from_mode(0o755))?;
    let output = Command::new(&*copy)
        .uid(65534)
        .gid(65534)
        .current_dir("/")
        .output()?;
    let stderr = String::from_utf8(output.stderr)?;
    ensure!(
        output.status.code() == Some(1) && output.stdout.is_empty(),
        "{} {stderr}",
        output.status
    );
    ensure!(
        stderr.lines().count() == 1 && stderr.starts_with("tcplife: "),
        "{stderr}"
    );
    ensure!(
        stderr.contains("CAP_BPF") && stderr.contains("sudo"),
        "no remedy: {stderr}"
    );
    Ok(())
}

fn duration() -> Result<()> {
    let quiet = Netns::new()?;
    let tool = Tool::start(
        "tcplife",
        &["--json", "-d", "1", "--netns", &quiet.inode.to_string()],
    )?;
    let begin = Instant::now();
    let run = tool.finish(Duration::from_secs(5))?;
    ensure!(
        begin.elapsed() < Duration::from_secs(3),
        "{:?}",
        begin.elapsed()
    );
    ensure!(run.rows()?.is_empty());
    Ok(())
}

/// Exactly so many rows, though there would have been more.
fn count() -> Result<()> {
    let mut scene = Scene::new()?;
    let (listener, at) = scene.s.listen(HOSTS[0])?;
    scene.watch(&["-n", "3"])?;
    scene.brief(&at, listener, 5)?;
    let run = scene
        .tool
        .take()
        .context("it watches")?
        .finish(Duration::from_secs(5))?;
    ensure!(run.rows()?.len() == 3, "{:?}", run.lines);
    Ok(())
}

/// Each of the three ends it well, right after traffic, and none of that is lost.
fn signals() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut scene = Scene::new()?;
        let (listener, at) = scene.s.listen(HOSTS[1])?;
        scene.watch(&[])?;
        scene.brief(&at, listener, 50)?;
        scene.net.quiet()?;
        let tool = scene.tool.take().context("it watches")?;
        tool.signal(signal)?;
        let run = tool.finish(Duration::from_secs(5))?;
        ensure!(
            run.rows()?.len() == 100,
            "{signal}: {} rows",
            run.lines.len()
        );
        ensure!(run.said_nothing(), "{signal}: {}", run.stderr);
    }
    Ok(())
}

/// `timeout 2 tcplife > f`
fn into_a_file() -> Result<()> {
    let mut scene = Scene::new()?;
    let (listener, at) = scene.s.listen(HOSTS[0])?;
    let file = Scratch::path("rows");
    let inodes = scene.net.inodes();
    let tool = Tool::with_stdout(
        "tcplife",
        &["--netns", &inodes],
        File::create(&*file)?.into(),
    )?;
    scene.brief(&at, listener, 20)?;
    scene.net.quiet()?;
    let run = tool.stop()?;
    let text = fs::read_to_string(&*file)?;
    ensure!(
        run.status.success() && text.lines().count() == 41,
        "{run:?}\n{text}"
    );
    Ok(())
}
