// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files that are written, and what the environment can do to a command with file capabilities. `--ready-file` and
//! `--plot` are in `cli_contract::files`; here are the files of `tcptools record` and `export`. What is expected: nothing
//! is followed, waited for, or written to but a new file; variables that a user sets open no file.

use std::{
    fs, io,
    os::unix::{fs::symlink, net::UnixListener, process::CommandExt},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{
    cli_contract::{SOON, collect, command, kill_at_last},
    environment::capabilities,
    missing,
    scratch::Folder,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("faults::places::record", || {
            written(&["record", "-d", "1ms", "-o"])
        }),
        trial("faults::places::export", export),
        trial("faults::places::environment", environment),
    ]
}

const VICTIM: &str = "root:x:0:0\n";

fn run(args: &[&str]) -> Result<(Option<i32>, String)> {
    let mut child = command("", "tcptools", args)
        .stderr(Stdio::piped())
        .spawn()?;
    let said = collect(child.stderr.take().context("no stderr")?);
    // It starts a dozen commands.
    let status = wait::exit_of(&mut child, PATIENCE * 3)?;
    Ok((status.code(), said.join().expect("no panic")))
}

/// `args` end with the flag that takes the file's name.
fn written(args: &[&str]) -> Result<()> {
    missing::needs_programs()?;
    let dir = Folder::new("places")?;
    let path = |name: &str| dir.join(name).to_string_lossy().into_owned();
    fs::write(path("victim"), VICTIM)?;
    symlink("victim", path("link"))?;
    symlink("nowhere", path("dangling"))?;
    symlink(".", path("to_directory"))?;
    fs::hard_link(path("victim"), path("other_name"))?;
    mkfifo(path("fifo").as_str(), Mode::from_bits_truncate(0o600))?;
    let _socket = UnixListener::bind(path("socket"))?;
    for name in [
        "link",
        "dangling",
        "to_directory",
        "fifo",
        "socket",
        "",
        "none/file",
    ] {
        let (code, said) = run(&[args, &[&path(name)]].concat())?;
        ensure!(matches!(code, Some(1 | 2)), "{name}: {code:?} {said}");
        ensure!(said.lines().count() == 1, "{name}: {said}");
        ensure!(said.starts_with("tcptools: "), "{name}: {said}");
        ensure!(fs::read_to_string(path("victim"))? == VICTIM, "{name}");
        ensure!(!dir.join("nowhere").exists(), "{name}");
    }
    ensure!(fs::read_dir(&*dir)?.count() == 7, "something is left");
    let (code, said) = run(&[args, &["/dev/full"]].concat())?;
    ensure!(code == Some(2) && said.contains("a device"), "{said}");
    // One name gets a new file, or none; the other keeps what is in it.
    run(&[args, &[&path("other_name")]].concat())?;
    ensure!(fs::read_to_string(path("victim"))? == VICTIM);
    ensure!(fs::read_dir(&*dir)?.count() == 7, "something is left");
    Ok(())
}

fn export() -> Result<()> {
    missing::needs_programs()?;
    let dir = Folder::new("recording")?;
    let file = dir.join("rows.jsonl").to_string_lossy().into_owned();
    let (code, said) = run(&["record", "-d", "10ms", "-o", &file])?;
    ensure!(code == Some(0), "{said}");
    written(&["export", "--from", &file, "--perfetto"])
}

/// Whoever opens a FIFO to read it waits, and whoever asks for a library that is none complains.
fn environment() -> Result<()> {
    let dir = Folder::new("environment")?;
    fs::set_permissions(&*dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let fifo = dir.join("zone").to_string_lossy().into_owned();
    mkfifo(fifo.as_str(), Mode::from_bits_truncate(0o666))?;
    let place = dir.text();
    let above = format!("../../../../{fifo}");
    let copy = capabilities::tcplife_with(capabilities::PERFMON | capabilities::BPF)?;
    let zone = format!(":{fifo}");
    for (name, value) in [
        ("TZ", fifo.as_str()),
        ("TZ", &zone),
        ("TZ", &above),
        ("TZDIR", place),
        ("LD_PRELOAD", &fifo),
        ("LD_LIBRARY_PATH", place),
        ("LD_AUDIT", &fifo),
        ("LOCPATH", place),
        ("RES_OPTIONS", "debug"),
        ("HOSTALIASES", &fifo),
        ("LIBBPF_BPF_TOKEN_PATH", &fifo),
        ("TCPTOOLS_WITHOUT", "btf,ringbuf,mmap"),
        ("NOTIFY_SOCKET", &fifo),
        ("HOME", place),
        ("XDG_CONFIG_HOME", place),
        ("TMPDIR", place),
        ("RUST_BACKTRACE", "full"),
        ("SUDO_UID", "0"),
    ] {
        let mut command = Command::new(copy.tcplife());
        command
            .args(["-T", "--no-scan", "--duration", "1ms"])
            .env(name, value)
            .uid(capabilities::NOBODY)
            .gid(capabilities::NOBODY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if name == "TZDIR" {
            command.env("TZ", "zone");
        }
        let child = loop {
            match command.spawn() {
                // A file that was just written may still be open in another test's child.
                Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy => {}
                child => break child?,
            }
        };
        ends(child, name, value)?;
    }
    Ok(())
}

/// It runs as without the variable; a socket for notification that is none is reported.
fn ends(mut child: std::process::Child, name: &str, value: &str) -> Result<()> {
    let said = collect(child.stderr.take().context("no stderr")?);
    let begin = Instant::now();
    let status = kill_at_last(child)?;
    let said = said.join().expect("no panic");
    let shown = format!("{name}={value}: {status}: {said}");
    ensure!(status.code() == Some(0), "{shown}");
    ensure!(begin.elapsed() < SOON, "{shown}");
    let reported = name == "NOTIFY_SOCKET" && said.contains("NOTIFY_SOCKET");
    ensure!(reported || !said.contains(value), "{shown}");
    ensure!(!said.contains("ld.so"), "{shown}");
    Ok(())
}
