// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rights of a process and its threads, and waiting for them to be few.

use std::{
    fs,
    io::ErrorKind::ExecutableFileBusy,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    environment::capabilities::{BPF, SYS_ADMIN},
    procfs,
    wait::{self, PATIENCE, until},
};

/// What a thread may, as far as root's is concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Rights {
    /// Real, effective, saved, of the file system.
    pub uids: [u32; 4],
    pub gids: [u32; 4],
    pub groups: String,
    pub permitted: u64,
    pub effective: u64,
    /// What a program of root's could have.
    pub bounding: u64,
}

impl Rights {
    pub fn of(uid: u32, gid: u32) -> Self {
        Self {
            uids: [uid; 4],
            gids: [gid; 4],
            groups: String::new(),
            permitted: 0,
            effective: 0,
            bounding: 0,
        }
    }

    /// Root can be taken up again.
    pub fn saving_root(mut self) -> Self {
        (self.uids[2], self.gids[2]) = (0, 0);
        self
    }

    pub fn permitting(mut self, capability: u64) -> Self {
        self.permitted = capability;
        self
    }

    /// From `/proc/PID/status`; `None` as long as there are ways to more.
    fn read(status: &str) -> Result<Option<Self>> {
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim().to_owned()
        };
        let ids = |key| -> Result<[u32; 4]> {
            let ids: Result<Vec<u32>, _> = value(key).split_whitespace().map(str::parse).collect();
            ids?.try_into().ok().context("four ids")
        };
        let set = |key| u64::from_str_radix(&value(key), 16);
        let rights = Self {
            uids: ids("Uid:")?,
            gids: ids("Gid:")?,
            groups: value("Groups:"),
            permitted: set("CapPrm:")?,
            effective: set("CapEff:")?,
            bounding: set("CapBnd:")?,
        };
        let over = set("CapInh:")? | set("CapAmb:")? == 0 && value("NoNewPrivs:") == "1";
        Ok(over.then_some(rights))
    }

    /// Whether that is all; before Linux 5.19 bpf(2) refuses everything without CAP_BPF.
    pub fn is(&self, wanted: &Self) -> bool {
        let mut counted = self.clone();
        counted.permitted &= !(BPF | SYS_ADMIN);
        counted.effective &= !(BPF | SYS_ADMIN);
        counted == *wanted
    }
}

/// A command at work.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command, args: &[&str]) -> Result<Self> {
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        loop {
            // A file that was just written may still be open in another test's child.
            match command.spawn() {
                Err(e) if e.kind() == ExecutableFileBusy => {}
                child => return Ok(Self(child?)),
            }
        }
    }

    /// Waits until its first thread has these rights, and every other one none but the user.
    pub fn until_left(&self, wanted: &Rights) -> Result<()> {
        let mut last = Vec::new();
        let mut others = Rights::of(wanted.uids[0], wanted.gids[0]);
        others.bounding = wanted.bounding;
        let left = until("rights to be dropped", PATIENCE, || {
            last = threads(self.0.id())?;
            let (first, rest) = last.split_first().context("no thread")?;
            let is =
                |rights: &Option<Rights>, wanted| rights.as_ref().is_some_and(|r| r.is(wanted));
            let left = is(first, wanted) && !rest.is_empty();
            Ok((left && rest.iter().all(|thread| is(thread, &others))).then_some(()))
        });
        left.with_context(|| format!("{last:?}, not {wanted:?}"))
    }

    /// Ends it; what it said.
    pub fn stop(mut self) -> Result<String> {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM)?;
        let status = wait::exit_of(&mut self.0, PATIENCE)?;
        let said = std::io::read_to_string(self.0.stderr.take().context("no stderr")?)?;
        ensure!(status.success(), "{status}: {said}");
        Ok(said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already over, perhaps.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of each thread, the first one first.
pub fn threads(process: u32) -> Result<Vec<Option<Rights>>> {
    let read = |thread: &Path| {
        let id = thread.file_name().and_then(|id| id.to_str()?.parse().ok());
        let id: u32 = id.expect("a number");
        Ok((id, fs::read_to_string(thread.join("status"))?))
    };
    let mut all = procfs::each(&format!("/proc/{process}/task"), read)?;
    all.sort_by_key(|(id, _)| (*id != process, *id));
    all.iter().map(|(_, status)| Rights::read(status)).collect()
}
