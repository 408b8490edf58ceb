// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readers that do not read: they hold up neither `--duration` nor a signal, on any descriptor.

use std::{
    io::Write,
    os::fd::{AsFd, OwnedFd},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    pty::openpty,
    sys::{
        signal::Signal,
        termios::{FlowArg, tcflow},
    },
};

use super::{SOON, collect, command, full_pipe, held, kill_at_last, records, sessions, signal};
use crate::{missing, net::Netns, scratch::Scratch, tools, trial, wait};

/// Each way of running has its own place in the list.
const WITHOUT: [(&str, &str); 4] = [
    ("sockbuf", "btf"),
    ("tcpinfo", "btf,ringbuf,mmap"),
    ("tcplife", "btf"),
    ("tcpstates", "btf,ringbuf,mmap"),
];

pub fn tests() -> Vec<Trial> {
    let with = tools::ALL.iter().map(|tool| (*tool, ""));
    let mut trials: Vec<_> = with
        .chain(WITHOUT)
        .map(|(tool, features)| {
            let how = if features.is_empty() { "" } else { "_records" };
            trial(
                format!("cli_contract::stalled::duration_{tool}{how}"),
                move || duration(tool, features),
            )
        })
        .collect();
    trials.extend([
        trial("cli_contract::stalled::terminal", terminal),
        trial("cli_contract::stalled::socket", socket),
        trial("cli_contract::stalled::both", both),
        trial("cli_contract::stalled::messages", messages),
        trial("cli_contract::stalled::rows", rows),
        trial("cli_contract::stalled::count", count),
    ]);
    trials
}

/// There is not even room for the header, and no reader.
fn duration(tool: &str, features: &str) -> Result<()> {
    missing::needs_tracepoints(tool)?;
    let (_reader, writer, _) = full_pipe()?;
    let (complaints, stderr) = std::io::pipe()?;
    let child = command(features, tool, &["--duration", "200ms"])
        .stdout(writer)
        .stderr(stderr)
        .spawn()?;
    let complaints = collect(complaints);
    let status = kill_at_last(child)?;
    let said = complaints.join().expect("no panic");
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(
        said.lines()
            .last()
            .is_some_and(|line| line.contains("not written")),
        "{said}"
    );
    Ok(())
}

/// Ctrl-S: the terminal is stopped, and the command ends all the same.
fn terminal() -> Result<()> {
    let pty = openpty(None, None)?;
    tcflow(&pty.slave, FlowArg::TCOOFF)?;
    let slave = |fd: &OwnedFd| fd.try_clone();
    let child = command("", "tcplife", &["--duration", "200ms"])
        .stdout(slave(&pty.slave)?)
        .stderr(slave(&pty.slave)?)
        .spawn()?;
    let status = kill_at_last(child)?;
    ensure!(status.code() == Some(1), "{status}");
    Ok(())
}

fn socket() -> Result<()> {
    let (_reader, writer) = std::os::unix::net::UnixStream::pair()?;
    writer.set_nonblocking(true)?;
    while (&writer).write(&[b'.'; 4096]).is_ok() {}
    writer.set_nonblocking(false)?;
    let child = command("", "tcplife", &["--duration", "200ms"])
        .stdout(OwnedFd::from(writer))
        .spawn()?;
    let status = kill_at_last(child)?;
    ensure!(status.code() == Some(1), "{status}");
    Ok(())
}

/// `2>&1 | less`: a message does not wait either, at any moment.
fn both() -> Result<()> {
    let ready = Scratch::path("ready");
    let (_reader, writer, _) = full_pipe()?;
    let args = ["--json", "-v", "--stats", "--ready-file", ready.text()];
    let child = command("", "tcpstates", &args)
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    super::until_exists(&ready)?;
    signal(&child, Signal::SIGTERM)?;
    let begun = Instant::now();
    let status = kill_at_last(child)?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    Ok(())
}

/// Lost messages are counted in the summary.
fn messages() -> Result<()> {
    let (_reader, stderr, filled) = full_pipe()?;
    let output = command("", "tcplife", &["--json", "--stats", "--duration", "100ms"])
        .stdout(std::process::Stdio::piped())
        .stderr(stderr)
        .spawn()?
        .wait_with_output()?;
    ensure!(output.status.success(), "{}", output.status);
    let records = records(&String::from_utf8(output.stdout)?)?;
    let summary = records.last().context("no summary")?;
    ensure!(summary["messages_lost"].as_u64() >= Some(1), "{summary}");
    ensure!(held(&_reader)? == filled as i32, "something was written");
    Ok(())
}

/// Rows beyond a full pipe are counted, and no line is cut.
fn rows() -> Result<()> {
    let quiet = Netns::new()?;
    let ready = Scratch::path("ready");
    let (reader, writer) = std::io::pipe()?;
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096))?;
    let (complaints, stderr) = std::io::pipe()?;
    let netns = quiet.inode.to_string();
    let args = ["--json", "--netns", &netns, "--ready-file", ready.text()];
    let mut child = command("", "tcpstates", &args)
        .stdout(writer)
        .stderr(stderr)
        .spawn()?;
    super::until_exists(&ready)?;
    sessions(&quiet, 20)?;
    // A pipe that has some rows takes no more of up to 4096 bytes than fit as a whole.
    wait::until("rows in the pipe", wait::PATIENCE, || {
        Ok((held(&reader.as_fd())? > 0).then_some(()))
    })?;
    signal(&child, Signal::SIGTERM)?;
    let status = wait::exit_of(&mut child, SOON)?;
    let said = collect(complaints).join().expect("no panic");
    let written = records(&collect(reader).join().expect("no panic"))?.len();
    ensure!(status.code() == Some(1), "{status}: {said}");
    let number = said.split(' ').find_map(|word| word.parse::<usize>().ok());
    let number = number.with_context(|| said.clone())?;
    // Twenty sessions have five changes at either end, and two listeners two each.
    let all = number + written;
    ensure!((200..=204).contains(&all), "{written} rows, {said}");
    Ok(())
}

/// `-n 1 | less`: it must not end before everything is read.
fn count() -> Result<()> {
    let quiet = Netns::new()?;
    let ready = Scratch::path("ready");
    let (reader, writer, filled) = full_pipe()?;
    let netns = quiet.inode.to_string();
    let args = [
        "--json",
        "-n",
        "30",
        "--netns",
        &netns,
        "--ready-file",
        ready.text(),
    ];
    let child = command("", "tcpstates", &args).stdout(writer).spawn()?;
    super::until_exists(&ready)?;
    sessions(&quiet, 4)?;
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let text = collect(reader).join().expect("no panic");
    ensure!(kill_at_last(child)?.success());
    let records = records(text.get(filled..).context("nothing")?)?;
    ensure!(records.len() == 31, "{}", records.len());
    Ok(())
}
