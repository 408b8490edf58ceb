// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where rows and messages go to refuses them: a full disk, an error of the device, a description that its owner has set
//! to O_NONBLOCK, no descriptor at all. What is expected: a run whose rows cannot be written ends at once with exit status
//! 1 and one sentence that says why and how many; rows that were written are whole; standard error is not needed.

use std::{
    fs::{self, File},
    io::{PipeReader, PipeWriter, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    mount::{MntFlags, MsFlags, mount, umount2},
    pty::openpty,
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
    unistd,
};

use crate::{
    cli_contract::{collect, command, kill_at_last, records, sessions, signal, until_exists},
    missing::needs_tracepoint_of,
    net::Netns,
    scratch::{Folder, Scratch},
    tools, trial, unseen,
};

pub fn tests() -> Vec<Trial> {
    let mut all = Vec::new();
    for tool in tools::ALL {
        let name = |what: &str| format!("faults::outputs::{what}_{tool}");
        all.push(trial(name("full"), move || full(tool)));
        all.push(trial(name("no_descriptors"), move || {
            no_descriptors(tool, &[0, 1, 2])
        }));
    }
    all.extend([
        trial("faults::outputs::broken_device", broken_device),
        trial("faults::outputs::hung_up_terminal", hung_up),
        trial("faults::outputs::full_standard_error", full_stderr),
        trial("faults::outputs::full_tmpfs", full_tmpfs),
        trial("faults::outputs::nonblocking_pipe", nonblocking_pipe),
        trial("faults::outputs::nonblocking_socket", nonblocking_socket),
        trial("faults::outputs::some_descriptors", some_descriptors),
    ]);
    all
}

/// Runs it for a moment; its exit code and what it says.
fn run(tool: &str, stdout: impl Into<Stdio>) -> Result<(Option<i32>, String)> {
    needs_tracepoint_of(tool)?;
    let mut args = vec!["--duration", "200ms"];
    if tool == "tcptop" {
        args.extend(["-i", "100ms"]);
    }
    let mut child = command("", tool, &args)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()?;
    let said = collect(child.stderr.take().context("no stderr")?);
    let status = kill_at_last(child)?;
    Ok((status.code(), said.join().expect("no panic")))
}

fn refuses(tool: &str, file: &str, why: &str) -> Result<()> {
    let (code, said) = run(tool, File::options().write(true).open(file)?)?;
    let sentence = format!("{tool}: cannot write rows: {why}; ");
    let last = said.lines().last().unwrap_or_default();
    ensure!(code == Some(1) && last.starts_with(&sentence), "{said}");
    ensure!(said.matches("cannot").count() == 1, "{said}");
    Ok(())
}

/// ENOSPC.
fn full(tool: &str) -> Result<()> {
    refuses(tool, "/dev/full", "No space left on device")
}

/// EIO: nothing is mapped at the beginning of this process's memory (`fs/proc/base.c`: `mem_rw`).
fn broken_device() -> Result<()> {
    for tool in ["tcplife", "tcptop", "sockbuf"] {
        refuses(tool, "/proc/self/mem", "I/O error")?;
    }
    Ok(())
}

/// A terminal whose other end is closed has no reader any more.
fn hung_up() -> Result<()> {
    for tool in ["tcplife", "tcptop"] {
        let pty = openpty(None, None)?;
        drop(pty.master);
        let (code, said) = run(tool, pty.slave)?;
        ensure!(
            code == Some(0) && unseen::said_else(&said).is_empty(),
            "{code:?} {said}"
        );
    }
    Ok(())
}

/// Messages that find no room are counted, and stop no row.
fn full_stderr() -> Result<()> {
    let output = command("", "tcplife", &["--json", "--stats", "--duration", "100ms"])
        .stdout(Stdio::piped())
        .stderr(File::options().write(true).open("/dev/full")?)
        .spawn()?
        .wait_with_output()?;
    ensure!(output.status.success(), "{}", output.status);
    let records = records(&String::from_utf8(output.stdout)?)?;
    let summary = records.last().context("no summary")?;
    ensure!(summary["messages_lost"].as_u64() >= Some(1), "{summary}");
    Ok(())
}

/// A file in a file system of this size, of which nobody else has a name.
fn file_of(kib: usize) -> Result<File> {
    let folder = Folder::new("tmpfs")?;
    let mounted = || -> Result<File> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let size = format!("size={kib}k");
        let (kind, flags) = (Some("tmpfs"), MsFlags::empty());
        mount(kind, &*folder, kind, flags, Some(size.as_str()))?;
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(folder.join("rows"))?;
        umount2(&*folder, MntFlags::MNT_DETACH)?;
        Ok(file)
    };
    thread::scope(|scope| scope.spawn(mounted).join()).expect("no panic")
}

/// Rows in the file and rows that the message counts are all rows; the last one in the file is whole.
fn full_tmpfs() -> Result<()> {
    let quiet = Netns::new()?;
    let ready = Scratch::path("ready");
    let netns = quiet.inode.to_string();
    let args = ["--json", "--netns", &netns, "--ready-file", ready.text()];
    let file = file_of(32)?;
    let mut child = command("", "tcpstates", &args)
        .stdout(file.try_clone()?)
        .stderr(Stdio::piped())
        .spawn()?;
    let said = collect(child.stderr.take().context("no stderr")?);
    until_exists(&ready)?;
    // All in one go.
    signal(&child, Signal::SIGSTOP)?;
    sessions(&quiet, 20)?;
    signal(&child, Signal::SIGCONT)?;
    ensure!(kill_at_last(child)?.code() == Some(1));
    let said = said.join().expect("no panic");
    let number = said.rsplit("; ").next();
    let number = number.and_then(|t| t.split(' ').next()?.parse::<usize>().ok());
    let number = number.with_context(|| said.clone())?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let written = records(&fs::read_to_string(path)?)?.len();
    // Twenty sessions have five changes at either end, and two listeners two each.
    let all = written + number;
    ensure!(
        written > 10 && (200..=204).contains(&all),
        "{written} rows, {said}"
    );
    Ok(())
}

/// Reads slowly, to the end.
fn slowly(mut from: impl Read) -> Result<String> {
    let (mut text, mut chunk) = (Vec::new(), [0; 3000]);
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(String::from_utf8(text)?),
            n => text.extend_from_slice(chunk.get(..n).context("as many")?),
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// EAGAIN: all rows come, and the caller's flag stays.
fn nonblocking(stdout: OwnedFd, reader: impl Read) -> Result<()> {
    let quiet = Netns::new()?;
    let ready = Scratch::path("ready");
    let flags = fcntl(&stdout, FcntlArg::F_GETFL)?;
    let nonblocking = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(&stdout, FcntlArg::F_SETFL(nonblocking))?;
    let netns = quiet.inode.to_string();
    let args = ["--json", "--netns", &netns, "--ready-file", ready.text()];
    let own = stdout.try_clone()?;
    let child = command("", "tcpstates", &args).stdout(stdout).spawn()?;
    until_exists(&ready)?;
    sessions(&quiet, 40)?;
    signal(&child, Signal::SIGTERM)?;
    ensure!(fcntl(&own, FcntlArg::F_GETFL)? == nonblocking.bits());
    drop(own);
    let records = records(&slowly(reader)?)?;
    let status = kill_at_last(child)?;
    ensure!(status.success(), "{status}");
    let summary = records.last().context("nothing")?;
    ensure!(summary["event"] == "summary", "{summary}");
    ensure!(summary["events"] == records.len() - 1, "{summary}");
    ensure!(records.len() > 400, "{summary}");
    Ok(())
}

fn nonblocking_pipe() -> Result<()> {
    let (reader, writer): (PipeReader, PipeWriter) = std::io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096))?;
    nonblocking(writer.into(), reader)
}

fn nonblocking_socket() -> Result<()> {
    let (reader, writer) = UnixStream::pair()?;
    let small = 4096usize;
    nix::sys::socket::setsockopt(&writer.as_fd(), nix::sys::socket::sockopt::SndBuf, &small)?;
    nonblocking(writer.into(), reader)
}

/// Closed descriptors: what the command opens does not come to be its standard output or standard error. `rows`: those
/// that are not closed go into a pipe, in which they are whole.
fn no_descriptors(tool: &str, closed: &'static [i32]) -> Result<()> {
    needs_tracepoint_of(tool)?;
    let mut command = command("", tool, &["--json", "--duration", "100ms"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: closes descriptors of the forked process, which it does not use before exec.
    unsafe {
        command.pre_exec(move || {
            closed
                .iter()
                .try_for_each(|fd| unistd::close(*fd))
                .map_err(Into::into)
        });
    }
    let output = command.spawn()?.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(0), "{}: {said}", output.status);
    ensure!(unseen::said_else(&said).is_empty(), "{said}");
    let records = records(std::str::from_utf8(&output.stdout)?)?;
    ensure!(records.is_empty() == closed.contains(&1), "{records:?}");
    Ok(())
}

fn some_descriptors() -> Result<()> {
    for closed in [&[0][..], &[1], &[2], &[0, 1], &[0, 2], &[1, 2]] {
        no_descriptors("tcplife", closed).with_context(|| format!("{closed:?}"))?;
    }
    Ok(())
}
