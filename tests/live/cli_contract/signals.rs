// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals: what the caller ignores, and those that come early or twice.

use std::{fs, os::unix::process::CommandExt, process::Child, time::Duration};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{SigHandler, Signal};

use super::{command, full_pipe, kill_at_last, records, sessions, signal, until_exists};
use crate::{
    missing,
    net::Netns,
    scratch::Scratch,
    tools, trial,
    wait::{self, PATIENCE},
};

const ALL: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

pub fn tests() -> Vec<Trial> {
    let mut trials: Vec<_> = ALL
        .map(|signal| {
            trial(
                format!("cli_contract::signals::ignored_{signal}"),
                move || ignored(signal),
            )
        })
        .into();
    trials.extend(tools::ALL.iter().map(|tool| {
        trial(format!("cli_contract::signals::early_{tool}"), move || {
            early(tool)
        })
    }));
    trials.push(trial("cli_contract::signals::twice", twice));
    trials
}

/// A line of numbers in /proc/PID/status, as the set of signals that it is.
fn set(child: &Child, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let hex = line.with_context(|| format!("no {name}"))?.trim();
    Ok(u64::from_str_radix(hex, 16)?)
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

/// `nohup tcplife &` outlives a hangup; the other two still end it.
fn ignored(which: Signal) -> Result<()> {
    let quiet = Netns::new()?;
    let ready = Scratch::path("ready");
    let netns = quiet.inode.to_string();
    let (rows, stdout) = std::io::pipe()?;
    let mut command = command(
        "",
        "tcplife",
        &["--json", "--netns", &netns, "--ready-file", ready.text()],
    );
    // SAFETY: changes the forked process only, by one system call.
    unsafe {
        command.pre_exec(move || {
            nix::sys::signal::signal(which, SigHandler::SigIgn)?;
            Ok(())
        });
    }
    let child = command.stdout(stdout).spawn()?;
    drop(command);
    until_exists(&ready)?;
    let (ignored, caught) = (set(&child, "SigIgn:")?, set(&child, "SigCgt:")?);
    for signal in ALL {
        let expected = if signal == which {
            (bit(signal), 0)
        } else {
            (0, bit(signal))
        };
        let got = (ignored & bit(signal), caught & bit(signal));
        ensure!(got == expected, "{signal}: {got:?}");
    }
    signal(&child, which)?;
    sessions(&quiet, 2)?;
    let other = ALL
        .into_iter()
        .find(|signal| *signal != which)
        .context("another")?;
    signal(&child, other)?;
    ensure!(kill_at_last(child)?.success());
    let records = records(&super::collect(rows).join().expect("no panic"))?;
    ensure!(records.len() == 5, "{records:?}");
    Ok(())
}

/// As soon as it has handlers: it ends soon, quietly, and leaves nothing behind.
fn early(tool: &str) -> Result<()> {
    missing::needs_tracepoints(tool)?;
    let (ready, plot) = (Scratch::path("ready"), Scratch::path("plot"));
    let mut args = vec!["--ready-file", ready.text()];
    if tool == "tcpprobe" {
        args.extend(["--plot", plot.text()]);
    }
    let mut child = command("", tool, &args).spawn()?;
    wait::until("handlers", PATIENCE, || {
        ensure!(child.try_wait()?.is_none(), "it has ended");
        Ok((set(&child, "SigCgt:")? & bit(Signal::SIGTERM) != 0).then_some(()))
    })?;
    signal(&child, Signal::SIGTERM)?;
    ensure!(wait::exit_of(&mut child, Duration::from_secs(5))?.success());
    ensure!(!ready.exists(), "the ready file is there");
    Ok(())
}

/// The second one does not wait for a reader.
fn twice() -> Result<()> {
    let ready = Scratch::path("ready");
    let (_reader, writer, _) = full_pipe()?;
    let args = ["--json", "-n", "1", "--ready-file", ready.text()];
    let mut child = command("", "tcplife", &args).stdout(writer).spawn()?;
    until_exists(&ready)?;
    signal(&child, Signal::SIGINT)?;
    std::thread::sleep(Duration::from_millis(600));
    signal(&child, Signal::SIGINT)?;
    let status = wait::exit_of(&mut child, Duration::from_secs(5))?;
    ensure!(matches!(status.code(), Some(1 | 130)), "{status}");
    ensure!(!ready.exists(), "the ready file is there");
    Ok(())
}
