// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where rows go to an end before the command does: a full disk, a journal that does not read.

use std::{
    fs::{self, File},
    os::unix::{net::UnixDatagram, process::CommandExt},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::Signal,
};

use super::{collect, command, kill_at_last, records, sessions, signal, until_exists};
use crate::{net::Netns, scratch::Scratch, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("cli_contract::endings::full_disk", full_disk),
        trial("cli_contract::endings::journal", journal),
    ]
}

/// The number of rows that did not fit on the disk is reported, and the last line is complete. Simulated with a file
/// size limit.
fn full_disk() -> Result<()> {
    let quiet = Netns::new()?;
    let (ready, file) = (Scratch::path("ready"), Scratch::path("rows"));
    let netns = quiet.inode.to_string();
    let args = ["--json", "--netns", &netns, "--ready-file", ready.text()];
    let mut command = command("", "tcpstates", &args);
    // SAFETY: a system call that changes the forked process only.
    unsafe { command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_FSIZE, 20_000, 20_000)?)) };
    let mut child = command
        .stdout(File::create(&*file)?)
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
    let written = records(&fs::read_to_string(&*file)?)?.len();
    ensure!(said.contains("cannot write rows: File too large"), "{said}");
    let number = said
        .rsplit("; ")
        .next()
        .and_then(|t| t.split(' ').next()?.parse::<usize>().ok());
    let all = number.with_context(|| said.clone())? + written;
    ensure!(
        written > 10 && (200..=204).contains(&all),
        "{written} rows, {said}"
    );
    Ok(())
}

/// Entries that the journal rejects are reported at once, and in the summary.
fn journal() -> Result<()> {
    for features in ["", "btf"] {
        let quiet = Netns::new()?;
        let (ready, path) = (Scratch::path("ready"), Scratch::path("journal"));
        let _journal = UnixDatagram::bind(&*path)?;
        let args = [
            "--json",
            "-Y",
            "--journal-socket",
            path.text(),
            "--ready-file",
            ready.text(),
        ];
        let mut child = command(features, "tcpstates", &args)
            .stdout(Stdio::piped())
            .stderr(File::create(&*Scratch::path("unused"))?)
            .spawn()?;
        let rows = collect(child.stdout.take().context("no stdout")?);
        until_exists(&ready)?;
        // A socket holds some hundred datagrams (net.unix.max_dgram_qlen).
        sessions(&quiet, 80)?;
        signal(&child, Signal::SIGTERM)?;
        ensure!(kill_at_last(child)?.success());
        let records = records(&rows.join().expect("no panic"))?;
        let summary = records.last().context("no summary")?;
        ensure!(summary["journal_lost"].as_u64() > Some(0), "{summary}");
    }
    Ok(())
}
