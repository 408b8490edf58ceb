// SPDX-License-Identifier: MIT OR Apache-2.0
//! The near side of an agent: a process in a namespace that a test drives step by step (see `agent`).

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::libc;

use crate::{missing::Missing, net::Netns};

/// A socket process. Dropped, it dies, and its forked children with it.
pub struct Agent {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// The process that obeys: the agent, or the child that it forked last.
    pids: Vec<u32>,
}

/// An errno that a system call in an agent returned.
#[derive(Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Agent {
    pub fn spawn(ns: &Netns) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("agent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = ns.enter(&mut command)?.spawn().context("no agent")?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        Ok(Self {
            pids: vec![child.id()],
            child,
            stdin,
            stdout,
        })
    }

    /// The pid of the process that obeys.
    pub fn pid(&self) -> u32 {
        self.pids[self.pids.len() - 1]
    }

    /// Sends a command without waiting, for steps that two agents take at the same time; `finish` takes the answer.
    pub fn begin(&mut self, command: &str) -> Result<()> {
        self.stdin
            .write_all(format!("{command}\n").as_bytes())
            .with_context(|| format!("agent: {command}"))
    }

    /// The answer to the command begun.
    pub fn finish(&mut self) -> Result<std::result::Result<String, Errno>> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        match line.trim_end_matches('\n').split_once(' ') {
            Some(("ok", text)) => Ok(Ok(text.to_owned())),
            Some(("err", errno)) => Ok(Err(Errno(errno.parse()?))),
            _ => bail!(
                "the agent is gone: {:?}, it said {line:?}",
                self.child.try_wait()?
            ),
        }
    }

    /// A command that may fail.
    pub fn attempt(&mut self, command: &str) -> Result<std::result::Result<String, Errno>> {
        self.begin(command)?;
        self.finish().with_context(|| format!("agent: {command}"))
    }

    /// A command that must succeed; its answer.
    pub fn run(&mut self, command: &str) -> Result<String> {
        match self.attempt(command)? {
            Ok(text) => Ok(text),
            Err(Errno(errno)) => bail!(
                "agent: {command}: {}",
                std::io::Error::from_raw_os_error(errno)
            ),
        }
    }

    /// A command that must fail in this way.
    pub fn fails(&mut self, command: &str, errno: i32) -> Result<()> {
        match self.attempt(command)? {
            Err(Errno(got)) if got == errno => Ok(()),
            other => bail!("agent: {command}: expected errno {errno}, got {other:?}"),
        }
    }

    /// A command whose answer is a number: a descriptor, a cookie, a count.
    pub fn number(&mut self, command: &str) -> Result<u64> {
        let text = self.run(command)?;
        text.parse()
            .with_context(|| format!("agent: {command}: {text}"))
    }

    /// A new listening socket at the address (port 0: any), and where it listens.
    pub fn listen(&mut self, at: &str) -> Result<(u64, String)> {
        let fd = self.open(at)?;
        self.run(&format!("bind {fd} {at}"))?;
        self.run(&format!("listen {fd} 128"))?;
        Ok((fd, self.run(&format!("local {fd}"))?))
    }

    /// A new socket of the family of an address.
    pub fn open(&mut self, like: &str) -> Result<u64> {
        self.number(if like.starts_with('[') {
            "socket 6"
        } else {
            "socket 4"
        })
    }

    /// `setsockopt` of an integer.
    pub fn option(&mut self, fd: u64, level: i32, name: i32, value: i32) -> Result<()> {
        self.run(&format!("option {fd} {level} {name} {value}"))
            .map(drop)
    }

    /// `TCP_INFO`, by the names of `ss -ti` where these tell.
    pub fn info(&mut self, fd: u64) -> Result<HashMap<String, u64>> {
        let text = self.run(&format!("info {fd}"))?;
        text.split(' ')
            .map(|field| {
                let (name, value) = field.split_once('=').context("name=value")?;
                Ok((name.to_owned(), value.parse()?))
            })
            .collect()
    }

    /// Renames the process (its main thread).
    pub fn comm(&mut self, name: &str) -> Result<()> {
        self.run(&format!("comm {}", hex(name))).map(drop)
    }

    /// Runs a command in a thread that has a name of its own.
    pub fn in_thread(&mut self, name: &str, command: &str) -> Result<String> {
        self.run(&format!("thread {} {command}", hex(name)))
    }

    /// Forks: the child obeys until `exit`. The parent closes these descriptors, which the child keeps.
    pub fn fork(&mut self, keep: &[u64]) -> Result<u32> {
        let list: String = keep.iter().fold(String::new(), |mut list, fd| {
            let _ = write!(list, " {fd}");
            list
        });
        let pid = self.number(&format!("fork{list}"))? as u32;
        self.pids.push(pid);
        Ok(pid)
    }

    /// A child that has all descriptors, a lower PID, and nothing to do. It can be told that it was started later.
    pub fn fork_below(&mut self) -> Result<u32> {
        /// More than the unit of start times (src/bpf/common/kernel/process.bpf.h: START_UNIT), and than a tick.
        const APART: Duration = Duration::from_millis(40);
        thread::sleep(APART);
        match self.attempt("fork_below")? {
            Ok(pid) => Ok(pid.parse()?),
            Err(Errno(libc::E2BIG | libc::ENOSYS)) => {
                Err(Missing::Feature("children of a chosen PID (Linux 5.5)").into())
            }
            Err(Errno(errno)) => Err(std::io::Error::from_raw_os_error(errno).into()),
        }
    }

    /// Forks, and ends: the child obeys from now on, with all descriptors, and nobody waits for the parent yet.
    pub fn daemonise(&mut self) -> Result<u32> {
        let pid = self.number("daemonise")? as u32;
        self.pids = vec![pid];
        Ok(pid)
    }

    /// Ends the forked child that obeys; its parent is back. All the child's descriptors are closed when this returns.
    pub fn exit_child(&mut self) -> Result<()> {
        self.run("exit")?;
        self.pids.pop();
        Ok(())
    }

    /// Ends the process as SIGKILL does; all its descriptors are closed when this returns.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Already dead, perhaps.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
