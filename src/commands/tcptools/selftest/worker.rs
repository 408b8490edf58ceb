// SPDX-License-Identifier: MIT OR Apache-2.0
//! The process that makes the traffic, as the one that compares sees it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::isolation;
use super::truth::Truth;

/// Its traffic takes some six seconds.
const LONGEST: Duration = Duration::from_secs(60);

/// Running, or ended.
pub(super) struct Worker {
    process: Child,
    go: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
    netns: u64,
    begun: Option<Instant>,
}

impl Worker {
    /// It waits in its namespace.
    ///
    /// # Errors
    /// A sentence: it may not have one.
    pub(super) fn start() -> Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("tcptools").args(["selftest", "--worker"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: between fork() and exec() it makes system calls only, and allocates nothing.
        unsafe { command.pre_exec(isolation::enter) };
        let why = "cannot make a network namespace for the test (it takes CAP_SYS_ADMIN, or user namespaces for everybody)";
        let mut process = command.spawn().context(why)?;
        let go = process.stdin.take();
        let said = process.stdout.take().context("no standard output")?;
        let mut worker = Self {
            process,
            go,
            said: BufReader::new(said),
            netns: 0,
            begun: None,
        };
        worker.netns = worker.line()?["netns"].as_u64().context(why)?;
        Ok(worker)
    }

    /// The inode number of its network namespace.
    pub(super) fn netns(&self) -> u64 {
        self.netns
    }

    /// The commands look.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn go(&mut self) -> Result<()> {
        let mut go = self.go.take().context("it has begun")?;
        self.begun = Some(Instant::now());
        Ok(go.write_all(b"\n")?)
    }

    /// It is killed if it takes far too long.
    pub(super) fn has_ended(&mut self) -> bool {
        if self.begun.is_some_and(|begun| begun.elapsed() > LONGEST) {
            let _ = self.process.kill();
        }
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// What it did, and what the kernel counted meanwhile.
    ///
    /// # Errors
    /// It failed.
    pub(super) fn truth(mut self) -> Result<Truth> {
        let truth = self.line();
        let status = self.process.wait()?;
        if !status.success() {
            bail!("the traffic could not be made: {status}");
        }
        Truth::from_json(&truth?).context("the traffic could not be made")
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.said.read_line(&mut line)?;
        serde_json::from_str(&line).context("the process that makes the traffic failed")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends when nobody says go.
        drop(self.go.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
