// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events that the kernel shows to no BPF program, as if they had not been: no row can be made of them.
//!
//! A hardened kernel may run no program while a process that it protects is current, its first one for example, and says
//! so nowhere: these are no recursion misses. An event in an interrupt, as those of TCP's timers, is then lost with
//! whatever it interrupts. Ordinary kernels run every program, and nothing of that kind is ever counted here.
//!
//! Of classic tracepoints' programs, which commands have without type information, every kernel runs one at a time on a
//! CPU (kernel/trace/bpf_trace.c: trace_call_bpf): an event that interrupts one is not seen, and commands say so.

use std::{
    cell::Cell,
    fs::{self, File},
    io::Read,
    mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::PathBuf,
    ptr,
    sync::LazyLock,
    thread,
};

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys as sys;
use libtest_mimic::Trial;
use nix::{
    errno::Errno,
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use tcptools::kernel::tracepoints::tracefs_events;
use tcptools::suite;

use crate::{
    missing::{self, Missing},
    tool, trial,
};

pub fn tests() -> Vec<Trial> {
    vec![
        trial("unseen::is_counted", is_counted),
        trial("unseen::is_heard", is_heard),
    ]
}

/// include/uapi/linux/perf_event.h
const ENABLE: libc::c_ulong = 0x2400;
const SET_BPF: libc::c_ulong = 0x4004_2408;

thread_local! {
    /// Events that commands of this test in fallback mode have reported as skipped.
    static SKIPPED: Cell<u64> = const { Cell::new(0) };
    /// Commands of this test in fallback mode on a kernel that does not count these.
    static UNCOUNTED: Cell<u64> = const { Cell::new(0) };
}

const MISSED: &str = " events missed: the BPF program was already running on that CPU";

/// What a command in fallback mode has said of that by its end. Where the kernel counts nothing, it may have missed some.
pub fn heard(stderr: &str) {
    let told = stderr.lines().filter_map(|line| {
        let events = line.strip_suffix(MISSED)?.rsplit(' ').next()?;
        events.parse::<u64>().ok()
    });
    SKIPPED.set(SKIPPED.get() + told.sum::<u64>());
    if !missing::counts_missed() {
        UNCOUNTED.set(UNCOUNTED.get() + 1);
    }
}

/// What a command has said besides of events that it missed, which may be those of other tests.
pub fn said_else(text: &str) -> String {
    let others = text.lines().filter(|line| !line.ends_with(MISSED));
    others.map(|line| format!("{line}\n")).collect()
}

/// How many there were on this host since the first call, of the tracepoints that the commands use, and how many a
/// command of this test has said.
pub fn count() -> u64 {
    static WITNESS: LazyLock<Vec<File>> = LazyLock::new(|| {
        // Where it cannot be counted, failures are what they seem.
        witness().unwrap_or_default()
    });
    WITNESS.iter().map(read).sum::<u64>() + SKIPPED.get()
}

/// How many of them commands of this test have said, and how many commands may have missed some.
pub fn said() -> u64 {
    SKIPPED.get() + UNCOUNTED.get()
}

fn read(mut counter: &File) -> u64 {
    let mut value = [0; 8];
    let whole = counter.read_exact(&mut value).is_ok();
    if whole { u64::from_ne_bytes(value) } else { 0 }
}

/// A counter per tracepoint and CPU.
fn witness() -> Result<Vec<File>> {
    // Linux 7.3-rc7 panics when a tracefs that was mounted in that mode is unmounted.
    missing::needs_no_confidentiality()?;
    let program = program(0)?;
    let mut counters = vec![];
    for id in ids(suite::tracepoints())? {
        counters.extend(counters_of(id, &program)?);
    }
    Ok(counters)
}

/// Events of which the program says nothing are counted as if it had not been run, and others are not.
fn is_counted() -> Result<()> {
    const STARTS: u64 = 20;
    let Ok(&[id]) = ids(vec!["sched:sched_process_exec"]).as_deref() else {
        return Err(Missing::Feature("tracefs with sched_process_exec").into());
    };
    let counted = |verdict| -> Result<u64> {
        let counters = counters_of(id, &program(verdict)?)?;
        for _ in 0..STARTS {
            tool::run("tplist", &["--version"])?;
        }
        Ok(counters.iter().map(read).sum())
    };
    let (seen, unseen) = (counted(0)?, counted(1)?);
    ensure!(seen < STARTS && unseen >= STARTS, "{seen}, {unseen}");
    Ok(())
}

fn is_heard() -> Result<()> {
    let before = said();
    heard(&format!(
        "tcplife: up to 3{MISSED}\ntcplife: 7 events lost\n"
    ));
    let events = said() - before;
    let uncounted = u64::from(!missing::counts_missed());
    ensure!(events == 3 + uncounted, "{events}");
    Ok(())
}

/// A program that says of every event whether perf shall have it. If it says no, what perf counts is what it was not run
/// for; an event that it cannot be run for because another is at work does not count (kernel/trace/bpf_trace.c:
/// trace_call_bpf). Other users of perf do not see these events either, as long as the tests run.
fn program(verdict: i32) -> Result<OwnedFd> {
    let instruction = |code, imm| sys::bpf_insn {
        code: code as u8,
        imm,
        ..Default::default()
    };
    let code = [
        instruction(sys::BPF_ALU64 | sys::BPF_MOV | sys::BPF_K, verdict), // in r0
        instruction(sys::BPF_JMP | sys::BPF_EXIT, 0),
    ];
    // SAFETY: as many instructions as it says, strings that end, and no options.
    let fd = unsafe {
        sys::bpf_prog_load(
            sys::BPF_PROG_TYPE_TRACEPOINT,
            c"unseen".as_ptr(),
            c"GPL".as_ptr(),
            code.as_ptr(),
            code.len() as sys::size_t,
            ptr::null_mut(),
        )
    };
    owned(fd)
}

/// What perf calls the tracepoints, of which some kernels lack some. In a thread whose mounts are its own, because
/// tracefs may be mounted nowhere.
fn ids(names: Vec<&'static str>) -> Result<Vec<u64>> {
    let look = move || ids_here(&names);
    thread::spawn(look).join().expect("no panic")
}

fn ids_here(names: &[&str]) -> Result<Vec<u64>> {
    let none = None::<&str>;
    if tracefs_events().is_err() {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
        let (kind, place) = (Some("tracefs"), "/sys/kernel/tracing");
        mount(kind, place, kind, MsFlags::empty(), none)?;
    }
    let events = tracefs_events()?;
    let path = |name: &str| -> PathBuf { events.join(name.replace(':', "/")).join("id") };
    let texts = names
        .iter()
        .filter_map(|name| fs::read_to_string(path(name)).ok());
    texts.map(|text| Ok(text.trim().parse()?)).collect()
}

fn counters_of(id: u64, program: &OwnedFd) -> Result<Vec<File>> {
    let mut counters: Vec<File> = vec![];
    for cpu in 0..libbpf_rs::num_possible_cpus()? {
        match counter(id, cpu as i32) {
            Ok(counter) => counters.push(counter.into()),
            Err(Errno::ENODEV) => {} // the CPU is not there
            Err(error) => return Err(error.into()),
        }
    }
    let first = counters.first().context("no CPU")?;
    // One for all: a program belongs to the tracepoint.
    control(first, SET_BPF, program.as_raw_fd())?;
    for counter in &counters {
        control(counter, ENABLE, 0)?;
    }
    Ok(counters)
}

/// Not counting yet.
fn counter(id: u64, cpu: i32) -> nix::Result<OwnedFd> {
    let mut attr = sys::perf_event_attr {
        type_: sys::PERF_TYPE_TRACEPOINT,
        size: mem::size_of::<sys::perf_event_attr>() as u32,
        config: id,
        ..Default::default()
    };
    attr.set_disabled(1);
    let (anyone, no_group) = (-1, -1);
    // SAFETY: the kernel reads as many bytes of a live struct as it says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            anyone,
            cpu,
            no_group,
            libc::c_ulong::from(sys::PERF_FLAG_FD_CLOEXEC),
        )
    };
    let fd = Errno::result(fd)? as RawFd;
    // SAFETY: the call has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn control(counter: &File, request: libc::c_ulong, argument: i32) -> Result<()> {
    // SAFETY: both requests take an integer.
    let done = unsafe { libc::ioctl(counter.as_raw_fd(), request, argument) };
    Ok(Errno::result(done).map(drop)?)
}

fn owned(fd: RawFd) -> Result<OwnedFd> {
    ensure!(fd >= 0, Errno::from_raw(-fd));
    // SAFETY: libbpf has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
