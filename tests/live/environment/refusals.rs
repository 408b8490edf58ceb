// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hosts where a command cannot run: it ends with exit code 1 and one sentence that names the cause and what helps,
//! whatever is missing; it neither panics nor dies of a signal, and blames nothing else.

use std::{
    io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::resource::{Resource, setrlimit},
};

use crate::{tool, tools, trial};

/// With programs of its own, and with records only.
const MODES: [&str; 3] = ["", "btf", "btf,ringbuf,mmap"];

pub fn tests() -> Vec<Trial> {
    vec![
        trial("refusals::descriptor_limit", descriptor_limit),
        trial(
            "refusals::descriptor_limit_tcplife",
            descriptor_limit_tcplife,
        ),
        trial("refusals::memory_limit", memory_limit),
        trial("refusals::seccomp", seccomp),
        trial("refusals::thread_limit", thread_limit),
        trial("refusals::not_mounted", not_mounted),
        trial("refusals::tcptools_without_proc", tcptools_without_proc),
    ]
}

/// Runs a command for a moment after `before`, which the process does to itself.
fn run(
    name: &str,
    without: &str,
    before: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> Result<Output> {
    let mut command = Command::new(tool::path(name));
    command
        .args(["--duration", "1ms"])
        .env("TCPTOOLS_WITHOUT", without);
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(before) };
    command.output().with_context(|| name.to_owned())
}

/// Checks common to all refusals; `said`: words of which the message has one.
fn refuses(name: &str, case: &str, output: &Output, said: &[&str]) -> Result<()> {
    let text = String::from_utf8_lossy(&output.stderr);
    let shown = format!("{name}, {case}: {}: {text}", output.status);
    ensure!(output.status.signal().is_none(), "{shown}");
    ensure!(output.status.code() == Some(1), "{shown}");
    ensure!(text.lines().count() == 1, "{shown}");
    named(name, &text, said).context(shown)
}

/// The last line gives the reason.
fn named(name: &str, text: &str, said: &[&str]) -> Result<()> {
    let line = text.lines().last().unwrap_or_default();
    ensure!(line.starts_with(&format!("{name}: ")), "who?");
    ensure!(
        said.iter().any(|words| line.contains(words)),
        "not {said:?}"
    );
    // The number of an error is no cause.
    ensure!(!line.contains("(os error "), "a number");
    Ok(())
}

/// The dynamic loader, before the command begins.
fn did_not_begin(output: &Output) -> bool {
    let text = String::from_utf8_lossy(&output.stderr);
    output.status.code() == Some(127) || text.contains("error while loading shared libraries")
}

fn open_files(limit: u64) -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
    move || Ok(setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?)
}

/// Every command, with a few numbers of descriptors.
fn descriptor_limit() -> Result<()> {
    for name in tools::here() {
        for (without, limit) in [("", 6), ("", 14), ("", 18), ("btf", 14)] {
            let output = run(name, without, open_files(limit))?;
            let said = format!("the limit of {limit} open files is too low");
            refuses(
                name,
                &format!("{limit} files, {without}"),
                &output,
                &[&said],
            )?;
        }
    }
    Ok(())
}

/// One command, with every number up to those that do.
fn descriptor_limit_tcplife() -> Result<()> {
    for (without, step) in [("", 1), ("btf", 5), ("btf,ringbuf,mmap", 5)] {
        let mut runs = false;
        for limit in (5..=32).step_by(step).chain([256]) {
            let output = run("tcplife", without, open_files(limit))?;
            if did_not_begin(&output) {
                continue;
            }
            let said = format!("the limit of {limit} open files is too low");
            let case = format!("{limit} files, {without}");
            runs = output.status.success();
            if !runs {
                refuses("tcplife", &case, &output, &[&said])?;
            }
        }
        ensure!(runs, "256 descriptors are enough");
    }
    Ok(())
}

/// What the loader needs, and then more and more.
fn memory_limit() -> Result<()> {
    let said = ["of memory is too low: ", "not enough memory: "];
    for name in ["tcplife", "tcpstates"] {
        for without in &MODES[..2] {
            for mib in [8, 9, 10, 11, 12, 14, 16] {
                let bytes = mib << 20;
                let output = run(name, without, move || {
                    Ok(setrlimit(Resource::RLIMIT_AS, bytes, bytes)?)
                })?;
                // The kernel itself, when it cannot map the program, and the C library before main.
                if did_not_begin(&output) || output.status.signal() == Some(libc::SIGSEGV) {
                    continue;
                }
                // It may end in the middle of its work.
                let text = String::from_utf8_lossy(&output.stderr);
                let shown = format!("{name}, {mib} MiB, {without}: {}: {text}", output.status);
                ensure!(matches!(output.status.code(), Some(0 | 1)), "{shown}");
                if !output.status.success() {
                    named(name, &text, &said).context(shown)?;
                }
            }
        }
    }
    Ok(())
}

/// Makes these system calls fail, as a container's filter does.
fn forbid(calls: &'static [i64], errno: i32) -> impl Fn() -> io::Result<()> + Send + Sync {
    let op = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let mut code = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for &call in calls {
        code.push(op(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            1,
            call as u32,
        ));
        let fail = libc::SECCOMP_RET_ERRNO | errno as u32;
        code.push(op(libc::BPF_RET | libc::BPF_K, 0, fail));
    }
    code.push(op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    move || {
        let program = libc::sock_fprog {
            len: code.len() as u16,
            filter: code.as_ptr().cast_mut(),
        };
        let mode = libc::SECCOMP_MODE_FILTER;
        // SAFETY: the program lives through the call, which copies it.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn seccomp() -> Result<()> {
    let said = ["a seccomp filter blocks bpf(2) or perf_event_open(2): allow "];
    for name in tools::here() {
        let output = run(name, "", forbid(&[libc::SYS_bpf], libc::EPERM))?;
        refuses(name, "no bpf(2)", &output, &said)?;
    }
    for without in &MODES[1..] {
        for calls in [&[libc::SYS_bpf][..], &[libc::SYS_perf_event_open]] {
            for errno in [libc::EPERM, libc::ENOSYS] {
                let output = run("tcpstates", without, forbid(calls, errno))?;
                refuses("tcpstates", without, &output, &said)?;
            }
        }
    }
    Ok(())
}

/// As with pids.max=1.
fn thread_limit() -> Result<()> {
    for name in tools::here() {
        for without in ["", "btf"] {
            let calls = &[libc::SYS_clone3, libc::SYS_clone];
            let output = run(name, without, forbid(calls, libc::EAGAIN))?;
            let text = String::from_utf8_lossy(&output.stderr);
            let shown = format!("{name} without {without:?}: {}: {text}", output.status);
            ensure!(matches!(output.status.code(), Some(0 | 1)), "{shown}");
            ensure!(!text.contains("panicked"), "{shown}");
            let last = text.lines().last().unwrap_or_default();
            let said = last.contains("cannot create a thread: raise pids.max");
            ensure!(output.status.success() || said, "{shown}");
        }
    }
    Ok(())
}

/// Takes these away, for this process only.
fn unmount(paths: &'static [&str]) -> impl Fn() -> io::Result<()> + Send + Sync + 'static {
    move || {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        for path in paths {
            umount2(*path, MntFlags::MNT_DETACH)?;
        }
        Ok(())
    }
}

fn not_mounted() -> Result<()> {
    for name in tools::here() {
        for without in ["", "btf"] {
            let output = run(name, without, unmount(&["/sys"]))?;
            let said = ["/sys is not mounted: mount -t sysfs"];
            refuses(name, "no /sys", &output, &said)?;
        }
        let output = run(name, "btf", unmount(&["/proc"]))?;
        let said = ["/proc is not mounted: mount -t proc"];
        refuses(name, "no /proc", &output, &said)?;
    }
    Ok(())
}

fn tcptools_without_proc() -> Result<()> {
    for (name, args, said) in [
        (
            "tcptools",
            &["tcplife"][..],
            "cannot find its commands: /proc is not mounted: ",
        ),
        ("tplist", &["tcp:*"], "/sys is not mounted"),
    ] {
        let mut command = Command::new(tool::path(name));
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.args(args).pre_exec(unmount(&["/proc", "/sys"])) };
        refuses(name, "nothing mounted", &command.output()?, &[said])?;
    }
    Ok(())
}
