// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that the user named: nothing is followed, overwritten or removed but what the run has made, and none is waited
//! for.

use std::os::unix::process::CommandExt;
use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{sys::stat::Mode, unistd::mkfifo};

use super::{collect, command, kill_at_last};
use crate::{environment::capabilities, scratch::Scratch, tools, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("cli_contract::files::ready_file", || {
            named("tcplife", "--ready-file")
        }),
        trial(
            "cli_contract::files::ready_file_records",
            ready_without_types,
        ),
        trial("cli_contract::files::plot", || named("tcpprobe", "--plot")),
        trial("cli_contract::files::plot_replaces", plot_replaces),
        trial(
            "cli_contract::files::plot_of_a_failed_run",
            plot_of_a_failed_run,
        ),
        trial("cli_contract::files::btf", btf),
        trial("cli_contract::files::as_the_user", as_the_user),
    ]
}

/// A directory that goes with the test, and what is in it.
struct Directory(PathBuf);

impl Directory {
    fn new(stem: &str) -> Result<Self> {
        let path = Scratch::path(stem).to_path_buf();
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.0)?;
        let name = |e: std::io::Result<fs::DirEntry>| Ok(e?.file_name().to_string_lossy().into());
        let mut names = entries.map(name).collect::<Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs it to its end; returns its exit code and messages.
fn run(features: &str, tool: &str, args: &[&str]) -> Result<(Option<i32>, String)> {
    let mut child = command(features, tool, args)
        .stderr(Stdio::piped())
        .spawn()?;
    let said = collect(child.stderr.take().context("no stderr")?);
    let status = kill_at_last(child)?;
    Ok((status.code(), said.join().expect("no panic")))
}

fn fifo(path: impl AsRef<Path>) -> Result<()> {
    Ok(mkfifo(path.as_ref(), Mode::from_bits_truncate(0o600))?)
}

/// What must not be followed, waited for or written to is refused in a sentence, and is as before.
fn named(tool: &str, flag: &str) -> Result<()> {
    refuses("", tool, flag)
}

fn ready_without_types() -> Result<()> {
    refuses("btf,ringbuf", "tcpconnect", "--ready-file")
}

fn refuses(features: &str, tool: &str, flag: &str) -> Result<()> {
    let dir = Directory::new("named")?;
    fs::write(dir.path("victim"), "root:x:0:0\n")?;
    symlink("victim", dir.path("link"))?;
    symlink("nowhere", dir.path("dangling"))?;
    fifo(dir.path("fifo"))?;
    let before = dir.names()?;
    let absent = "/dev/null";
    for (path, code, what) in [
        (dir.path("link"), 2, "symbolic link"),
        (dir.path("dangling"), 2, "symbolic link"),
        (dir.path("fifo"), 2, "a FIFO"),
        (dir.path(""), 2, "is not a file name"),
        (dir.0.display().to_string(), 2, "a directory"),
        (absent.into(), 2, "a device"),
        (dir.path("none/file"), 1, "No such file"),
        (String::new(), 2, "needs a value"),
    ] {
        let (status, said) = run(features, tool, &["--duration", "100ms", flag, &path])?;
        ensure!(status == Some(code), "{path}: {status:?} {said}");
        let sentence = said.lines().last().unwrap_or_default();
        ensure!(
            sentence.contains(flag) && sentence.contains(what),
            "{path}: {said}"
        );
    }
    ensure!(dir.names()? == before, "{:?}", dir.names()?);
    ensure!(fs::read_to_string(dir.path("victim"))? == "root:x:0:0\n");
    Ok(())
}

/// A file of that name is replaced, not written to: another name of it keeps the content. Nothing is left beside it.
fn plot_replaces() -> Result<()> {
    let dir = Directory::new("replaces")?;
    fs::write(dir.path("old.svg"), "keep me")?;
    fs::hard_link(dir.path("old.svg"), dir.path("other"))?;
    for name in ["old.svg", "new.svg"] {
        let (status, said) = run(
            "",
            "tcpprobe",
            &["--duration", "100ms", "--plot", &dir.path(name)],
        )?;
        ensure!(status == Some(0), "{said}");
        ensure!(
            fs::read_to_string(dir.path(name))?.starts_with("<svg"),
            "{name}"
        );
    }
    ensure!(fs::read_to_string(dir.path("other"))? == "keep me");
    ensure!(
        dir.names()? == ["new.svg", "old.svg", "other"],
        "{:?}",
        dir.names()?
    );
    Ok(())
}

/// A run that fails leaves what was there, empty or not, and nothing else.
fn plot_of_a_failed_run() -> Result<()> {
    let dir = Directory::new("failed")?;
    File::create(dir.path("empty"))?;
    for name in ["empty", "none"] {
        let ready = dir.path("nowhere/ready");
        let args = ["--plot", &dir.path(name), "--ready-file", &ready];
        let (status, said) = run("", "tcpprobe", &args)?;
        ensure!(status == Some(1), "{said}");
    }
    ensure!(dir.names()? == ["empty"], "{:?}", dir.names()?);
    Ok(())
}

/// Every command looks at type information, and none waits for it or reads without an end.
fn btf() -> Result<()> {
    let dir = Directory::new("btf")?;
    fifo(dir.path("fifo"))?;
    let sparse = |name: &str, begin: &[u8], bytes: u64| -> Result<()> {
        fs::write(dir.path(name), begin)?;
        Ok(File::options()
            .write(true)
            .open(dir.path(name))?
            .set_len(bytes)?)
    };
    sparse("elf", b"\x7fELF", 100 << 30)?;
    let btf = fs::read("/sys/kernel/btf/vmlinux")?;
    sparse("raw", &btf[..24], 2 << 30)?;
    let paths = [
        (dir.path("fifo"), "a FIFO, not a regular file"),
        (dir.path("elf"), "larger than"),
        (dir.path("raw"), "larger than"),
        ("/dev/zero".into(), "a device, not a regular file"),
    ];
    for (tool, (path, what)) in tools::here().zip(paths.iter().cycle()) {
        for features in ["", "btf"] {
            let (status, said) = run(features, tool, &["--btf", path, "--duration", "100ms"])?;
            ensure!(
                status == Some(2) && said.contains(what),
                "{tool} {path}: {said}"
            );
        }
    }
    Ok(())
}

/// A command with file capabilities makes no file where its user may not.
fn as_the_user() -> Result<()> {
    let dir = Directory::new("user")?;
    fs::set_permissions(&dir.0, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    // CAP_DAC_OVERRIDE, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF.
    let all = [1, 12, 19, 21, 38, 39].map(|bit| 1u64 << bit);
    let copy = capabilities::tcplife_with(all.into_iter().sum())?;
    // Only root may write there; CAP_DAC_OVERRIDE could.
    let place = dir.path("ready");
    let mut command = std::process::Command::new(copy.tcplife());
    command
        .args(["--duration", "100ms", "--ready-file", &place])
        .uid(capabilities::NOBODY)
        .gid(capabilities::NOBODY)
        .stdin(Stdio::null());
    // A file that was just written may still be open in another test's child.
    let output = loop {
        match command.output() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
            output => break output?,
        }
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1)
            && said.contains("--ready-file: cannot write")
            && said.contains("Permission denied"),
        "{} {said}",
        output.status
    );
    ensure!(!Path::new(&place).exists());
    Ok(())
}
