// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attaching that fails, at the first probe or half way. What is expected: exit status 1, one sentence, no row, and
//! nothing stays attached or loaded.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    process::{Child, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::{libc, sys::signal::Signal};

use super::objects::Objects;
use crate::{
    cli_contract::{SOON, collect, command, kill_at_last, signal, until_exists},
    missing,
    scratch::Scratch,
    tools, trial,
    wait::{self, PATIENCE},
};

pub fn tests() -> Vec<Trial> {
    // The one with the most probes: others have attached all of theirs before the test can stop them.
    let half = trial("faults::attaching::half_way_tcptop", || half_way("tcptop"));
    let refused = trial("faults::attaching::refused", refused);
    let more = [
        ("tcpretrans", "--why"),
        ("tcpdrop", "--stack"),
        ("tcpcong", "--hist"),
    ];
    let each = tools::ALL.iter().map(|tool| (*tool, "--json")).chain(more);
    let filtered = each.map(|(tool, flag)| {
        let how = flag.trim_start_matches('-');
        let name = format!("faults::attaching::every_filter_{tool}_{how}");
        trial(name, move || every_filter(tool, flag))
    });
    [half, refused].into_iter().chain(filtered).collect()
}

/// Filters are parts of the programs, which the kernel looks through: all at once, which is the most.
const FILTERS: [(&str, &str); 13] = [
    ("--pid", "1-9"),
    ("--uid", "1-9"),
    ("--comm", "a,b"),
    ("--lport", "22"),
    ("--rport", "443"),
    ("--port", "1-100"),
    ("--laddr", "10.0.0.0/8,fd00::/8"),
    ("--raddr", "10.0.0.0/8,fd00::/8"),
    ("--addr", "fe80::1%3,192.0.2.1"),
    ("--netns", "self"),
    ("--cgroup", "id:1"),
    ("--unit", "a.service"),
    ("--container", "0123456789ab"),
];

/// All filters, and all negated.
fn every_filter(tool: &str, flag: &str) -> Result<()> {
    missing::needs_tracepoint_of(tool)?;
    if flag == "--why" {
        missing::needs_drop_reasons()?;
    }
    for negated in ["", "!"] {
        let mut command = command("", tool, &["--duration", "1ms", flag]);
        for (filter, value) in FILTERS {
            let filter = match (filter, tool) {
                // As in bcc's command of that name.
                ("--port", "tcpconnect" | "tcpaccept") => "--any-port",
                _ => filter,
            };
            command.args([filter, &format!("{negated}{value}")]);
        }
        let output = command.stderr(Stdio::piped()).spawn()?.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let shown = format!("{tool} {flag} {negated:?}: {said}");
        ensure!(output.status.code() == Some(0), "{shown}");
    }
    Ok(())
}

/// `bpf(2)` fails in this way for the commands that attach: BPF_RAW_TRACEPOINT_OPEN, BPF_LINK_CREATE.
fn no_links(errno: i32) -> impl Fn() -> io::Result<()> + Send + Sync {
    const OPEN: u32 = 17;
    const CREATE: u32 = 28;
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = |at| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
    let is = |what, jt, jf| op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, what);
    let ends = |how| op(libc::BPF_RET | libc::BPF_K, 0, 0, how);
    // The number of the call, and the low half of its first argument (struct seccomp_data).
    let code = [
        load(0),
        is(libc::SYS_bpf as u32, 0, 3),
        load(16),
        is(OPEN, 2, 0),
        is(CREATE, 1, 0),
        ends(libc::SECCOMP_RET_ALLOW),
        ends(libc::SECCOMP_RET_ERRNO | errno as u32),
    ];
    move || {
        let program = libc::sock_fprog {
            len: code.len() as u16,
            filter: code.as_ptr().cast_mut(),
        };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the program lives through the call, which copies it.
        match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// No probe can be attached, for different reasons.
fn refused() -> Result<()> {
    for tool in tools::here() {
        let more = if tool == "tcplife" {
            &[libc::ENOMEM, libc::E2BIG][..]
        } else {
            &[]
        };
        for errno in [&[libc::EPERM], more].concat() {
            let mut command = command("", tool, &["--json", "--duration", "1ms"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            // SAFETY: between fork and exec only a system call is made.
            unsafe { command.pre_exec(no_links(errno)) };
            let output = command.spawn()?.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            let shown = format!("{tool}, {errno}: {}: {said}", output.status);
            ensure!(output.status.code() == Some(1), "{shown}");
            ensure!(said.lines().count() == 1, "{shown}");
            ensure!(said.starts_with(&format!("{tool}: ")), "{shown}");
            ensure!(output.stdout.is_empty(), "{shown}");
        }
    }
    Ok(())
}

/// Descriptors that are in use. Not three: `F_DUPFD_CLOEXEC` asks for one of at least 3, which the kernel then calls
/// invalid.
const IN_USE: libc::rlim_t = 4;

/// From now on it gets no descriptor.
fn no_more_files(child: &Child) -> Result<()> {
    let none = libc::rlimit {
        rlim_cur: IN_USE,
        rlim_max: IN_USE,
    };
    let (pid, what) = (child.id() as i32, libc::RLIMIT_NOFILE);
    // SAFETY: the kernel reads a limit, which lives, and writes none.
    let ret = unsafe { libc::prlimit(pid, what, &raw const none, std::ptr::null_mut()) };
    ensure!(ret == 0, "{}", io::Error::last_os_error());
    Ok(())
}

/// Some probes are attached, and there is no descriptor for the next one.
fn half_way(tool: &str) -> Result<()> {
    missing::needs_programs()?;
    let ready = Scratch::path("ready");
    let child = command("", tool, &["--ready-file", ready.text()]).spawn()?;
    until_exists(&ready)?;
    let whole = Objects::of(child.id())?.count("link_id:");
    signal(&child, Signal::SIGTERM)?;
    kill_at_last(child)?;
    // Attaching is over soon: it is not always caught.
    for _ in 0..50 {
        if stopped_half_way(tool, whole)? {
            return Ok(());
        }
    }
    bail!("it was never seen to have attached some of its probes")
}

/// Whether it was stopped when some of so many were attached; then it has ended as it should.
fn stopped_half_way(tool: &str, whole: usize) -> Result<bool> {
    let mut child = command("", tool, &[]).stderr(Stdio::piped()).spawn()?;
    let said = collect(child.stderr.take().context("no stderr")?);
    let (mut objects, begin) = (Objects::default(), Instant::now());
    while objects.count("link_id:") == 0 {
        ensure!(begin.elapsed() < SOON, "it attaches nothing");
        objects.add(child.id())?;
    }
    signal(&child, Signal::SIGSTOP)?;
    wait::until("the stop", PATIENCE, || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
        Ok(stat.contains(") T ").then_some(()))
    })?;
    objects.add(child.id())?;
    if objects.count("link_id:") >= whole {
        child.kill()?;
        child.wait()?;
        return Ok(false);
    }
    no_more_files(&child)?;
    signal(&child, Signal::SIGCONT)?;
    let status = kill_at_last(child)?;
    let said = said.join().expect("no panic");
    ensure!(status.code() == Some(1), "{status}: {said}");
    let sentence = format!("{tool}: the limit of {IN_USE} open files is too low: ");
    ensure!(said.starts_with(&sentence), "{said}");
    ensure!(said.lines().count() == 1, "{said}");
    objects.gone()?;
    Ok(true)
}
