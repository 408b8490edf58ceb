// SPDX-License-Identifier: MIT OR Apache-2.0
//! SIGINT, SIGTERM and SIGHUP as a file descriptor to wait for.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::error::Interrupted;
use crate::kernel::{limits, privileges};

/// A signal that follows this soon counts as the same: `timeout` signals the process and then its group.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// How long a run may take to end by itself after a second signal, or a signal during the start.
const GRACE: Duration = Duration::from_millis(250);

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Reports when the user wants the tool to stop. A second, later signal ends the process at once.
#[derive(Clone)]
pub struct Interrupt(Arc<Shared>);

struct Shared {
    first: OnceLock<Instant>,
    urgent: AtomicBool,
    /// Nothing is made yet that would be left behind.
    starting: AtomicBool,
    event: EventFd,
}

impl Interrupt {
    /// Installs the handlers, once in a process. A signal that the caller ignores stays ignored, as `nohup` and a shell's
    /// `&` want it.
    ///
    /// # Errors
    /// When no thread or no descriptor is left.
    pub fn install() -> Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .context("cannot create a file descriptor for signals")?;
        let interrupt = Self(Arc::new(Shared {
            first: OnceLock::new(),
            urgent: AtomicBool::new(false),
            starting: AtomicBool::new(true),
            event,
        }));
        // Signals stay pending meanwhile. Blocking cannot fail for valid signals.
        let signals: SigSet = SIGNALS.into_iter().collect();
        let _ = signals.thread_block();
        let ignored: Vec<_> = SIGNALS.into_iter().filter(is_ignored).collect();
        let inner = interrupt.clone();
        let handle = move || {
            // The thread that ctrlc begins has what this one has.
            privileges::drop_all();
            ctrlc::set_handler(move || inner.signal())
        };
        let thread = thread::Builder::new().spawn(handle);
        let no_thread = || anyhow!("{}", limits::thread());
        let thread = thread.map_err(|_| no_thread())?;
        let set = thread
            .join()
            .map_err(|_| anyhow!("cannot handle signals"))?;
        set.map_err(|_| no_thread())?;
        await_others();
        // A file at its size limit is reported as an error, like a full disk.
        for signal in ignored.into_iter().chain([Signal::SIGXFSZ]) {
            let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
            // SAFETY: no handler of ours runs for it any more.
            unsafe { sigaction(signal, &ignore) }.context("cannot ignore a signal")?;
        }
        let _ = signals.thread_unblock();
        Ok(interrupt)
    }

    /// The same; what closes the other end of a pipe, if one is given, means SIGTERM.
    ///
    /// # Errors
    /// As above, or it is no descriptor of a pipe.
    pub fn until_closed(pipe: Option<RawFd>) -> Result<Self> {
        let interrupt = Self::install()?;
        if let Some(pipe) = pipe {
            interrupt.stop_when_closed(pipe)?;
        }
        Ok(interrupt)
    }

    /// Has the kernel send SIGTERM to this process when the other end of a pipe is closed (fs/pipe.c: pipe_release), on
    /// behalf of this process itself.
    ///
    /// # Errors
    /// It is no descriptor of a pipe.
    fn stop_when_closed(&self, fd: RawFd) -> Result<()> {
        /// include/uapi/asm-generic/fcntl.h
        const F_SETSIG: libc::c_int = 10;
        let own = i32::try_from(process::id()).unwrap_or(0);
        let settings = [
            (libc::F_SETOWN, own),
            (F_SETSIG, Signal::SIGTERM as i32),
            (libc::F_SETFL, libc::O_ASYNC),
            (libc::F_SETFD, libc::FD_CLOEXEC),
        ];
        for (command, value) in settings {
            // SAFETY: the commands take a number, and an unknown descriptor is an error.
            let done = unsafe { libc::fcntl(fd, command, value) };
            Errno::result(done).with_context(|| format!("--stop-fd {fd}"))?;
        }
        // It may have been closed before.
        // SAFETY: open, as the calls above have shown, and used for this call only.
        let pipe = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut fds = [PollFd::new(pipe, PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0) {
            self.signal();
        }
        Ok(())
    }

    /// In ctrlc's thread.
    fn signal(&self) {
        let shared = &*self.0;
        let again = shared.first.get_or_init(Instant::now).elapsed() >= DEBOUNCE;
        shared.urgent.fetch_or(again, Ordering::SeqCst);
        // It fails only when the counter overflows, which so few writes do not bring about.
        let _ = shared.event.write(1);
        if again {
            // To say what is left out takes a moment.
            thread::sleep(GRACE);
            process::exit(130);
        }
        if shared.starting.load(Ordering::SeqCst) {
            // The kernel may be at work on one long step: programs to check, sockets to visit.
            thread::sleep(GRACE);
            if shared.starting.load(Ordering::SeqCst) {
                process::exit(0);
            }
        }
    }

    /// Whether a signal has come.
    pub fn raised(&self) -> bool {
        self.0.first.get().is_some()
    }

    /// Whether the user does not want to wait for the end.
    pub fn is_urgent(&self) -> bool {
        self.0.urgent.load(Ordering::SeqCst)
    }

    /// Between two steps of the start.
    ///
    /// # Errors
    /// [`Interrupted`], if a signal has come.
    pub fn check(&self) -> Result<()> {
        match self.raised() {
            true => Err(Interrupted.into()),
            false => Ok(()),
        }
    }

    /// From now on the run ends by itself, and cleans up.
    pub fn started(&self) {
        self.0.starting.store(false, Ordering::SeqCst);
    }
}

/// Waits a moment for ctrlc's thread to wait for signals. Its first step takes memory, and on a busy host it would take
/// that only when a buffer for records has left none in a cgroup: then the kernel kills the process.
fn await_others() {
    const TURNS: u32 = 100;
    const TURN: Duration = Duration::from_micros(200);
    for _ in 0..TURNS {
        if others_sleep() {
            return;
        }
        thread::sleep(TURN);
    }
}

/// All other threads wait for something, or it cannot be known: their state in /proc/PID/task/TID/stat.
fn others_sleep() -> bool {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return true;
    };
    let own = process::id().to_string();
    tasks
        .flatten()
        .filter(|task| task.file_name() != *own)
        .filter_map(|task| fs::read_to_string(task.path().join("stat")).ok())
        // The name may have anything in it.
        .filter_map(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('S')))
        .all(|sleeps| sleeps)
}

fn is_ignored(signal: &Signal) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: changes nothing, and writes to a struct that lives.
    let ret = unsafe { libc::sigaction(*signal as i32, std::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: any bytes are a value, and zeros were there before.
    ret == 0 && unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
