// SPDX-License-Identifier: MIT OR Apache-2.0
//! Limits that `environment::refusals` does not have: locked memory, the memory of a cgroup. What is expected: a command
//! runs, or ends with exit status 1 and one sentence that names the limit; only the kernel's OOM killer may end it
//! otherwise; and nothing stays in the kernel.

use std::{
    fs,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::Output,
    thread,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    libc,
    sys::resource::{Resource, setrlimit},
};

use crate::{cgroups, cli_contract::command, missing::Missing, scratch::Scratch, tools, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("faults::limits::locked_memory", locked_memory),
        trial("faults::limits::memory_of_a_cgroup", memory_of_a_cgroup),
        trial("faults::limits::memory_for_a_buffer", memory_for_a_buffer),
    ]
}

/// One sentence about a limit, or success.
fn is_fine(tool: &str, output: &Output, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    let shown = format!("{tool}: {}: {said}", output.status);
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) => {
            let last = said.lines().last().unwrap_or_default();
            ensure!(last.starts_with(&format!("{tool}: ")), "{shown}");
            ensure!(words.iter().any(|word| last.contains(word)), "{shown}");
            Ok(())
        }
        _ => {
            let killed = output.status.signal() == Some(libc::SIGKILL);
            ensure!(killed && words.contains(&"memory"), "{shown}");
            Ok(())
        }
    }
}

/// RLIMIT_MEMLOCK of 0, for programs of its own and for records: since 5.11 it does not count for BPF.
fn locked_memory() -> Result<()> {
    let before_5_11 = !crate::missing::stores();
    for tool in tools::here() {
        for without in ["", "btf,ringbuf"] {
            // Perf buffers are the one thing that locks memory: two commands are enough to try them.
            if !without.is_empty() && !["tcplife", "sockbuf"].contains(&tool) {
                continue;
            }
            let mut command = command(without, tool, &["--duration", "1ms"]);
            command.stderr(std::process::Stdio::piped());
            // SAFETY: a system call that changes the forked process only.
            unsafe { command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_MEMLOCK, 0, 0)?)) };
            let output = command.spawn()?.wait_with_output()?;
            is_fine(tool, &output, &["memlock", "ulimit -l"])?;
            ensure!(before_5_11 || output.status.success(), "{tool}: {output:?}");
        }
    }
    Ok(())
}

/// A cgroup with so much memory, of either hierarchy; removed at the end.
struct Small(PathBuf);

impl Small {
    fn new(mib: u64) -> Result<Self> {
        let name = Scratch::path("small");
        let name = name.file_name().context("a name")?;
        let old = Path::new("/sys/fs/cgroup/memory");
        let (parent, limit) = match old.join("memory.limit_in_bytes").exists() {
            true => (old.to_owned(), "memory.limit_in_bytes"),
            false => (PathBuf::from(cgroups::root()?), "memory.max"),
        };
        let small = Self(parent.join(name));
        fs::create_dir(&small.0)?;
        match fs::write(small.0.join(limit), (mib << 20).to_string()) {
            Ok(()) => Ok(small),
            // Only where the parent delegates the controller.
            Err(_) => Err(Missing::Feature("a memory controller for new cgroups").into()),
        }
    }

    fn run(&self, tool: &str, args: &[&str]) -> Result<Output> {
        let mut command = command("", tool, &[&["--duration", "1ms"], args].concat());
        command.stderr(std::process::Stdio::piped());
        let procs = self.0.join("cgroup.procs");
        // SAFETY: opens and writes a file, in the forked process.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
        Ok(command.spawn()?.wait_with_output()?)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The last process has just gone; what it had charged goes later, and does not keep the directory.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// From too little to begin with to enough.
fn memory_of_a_cgroup() -> Result<()> {
    for mib in [2, 5, 9, 12, 16, 24] {
        let small = Small::new(mib)?;
        for tool in ["tcplife", "tcptop"] {
            let output = small.run(tool, &[])?;
            is_fine(tool, &output, &["memory"]).with_context(|| format!("{mib} MiB"))?;
        }
    }
    let enough = Small::new(128)?;
    ensure!(enough.run("tcplife", &[])?.status.success());
    Ok(())
}

/// The kernel refuses a buffer that is too large for the cgroup, and nothing is killed for it.
fn memory_for_a_buffer() -> Result<()> {
    let small = Small::new(32)?;
    for tool in tools::here() {
        let output = small.run(tool, &["--buffer", "131072"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{tool}: {output:?}");
        ensure!(
            said.lines().count() == 1 && said.contains("memory.max") && said.contains("--buffer"),
            "{tool}: {said}"
        );
    }
    Ok(())
}
