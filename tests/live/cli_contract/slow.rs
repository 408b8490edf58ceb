// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readers that are slow, but read: they get everything.

use std::{io::Read, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::signal::Signal,
};

use super::{collect, command, kill_at_last, records, sessions, signal};
use crate::{net::Netns, scratch::Scratch, trial};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("cli_contract::slow::steady", || slow("", 4096, 25, 120)),
        trial("cli_contract::slow::steady_records", || {
            slow("btf", 4096, 25, 120)
        }),
        trial("cli_contract::slow::small_reads", || slow("", 64, 100, 40)),
        trial("cli_contract::slow::final_loss", final_loss),
        trial("cli_contract::slow::shared", shared),
    ]
}

/// Floods the host, and commands without type information see all of it.
pub fn alone() -> Vec<Trial> {
    vec![trial("cli_contract::slow::memory", memory)]
}

/// Takes so many bytes at a time, so often, with so many milliseconds in between; then all there is.
fn slow(features: &str, bytes: usize, rest_ms: u64, times: usize) -> Result<()> {
    let quiet = Netns::new()?;
    let ready = Scratch::path("ready");
    let (mut reader, writer) = std::io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096))?;
    let (complaints, stderr) = std::io::pipe()?;
    // Without type information a row has no namespace, and rows of other tests are as good.
    let netns = quiet.inode.to_string();
    let mut args = vec!["--json", "--ready-file", ready.text()];
    if features.is_empty() {
        args.extend(["--netns", &netns]);
    }
    let child = command(features, "tcpstates", &args)
        .stdout(writer)
        .stderr(stderr)
        .spawn()?;
    super::until_exists(&ready)?;
    sessions(&quiet, 120)?;
    signal(&child, Signal::SIGTERM)?;
    let mut text = Vec::new();
    for _ in 0..times {
        let mut chunk = vec![0; bytes];
        let n = reader.read(&mut chunk)?;
        text.extend_from_slice(&chunk[..n]);
        thread::sleep(Duration::from_millis(rest_ms));
    }
    text.extend(collect(reader).join().expect("no panic").bytes());
    let status = kill_at_last(child)?;
    let said = collect(complaints).join().expect("no panic");
    ensure!(status.success(), "{status}: {said}");
    let records = records(std::str::from_utf8(&text)?)?;
    let summary = records.last().context("nothing")?;
    ensure!(summary["event"] == "summary", "{summary}");
    ensure!(summary["events"] == records.len() - 1, "{summary}");
    // Five changes at either end, and what their listeners did.
    let told = records.len() as u64 - 1 + summary["skipped"].as_u64().unwrap_or(0);
    ensure!(
        told + summary["lost"].as_u64().unwrap_or(0) >= 120 * 10,
        "{summary}"
    );
    Ok(())
}

/// Several commands write to one pipe: no line of any is mixed with another's, and none waits for ever.
fn shared() -> Result<()> {
    let quiet = Netns::new()?;
    let (mut reader, writer) = std::io::pipe()?;
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096))?;
    let netns = quiet.inode.to_string();
    let start = |_| {
        let ready = Scratch::path("ready");
        let args = ["--json", "--netns", &netns, "--ready-file", ready.text()];
        let child = command("", "tcpstates", &args)
            .stdout(writer.try_clone()?)
            .spawn()?;
        super::until_exists(&ready)?;
        Ok((child, ready))
    };
    let children = (0..3).map(start).collect::<Result<Vec<_>>>()?;
    drop(writer);
    sessions(&quiet, 30)?;
    for (child, _) in &children {
        signal(child, Signal::SIGTERM)?;
    }
    let reader = thread::spawn(move || {
        let (mut text, mut chunk) = (Vec::new(), [0; 1000]);
        while let Ok(n @ 1..) = reader.read(&mut chunk) {
            text.extend_from_slice(&chunk[..n]);
            thread::sleep(Duration::from_millis(1));
        }
        text
    });
    for (child, _ready) in children {
        ensure!(kill_at_last(child)?.success());
    }
    let text = String::from_utf8(reader.join().expect("no panic"))?;
    let records = records(&text)?;
    let is_summary = |record: &&serde_json::Value| record["event"] == "summary";
    let summaries: Vec<_> = records.iter().filter(is_summary).collect();
    ensure!(summaries.len() == 3, "{summaries:?}");
    let events: u64 = summaries.iter().filter_map(|s| s["events"].as_u64()).sum();
    ensure!(
        events as usize == records.len() - 3 && events >= 3 * 300,
        "{summaries:?}"
    );
    Ok(())
}

/// Losses within a second of an earlier report are reported, too.
fn final_loss() -> Result<()> {
    let quiet = Netns::new()?;
    let ready = Scratch::path("ready");
    let (complaints, stderr) = std::io::pipe()?;
    let netns = quiet.inode.to_string();
    let args = [
        "--json",
        "--buffer",
        "64",
        "--netns",
        &netns,
        "--ready-file",
        ready.text(),
    ];
    let (rows, stdout) = std::io::pipe()?;
    let child = command("", "tcpstates", &args)
        .stdout(stdout)
        .stderr(stderr)
        .spawn()?;
    let (rows, complaints) = (collect(rows), collect(complaints));
    super::until_exists(&ready)?;
    signal(&child, Signal::SIGSTOP)?;
    sessions(&quiet, 100)?;
    // The first loss is reported at once; the second falls into the quiet second.
    signal(&child, Signal::SIGCONT)?;
    thread::sleep(Duration::from_millis(150));
    signal(&child, Signal::SIGSTOP)?;
    sessions(&quiet, 100)?;
    signal(&child, Signal::SIGTERM)?;
    signal(&child, Signal::SIGCONT)?;
    ensure!(kill_at_last(child)?.success());
    let records = records(&rows.join().expect("no panic"))?;
    let lost = records
        .last()
        .and_then(|r| r["lost"].as_u64())
        .context("no summary")?;
    ensure!(lost > 0, "the buffer is not as small as it was asked to be");
    let said = complaints.join().expect("no panic");
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        last.contains(&format!(" {lost} events lost")),
        "{lost} lost, but {said}"
    );
    Ok(())
}

/// What is left in a large buffer is not formatted into memory first.
fn memory() -> Result<()> {
    let quiet = Netns::new()?;
    let netns = quiet.inode.to_string();
    let peak = |count: usize| -> Result<(i64, u64)> {
        let ready = Scratch::path("ready");
        let file = Scratch::path("rows");
        let args = [
            "--json",
            "--buffer",
            "8192",
            "--netns",
            &netns,
            "--ready-file",
            ready.text(),
        ];
        let child = command("", "tcpstates", &args)
            .stdout(std::fs::File::create(&*file)?)
            .spawn()?;
        super::until_exists(&ready)?;
        signal(&child, Signal::SIGSTOP)?;
        sessions(&quiet, count)?;
        signal(&child, Signal::SIGTERM)?;
        signal(&child, Signal::SIGCONT)?;
        let mut usage = std::mem::MaybeUninit::<nix::libc::rusage>::zeroed();
        let (pid, mut status) = (child.id() as i32, 0);
        // SAFETY: both are written by the kernel, and live; the child is waited for by nobody else.
        let ret = unsafe { nix::libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        ensure!(ret == pid && status == 0, "{status}");
        // SAFETY: integers only, and set.
        let kib = unsafe { usage.assume_init() }.ru_maxrss;
        Ok((kib, std::fs::metadata(&*file)?.len() / 1024))
    };
    let (few, _) = peak(10)?;
    let (many, rows) = peak(1500)?;
    // The kernel's buffer is this process's memory, too, once it is read.
    let buffer = 2 * 8192;
    ensure!(rows > 5000, "{rows} KiB of rows");
    ensure!(
        many - few < buffer.min(rows as i64),
        "{few} KiB, {many} KiB for {rows} KiB of rows"
    );
    Ok(())
}
