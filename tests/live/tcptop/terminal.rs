// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command on a terminal of its own, and what that shows.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    libc,
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{Termios, tcgetattr},
    },
    unistd::Pid,
};

use crate::{
    missing,
    net::Netns,
    tool,
    wait::{self, PATIENCE},
};

/// A command on a terminal of its own.
pub struct Screen {
    pub child: Child,
    master: File,
    /// Kept open: settings of a terminal that nobody has are gone.
    pub slave: OwnedFd,
    pub before: Termios,
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

pub const ENTER: &str = "\x1b[?1049h";
pub const LEAVE: &str = "\x1b[?1049l";

impl Screen {
    pub fn start(args: &[&str]) -> Result<Self> {
        Self::launch(Command::new(tool::path("tcptop")), args)
    }

    /// The same in a network namespace.
    pub fn start_in(ns: &Netns, args: &[&str]) -> Result<Self> {
        let mut command = Command::new(tool::path("tcptop"));
        ns.enter(&mut command)?;
        Self::launch(command, args)
    }

    fn launch(mut command: Command, args: &[&str]) -> Result<Self> {
        missing::needs_programs()?;
        let pty = openpty(&size(20, 100), None)?;
        let before = tcgetattr(&pty.slave)?;
        let stdio = || -> Result<Stdio> { Ok(pty.slave.try_clone()?.into()) };
        let child = command
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

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.drawn.lock().expect("no panic")).into_owned()
    }

    /// What a terminal shows now.
    pub fn picture(&self) -> String {
        picture(&self.text(), self.size)
    }

    /// Waits until this is on the screen.
    pub fn shows(&mut self, what: &str) -> Result<()> {
        let found = wait::until(what, PATIENCE, || {
            if let Some(status) = self.child.try_wait()? {
                bail!("it has ended: {status}");
            }
            Ok(self.picture().contains(what).then_some(()))
        });
        found.with_context(|| format!("on the screen:\n{}", self.picture()))
    }

    pub fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.master.write_all(keys.as_bytes())?)
    }

    pub fn resize(&mut self, lines: u16, columns: u16) -> Result<()> {
        self.size = (lines, columns);
        let now = size(lines, columns);
        // SAFETY: the kernel reads such a struct, which lives.
        let ret = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const now) };
        ensure!(ret == 0, "{}", std::io::Error::last_os_error());
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id() as i32), signal)?)
    }

    /// Its end: the screen is left, and the terminal is as it was.
    pub fn ended(self) -> Result<String> {
        let (status, text) = self.given_back()?;
        ensure!(status.success(), "{status}: {text:?}");
        Ok(text)
    }

    /// The same, by a signal that nobody survives.
    pub fn died_of(self, signal: Signal) -> Result<()> {
        let (status, text) = self.given_back()?;
        let of = Some(signal as i32);
        ensure!(status.signal() == of, "{status}: {text:?}");
        Ok(())
    }

    fn given_back(mut self) -> Result<(ExitStatus, String)> {
        let status = wait::exit_of(&mut self.child, PATIENCE)?;
        let mut text = String::new();
        wait::until("the last output", PATIENCE, || {
            text = self.text();
            Ok((text.rfind(LEAVE) > text.rfind(ENTER)).then_some(()))
        })?;
        let count = |what: &str| text.matches(what).count();
        ensure!(count(ENTER) == count(LEAVE), "{text:?}");
        ensure!(count("\x1b[?25h") >= 1, "the cursor is back");
        let now = tcgetattr(&self.slave)?;
        ensure!(now == self.before, "{now:?}, not {:?}", self.before);
        Ok((status, text))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Already over, perhaps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
