// SPDX-License-Identifier: MIT OR Apache-2.0
//! That a command is ready, by a file, a descriptor, and as systemd wants to know it.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::{
            net::{SocketAddr, UnixDatagram},
            process::CommandExt,
        },
    },
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::{collect, command, kill_at_last, signal, until_exists};
use crate::{
    scratch::Scratch,
    trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("cli_contract::ready::stale_file", stale_file),
        trial("cli_contract::ready::descriptor", descriptor),
        trial("cli_contract::ready::wrong_descriptor", wrong_descriptor),
        trial("cli_contract::ready::supervisor", supervisor),
    ]
}

/// The file of an earlier run is removed first; this run's is created, and removed at the end; a non-empty file is
/// rejected.
fn stale_file() -> Result<()> {
    for features in ["", "btf"] {
        let ready = Scratch::path("ready");
        File::create(&*ready)?;
        let old = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&*ready)?);
        // Keeps the inode from being used again.
        let _open = File::open(&*ready)?;
        let child = command(features, "tcplife", &["--ready-file", ready.text()]).spawn()?;
        wait::until("a new ready file", PATIENCE, || {
            let meta = std::fs::metadata(&*ready).ok();
            let ino = meta.map(|m| std::os::unix::fs::MetadataExt::ino(&m));
            Ok(ino.is_some_and(|ino| ino != old).then_some(()))
        })?;
        signal(&child, Signal::SIGTERM)?;
        ensure!(kill_at_last(child)?.success());
        ensure!(!ready.exists(), "it is still there");

        std::fs::write(&*ready, "keep me")?;
        let args = ["--ready-file", ready.text(), "--duration", "100ms"];
        let mut child = command(features, "tcplife", &args)
            .stderr(Stdio::piped())
            .spawn()?;
        let said = collect(child.stderr.take().context("no stderr")?);
        ensure!(kill_at_last(child)?.code() == Some(2));
        let said = said.join().expect("no panic");
        ensure!(said.contains("is not empty"), "{said}");
        ensure!(std::fs::read(&*ready)? == b"keep me");
    }
    Ok(())
}

/// A newline, and the end of the file, while the command goes on.
fn descriptor() -> Result<()> {
    let (mut reader, writer) = std::io::pipe()?;
    let fd = writer.as_raw_fd();
    let number = fd.to_string();
    let mut command = command("", "tcplife", &["--ready-fd", &number]);
    // SAFETY: a system call on a descriptor of this process.
    unsafe {
        command.pre_exec(move || match nix::libc::fcntl(fd, nix::libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
    let mut child = command.spawn()?;
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text)?;
    ensure!(text == "\n", "{text:?}");
    ensure!(child.try_wait()?.is_none(), "it goes on");
    signal(&child, Signal::SIGTERM)?;
    ensure!(kill_at_last(child)?.success());
    Ok(())
}

fn wrong_descriptor() -> Result<()> {
    for number in ["0", "1", "2", "77", "-1", "x", "4294967296"] {
        let flag = format!("--ready-fd={number}");
        let output = command("", "tcplife", &[&flag, "--duration", "100ms"])
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output()?;
        let said = String::from_utf8(output.stderr)?;
        ensure!(output.status.code() == Some(2), "{number}: {said}");
        ensure!(
            said.lines().count() == 1 && said.contains("--ready-fd"),
            "{said}"
        );
    }
    Ok(())
}

/// `Type=notify`, with a path and with a name in the abstract namespace.
fn supervisor() -> Result<()> {
    let path = Scratch::path("notify");
    let name = format!("tcptools-live-{}", std::process::id());
    let sockets = [
        (path.text().to_owned(), UnixDatagram::bind(&*path)?),
        (
            format!("@{name}"),
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?,
        ),
    ];
    for (address, socket) in sockets {
        socket.set_read_timeout(Some(PATIENCE))?;
        let child = command("", "tcplife", &[])
            .env("NOTIFY_SOCKET", &address)
            .spawn()?;
        let mut text = [0; 64];
        let n = socket.recv(&mut text)?;
        ensure!(&text[..n] == b"READY=1", "{:?}", &text[..n]);
        signal(&child, Signal::SIGTERM)?;
        let n = socket.recv(&mut text)?;
        ensure!(&text[..n] == b"STOPPING=1", "{:?}", &text[..n]);
        ensure!(kill_at_last(child)?.success());
    }
    // A missing supervisor is reported, and the run continues.
    let ready = Scratch::path("ready");
    let mut child = command("", "tcplife", &["--ready-file", ready.text()])
        .env("NOTIFY_SOCKET", "/nonexistent")
        .stderr(Stdio::piped())
        .spawn()?;
    let said = collect(child.stderr.take().context("no stderr")?);
    until_exists(&ready)?;
    signal(&child, Signal::SIGTERM)?;
    ensure!(kill_at_last(child)?.success());
    let said = said.join().expect("no panic");
    ensure!(said.contains("NOTIFY_SOCKET /nonexistent"), "{said}");
    Ok(())
}
