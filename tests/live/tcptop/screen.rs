// SPDX-License-Identifier: MIT OR Apache-2.0
//! The live screen on a terminal that the test holds.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsRawFd, OwnedFd},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::{
    fcntl::{OFlag, open},
    libc,
    pty::{Winsize, grantpt, openpty, posix_openpt, ptsname_r, unlockpt},
    sys::{
        signal::{Signal, kill},
        stat::Mode,
        termios::{LocalFlags, Termios, tcgetattr},
    },
    unistd::Pid,
};

use super::stalled::fill;
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
    all.push(trial("tcptop::screen::keys", keys));
    all.push(trial("tcptop::screen::other_ends", other_ends));
    all.push(trial("tcptop::screen::sizes", sizes));
    all.push(trial("tcptop::screen::duration", duration));
    all.push(trial("tcptop::screen::stopped", stopped));
    all.push(trial("tcptop::screen::terminal_closed", closed));
    all.push(trial("tcptop::screen::rows_elsewhere", elsewhere));
    all
}

/// A command on a terminal of its own.
pub(super) struct Screen {
    child: Child,
    master: File,
    /// Kept open: settings of a terminal that nobody has are gone.
    slave: OwnedFd,
    before: Termios,
    size: (u16, u16),
    drawn: Arc<Mutex<Vec<u8>>>,
}

fn size(lines: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: lines,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// The alternate screen of a terminal of this size that was sent this: what moves the cursor, clears, and is text.
fn picture(text: &str, (lines, columns): (u16, u16)) -> String {
    let blank = vec![vec![' '; columns.into()]; lines.into()];
    let (mut cells, mut line, mut column) = (blank.clone(), 0usize, 0usize);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\x1b' {
            if let Some(cell) = cells.get_mut(line).and_then(|l| l.get_mut(column)) {
                *cell = c;
            }
            column += 1;
            continue;
        }
        let mut sequence = String::new();
        rest.next(); // [
        for c in rest.by_ref() {
            sequence.push(c);
            if c.is_ascii_alphabetic() {
                break;
            }
        }
        match sequence.as_str() {
            "2J" => cells.clone_from(&blank),
            at if at.ends_with('H') => {
                let numbers = at.trim_end_matches('H').split_once(';');
                let number = |text: &str| text.parse().unwrap_or(1usize) - 1;
                (line, column) = numbers.map_or((0, 0), |(l, c)| (number(l), number(c)));
            }
            _ => {}
        }
    }
    let lines = cells
        .into_iter()
        .map(|line| line.into_iter().collect::<String>());
    lines.collect::<Vec<_>>().join("\n")
}

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

impl Screen {
    pub(super) fn start(args: &[&str]) -> Result<Self> {
        missing::needs_programs()?;
        let pty = openpty(&size(20, 100), None)?;
        let before = tcgetattr(&pty.slave)?;
        let stdio = || -> Result<Stdio> { Ok(pty.slave.try_clone()?.into()) };
        let child = Command::new(tool::path("tcptop"))
            .args(args)
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .stdin(stdio()?)
            .stdout(stdio()?)
            .stderr(stdio()?)
            .process_group(0) // An orphaned group, as this test's may be, is not stopped.
            .spawn()?;
        let master = File::from(pty.master);
        let drawn = Arc::<Mutex<Vec<u8>>>::default();
        let (mut reader, to) = (master.try_clone()?, Arc::clone(&drawn));
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = reader.read(&mut chunk) {
                to.lock().expect("no panic").extend_from_slice(&chunk[..n]);
            }
        });
        Ok(Self {
            child,
            master,
            slave: pty.slave,
            before,
            size: (20, 100),
            drawn,
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.drawn.lock().expect("no panic")).into_owned()
    }

    /// What a terminal shows now.
    fn picture(&self) -> String {
        picture(&self.text(), self.size)
    }

    /// Waits until this is on the screen.
    pub(super) fn shows(&mut self, what: &str) -> Result<()> {
        let found = wait::until(what, PATIENCE, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it has ended: {status}");
            }
            Ok(self.picture().contains(what).then_some(()))
        });
        found.with_context(|| format!("on the screen:\n{}", self.picture()))
    }

    pub(super) fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    pub(super) fn resize(&mut self, lines: u16, columns: u16) -> Result<()> {
        self.size = (lines, columns);
        let now = size(lines, columns);
        // SAFETY: the kernel reads such a struct, which lives.
        let ret = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const now) };
        ensure!(ret == 0, "{}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Its end: the screen is left, and the terminal is as it was.
    pub(super) fn ended(mut self) -> Result<String> {
        let status = wait::exit_of(&mut self.child, PATIENCE)?;
        let mut text = String::new();
        wait::until("the last output", PATIENCE, || {
            text = self.text();
            Ok((text.rfind(LEAVE) > text.rfind(ENTER)).then_some(()))
        })?;
        ensure!(status.success(), "{status}: {text:?}");
        let count = |what: &str| text.matches(what).count();
        ensure!(count(ENTER) == count(LEAVE), "{text:?}");
        ensure!(count("\x1b[?25h") >= 1, "the cursor is back");
        let now = tcgetattr(&self.slave)?;
        ensure!(now == self.before, "{now:?}, not {:?}", self.before);
        Ok(text)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Already over, perhaps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn left(signal: Option<Signal>) -> Result<()> {
    let mut screen = Screen::start(&["-i", "100ms"])?;
    screen.shows("h help")?;
    let raw = tcgetattr(&screen.slave)?.local_flags;
    ensure!(!raw.intersects(LocalFlags::ICANON | LocalFlags::ECHO));
    match signal {
        Some(signal) => kill(Pid::from_raw(screen.child.id() as i32), signal)?,
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
