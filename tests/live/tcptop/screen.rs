// SPDX-License-Identifier: MIT OR Apache-2.0
//! The live screen on a terminal that the test holds.

use std::{
    fs::File,
    io::Read,
    os::fd::OwnedFd,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    fcntl::{OFlag, open},
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};

use super::{
    stalled::fill,
    terminal::{ENTER, LEAVE, Screen},
};
use crate::{
    missing,
    net::Net,
    tool, trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    let ways = [
        ("key", None),
        ("SIGINT", Some(Signal::SIGINT)),
        ("SIGTERM", Some(Signal::SIGTERM)),
        ("SIGHUP", Some(Signal::SIGHUP)),
    ];
    let mut all: Vec<_> = ways
        .map(|(name, signal)| {
            trial(format!("tcptop::screen::left_by_{name}"), move || {
                left(signal)
            })
        })
        .into();
    all.push(trial("tcptop::screen::left_by_SIGQUIT", || {
        let mut screen = Screen::start(&["-i", "100ms"])?;
        screen.shows("h help")?;
        screen.signal(Signal::SIGQUIT)?;
        screen.died_of(Signal::SIGQUIT)
    }));
    all.push(trial("tcptop::screen::keys", keys));
    all.push(trial("tcptop::screen::other_ends", other_ends));
    all.push(trial("tcptop::screen::sizes", sizes));
    all.push(trial("tcptop::screen::duration", duration));
    all.push(trial("tcptop::screen::stopped", stopped));
    all.push(trial("tcptop::screen::terminal_closed", closed));
    all.push(trial("tcptop::screen::rows_elsewhere", elsewhere));
    all
}

fn left(signal: Option<Signal>) -> Result<()> {
    let mut screen = Screen::start(&["-i", "100ms"])?;
    screen.shows("h help")?;
    let raw = tcgetattr(&screen.slave)?.local_flags;
    ensure!(!raw.intersects(LocalFlags::ICANON | LocalFlags::ECHO));
    match signal {
        Some(signal) => screen.signal(signal)?,
        None => screen.press("q")?,
    }
    screen.ended().map(drop)
}

/// Traffic of the test's own, and keys that change what is shown of it, after privileges are dropped.
fn keys() -> Result<()> {
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    c.comm("topcl\x1b[2J")?;
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let fd = c.open(&at)?;
    c.run(&format!("connect {fd} {at}"))?;
    s.number(&format!("accept {listener}"))?;
    let mut screen = Screen::start(&["-i", "100ms", "--netns", &net.inodes()])?;
    screen.shows("2 connections")?;
    fill(&mut c, fd)?;
    screen.press("w")?;
    screen.shows("only what does not move")?;
    screen.shows("zero_window")?;
    screen.shows(r"topcl\x1b[2J")?;
    screen.press("/topcl\r")?;
    screen.shows("filter topcl")?;
    screen.press("\r")?;
    screen.shows("send queue")?;
    screen.press("\x1b")?;
    screen.shows("FOR_MS")?;
    screen.press("g")?;
    screen.shows("by pid")?;
    screen.press("p")?;
    screen.shows("PAUSED")?;
    screen.press("h")?;
    screen.shows("add up by the next key")?;
    screen.press("\x03")?;
    let text = screen.ended()?;
    ensure!(!text.contains("topcl\x1b[2J"), "a name has drawn");
    ensure!(!text.contains("\x1b[31m"), "NO_COLOR is set");
    Ok(())
}

/// The process at the other end has a column, and is found by its name.
fn other_ends() -> Result<()> {
    let net = Net::new()?;
    let (mut c, mut s) = (net.a.agent()?, net.b.agent()?);
    c.comm("near")?;
    s.comm("far")?;
    let args = ["-i", "100ms", "--peer", "--netns", &net.a.inode.to_string()];
    let mut screen = Screen::start(&args)?;
    screen.shows("h help")?;
    let (listener, at) = s.listen("10.9.0.2:0")?;
    let fd = c.open(&at)?;
    c.run(&format!("connect {fd} {at}"))?;
    let accepted = s.number(&format!("accept {listener}"))?;
    let far = format!("{}/far", s.pid());
    screen.press("a")?;
    screen.shows("PEER")?;
    screen.shows(&far)?;
    screen.resize(24, 80)?;
    screen.shows(&far)?;
    screen.press("/far\r")?;
    screen.shows("filter far")?;
    screen.shows(&far)?;
    // It does not read, and this is what the one end is stuck on.
    fill(&mut c, fd)?;
    screen.press("w")?;
    screen.shows("zero_window")?;
    screen.shows(&far)?;
    screen.press("\r")?;
    screen.shows("peer ")?;
    screen.shows(&far)?;
    screen.press("q")?;
    screen.ended()?;
    s.run(&format!("close {accepted}")).map(drop)
}

/// A terminal of another size is drawn anew, to its last line and not beyond.
fn sizes() -> Result<()> {
    let mut screen = Screen::start(&["-i", "100ms"])?;
    screen.shows("h help")?;
    for (lines, columns) in [(5, 40), (50, 300), (10, 60)] {
        screen.resize(lines, columns)?;
        wait::until("a footer in the last line", PATIENCE, || {
            let picture = screen.picture();
            let last = picture.lines().last().unwrap_or_default();
            Ok(last.starts_with("h help").then_some(()))
        })?;
        ensure!(
            screen.picture().starts_with("tcptop "),
            "{}",
            screen.picture()
        );
    }
    screen.press("q")?;
    screen.ended().map(drop)
}

fn duration() -> Result<()> {
    let screen = Screen::start(&["-i", "100ms", "-d", "500ms"])?;
    let text = screen.ended()?;
    let (_, after) = text.rsplit_once(LEAVE).context("left")?;
    ensure!(after.trim().is_empty(), "{after:?}");
    Ok(())
}

/// Ctrl-Z gives the terminal back; the continued command takes it again.
fn stopped() -> Result<()> {
    let mut screen = Screen::start(&["-i", "100ms"])?;
    screen.shows("h help")?;
    screen.press("\x1a")?;
    let pid = screen.child.id();
    wait::until("the stop", PATIENCE, || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(stat.contains(") T ").then_some(()))
    })?;
    ensure!(tcgetattr(&screen.slave)? == screen.before);
    wait::until("the screen is left", PATIENCE, || {
        Ok(screen.text().contains(LEAVE).then_some(()))
    })?;
    kill(Pid::from_raw(pid as i32), Signal::SIGCONT)?;
    wait::until("the screen is back", PATIENCE, || {
        let text = screen.text();
        Ok((text.rfind(ENTER) > text.rfind(LEAVE)).then_some(()))
    })?;
    screen.press("q")?;
    screen.ended().map(drop)
}

/// The terminal's window is closed: nobody has the other end any more, and no signal comes.
fn closed() -> Result<()> {
    missing::needs_programs()?;
    // Not by openpty(3): what other tests start meanwhile would have the other end, too.
    let own = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(own)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = open(ptsname_r(&master)?.as_str(), own, Mode::empty())?;
    let stdio = || -> Result<Stdio> { Ok(slave.try_clone()?.into()) };
    let mut child = Command::new(tool::path("tcptop"))
        .args(["-i", "100ms"])
        .env("TERM", "xterm")
        .stdin(stdio()?)
        .stdout(stdio()?)
        .stderr(Stdio::null())
        .spawn()?;
    drop(slave);
    let mut master = File::from(OwnedFd::from(master));
    let mut drawn = Vec::new();
    let mut chunk = [0; 4096];
    while !String::from_utf8_lossy(&drawn).contains(ENTER) {
        let n = master.read(&mut chunk)?;
        drawn.extend_from_slice(&chunk[..n]);
    }
    drop(master);
    let status = wait::exit_of(&mut child, PATIENCE);
    let _ = child.kill();
    ensure!(status?.success());
    Ok(())
}

/// Where standard output is no terminal, or rows are asked for, there is no screen.
fn elsewhere() -> Result<()> {
    missing::needs_programs()?;
    let run = tool::run("tcptop", &["-d", "200ms", "-i", "100ms"])?;
    ensure!(run.status.success(), "{run:?}");
    ensure!(
        run.lines[0].starts_with("PID ") && !run.lines.concat().contains('\x1b'),
        "{run:?}"
    );
    for args in [&["-b"][..], &["--json"], &["-n", "1"], &["-T"]] {
        let screen = Screen::start(&[args, &["-d", "200ms", "-i", "100ms"]].concat())?;
        let mut screen = screen;
        let status = wait::exit_of(&mut screen.child, PATIENCE)?;
        ensure!(
            status.success() && !screen.text().contains(ENTER),
            "{args:?}: {:?}",
            screen.text()
        );
    }
    Ok(())
}
