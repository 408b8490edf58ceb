// SPDX-License-Identifier: MIT OR Apache-2.0
//! Servers and their benchmarks: found, started in a namespace, stopped.

use std::{
    env, fs,
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::{
        prctl,
        signal::{SigHandler, Signal, kill, killpg, signal},
    },
    unistd::{Gid, Pid, Uid, setgid, setgroups, setuid},
};

use crate::{
    missing::Missing,
    net::Netns,
    wait::{self, PATIENCE},
};

/// Where a program is, of this package of Debian's. PostgreSQL's lie in a directory of their release, and what has their
/// names in PATH is a script that starts them.
pub fn find(package: &'static str, name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let releases = glob::glob("/usr/lib/postgresql/*/bin")?.filter_map(Result::ok);
    let folders = releases
        .chain(env::split_paths(&path))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    let mut places = folders.map(|folder| folder.join(name));
    let found = places.find(|place| place.is_file());
    found.ok_or_else(|| Missing::Package(package).into())
}

/// A user who may do nothing else, for servers that refuse to run as root.
pub const NOBODY: u32 = 65534;

/// To all of them: stop now, and your workers before you. After SIGKILL these would stay.
const STOP: Signal = Signal::SIGINT;

/// A program that runs in a namespace, with its output in a file. It ends with the test, and so do its children.
pub struct Program {
    child: Child,
    output: PathBuf,
}

impl Program {
    pub fn start(ns: &Netns, command: &mut Command, output: PathBuf) -> Result<Self> {
        Self::start_as(ns, Uid::effective().as_raw(), command, output)
    }

    /// As this user, once it is in the namespace.
    pub fn start_as(ns: &Netns, user: u32, command: &mut Command, output: PathBuf) -> Result<Self> {
        let file = File::create(&output)?;
        command
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file)
            .process_group(0);
        ns.enter(command)?;
        let settle = move || {
            if user != 0 {
                setgroups(&[])?;
                setgid(Gid::from_raw(user))?;
                setuid(Uid::from_raw(user))?;
            }
            prctl::set_pdeathsig(STOP)?;
            // A shell has its background jobs ignore SIGINT, and what they start.
            // SAFETY: no handler is set, but the default.
            unsafe { signal(STOP, SigHandler::SigDfl) }?;
            Ok(())
        };
        // SAFETY: between fork and exec only system calls, of functions that are async-signal-safe.
        unsafe { command.pre_exec(settle) };
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Self { child, output })
    }

    pub fn pid(&self) -> u64 {
        self.child.id().into()
    }

    /// Its workers, once there are so many.
    pub fn children(&self, count: usize) -> Result<Vec<u64>> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        wait::until("workers", PATIENCE, || {
            let text = fs::read_to_string(&path)?;
            let pids: Vec<_> = text
                .split_whitespace()
                .map(str::parse)
                .collect::<Result<_, _>>()?;
            Ok((pids.len() == count).then_some(pids))
        })
    }

    /// What it has printed.
    pub fn output(&self) -> Result<String> {
        read(&self.output)
    }

    /// Waits for the end of one that ends by itself; what it has printed.
    pub fn finish(mut self) -> Result<String> {
        let status = wait::exit_of(&mut self.child, PATIENCE)?;
        let output = self.output()?;
        ensure!(status.success(), "{status}: {output}");
        Ok(output)
    }

    /// Ends it; what it has printed.
    pub fn stop(mut self) -> Result<String> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "{ended:?}: {}", self.output()?);
        kill(Pid::from_raw(self.child.id() as i32), STOP)?;
        wait::exit_of(&mut self.child, PATIENCE)?;
        self.output()
    }

    /// Waits until this holds; it must not end meanwhile.
    pub fn ready(&mut self, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
        let waited = wait::until(what, PATIENCE, || {
            let ended = self.child.try_wait()?;
            ensure!(ended.is_none(), "it ended: {ended:?}");
            Ok(holds()?.then_some(()))
        });
        waited.with_context(|| self.output().unwrap_or_default())
    }
}

/// Waits for a load to end; the ids of its processes.
pub fn finish<const N: usize>(load: [Program; N]) -> Result<[u64; N]> {
    let pids = load.each_ref().map(Program::pid);
    for program in load {
        program.finish()?;
    }
    Ok(pids)
}

impl Drop for Program {
    fn drop(&mut self) {
        // Already over, perhaps.
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let pid = Pid::from_raw(self.child.id() as i32);
            let _ = kill(pid, STOP);
            let _ = wait::exit_of(&mut self.child, Duration::from_secs(2));
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// A log, whatever bytes are in it.
pub fn read(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
