// SPDX-License-Identifier: MIT OR Apache-2.0
//! How commands write, stop and treat files: what all of them promise, whatever they trace.

mod asleep;
mod endings;
mod files;
mod formats;
mod idle;
mod ready;
mod signals;
mod slow;
mod stalled;
mod stats;
mod terminal;

use std::{
    io::Read,
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    net::Netns,
    tool,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    crate::trial::group([
        asleep::tests(),
        endings::tests(),
        files::tests(),
        formats::tests(),
        idle::tests(),
        ready::tests(),
        signals::tests(),
        slow::tests(),
        stalled::tests(),
        stats::tests(),
        terminal::tests(),
    ])
}

pub fn alone() -> Vec<Trial> {
    slow::alone()
}

/// Long enough for a command that starts, gives up a reader and ends, on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// A command as if the kernel had none of these features, with nothing attached to it.
pub fn command(features: &str, name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(tool::path(name));
    command
        .env("TCPTOOLS_WITHOUT", features)
        .env_remove("NOTIFY_SOCKET")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// A pipe that has no room left, and how many bytes are in it.
pub fn full_pipe() -> Result<(std::io::PipeReader, std::io::PipeWriter, usize)> {
    let (reader, writer) = std::io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096))?;
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut filled = 0;
    while let Ok(n) = nix::unistd::write(&writer, &[b'.'; 4096]) {
        filled += n;
    }
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok((reader, writer, filled))
}

/// Reads a pipe to its end, in a thread.
pub fn collect(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // Only what arrived until then counts.
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

pub fn signal(child: &Child, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(child.id() as i32), signal)?)
}

/// Sessions over loopback inside a namespace, of either family.
pub fn sessions(ns: &Netns, count: usize) -> Result<()> {
    ns.inside(|| {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host)?;
            let at = listener.local_addr()?;
            for _ in 0..count.div_ceil(2) {
                let client = TcpStream::connect(at)?;
                let (server, _) = listener.accept()?;
                drop(client);
                drop(server);
            }
        }
        Ok(())
    })?;
    ns.quiet()
}

/// JSON lines, of which each must be whole.
pub fn records(text: &str) -> Result<Vec<Value>> {
    ensure!(text.is_empty() || text.ends_with('\n'), "a line is cut");
    let parse = |line: &str| serde_json::from_str(line).with_context(|| line.to_owned());
    text.lines().map(parse).collect()
}

pub fn kill_at_last(mut child: Child) -> Result<std::process::ExitStatus> {
    wait::exit_of(&mut child, SOON).or_else(|error| {
        child.kill()?;
        child.wait()?;
        Err(error)
    })
}

/// Waits until something is there.
pub fn until_exists(path: &std::path::Path) -> Result<()> {
    wait::until("a file", PATIENCE, || Ok(path.exists().then_some(())))
}

/// How many bytes a pipe holds.
fn held(pipe: &impl AsFd) -> Result<i32> {
    let mut bytes = 0;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&pipe.as_fd());
    // SAFETY: FIONREAD writes an int, which lives.
    let ret = unsafe { nix::libc::ioctl(fd, nix::libc::FIONREAD, &raw mut bytes) };
    ensure!(ret == 0, "{}", std::io::Error::last_os_error());
    Ok(bytes)
}
