// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that runs an iterator in every network namespace, each time it is asked to.
//!
//! That takes privileges as long as the command runs: CAP_SYS_ADMIN to enter a namespace, CAP_SYS_PTRACE to look up
//! that of a process. The command itself drops all; so this is another process, which has these two, reads /proc and
//! what our own program writes, and says nothing to anybody else. It ends with the command, however that ends.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use crate::{iter, namespaces};

/// What a visit brought.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Visited {
    /// What the program wrote, in all namespaces.
    pub bytes: Vec<u8>,
    /// Namespaces that could not be visited.
    pub unvisited: u64,
}

/// How long a visit may take: one that has been stopped must not hold up the command.
const PATIENCE: Duration = Duration::from_secs(10);

/// The process, as the command sees it.
pub(crate) struct NamespaceWorker {
    /// `None` once it has gone.
    stream: RefCell<Option<UnixStream>>,
    process: Pid,
}

impl NamespaceWorker {
    /// To be called with privileges, and before there are other threads than that for signals.
    ///
    /// # Errors
    /// When there can be no more processes or descriptors.
    pub(crate) fn start(link: &impl AsFd) -> Result<Self> {
        let link = link.as_fd().try_clone_to_owned()?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(PATIENCE))?;
        // What is free again would stay with the other process.
        crate::session::give_back_memory();
        // Signals are for the command: the other process leaves them blocked, and ends when the command does.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the only other thread is the one that waits for signals, which holds no lock meanwhile.
        let forked = unsafe { fork() };
        if !matches!(forked, Ok(ForkResult::Child)) {
            before.thread_set_mask()?;
        }
        match forked.context("no process")? {
            ForkResult::Parent { child } => Ok(Self {
                stream: RefCell::new(Some(ours)),
                process: child,
            }),
            ForkResult::Child => {
                let body = AssertUnwindSafe(|| work(theirs, &link));
                let _ = catch_unwind(body);
                // SAFETY: ends this process without running what the other one shall run at its end.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Visits each namespace once.
    ///
    /// # Errors
    /// When the command's own cannot be visited, or the process has gone.
    pub(crate) fn visit(&self) -> Result<Visited> {
        let mut held = self.stream.borrow_mut();
        let stream = held.as_mut().context("no process visits them any more")?;
        match ask(stream) {
            Ok(answer) => answer,
            Err(error) => {
                // Half an answer would be taken for the next one's.
                *held = None;
                Err(error).context("no process visits them any more")
            }
        }
    }
}

impl Drop for NamespaceWorker {
    fn drop(&mut self) {
        // It would end by itself when nobody can ask it, but for one that has been stopped, or has a long visit to end.
        self.stream.take();
        let _ = kill(self.process, Signal::SIGKILL);
        while waitpid(self.process, None) == Err(Errno::EINTR) {}
    }
}

/// One question, one answer: whether it failed, what was not visited, then so many bytes.
fn ask(stream: &mut UnixStream) -> io::Result<Result<Visited>> {
    stream.write_all(&[0])?;
    let mut words = [[0; 8]; 3];
    for word in &mut words {
        stream.read_exact(word)?;
    }
    let [failed, unvisited, length] = words.map(u64::from_ne_bytes);
    let mut bytes = Vec::new();
    if stream.take(length).read_to_end(&mut bytes)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if failed != 0 {
        let error = String::from_utf8_lossy(&bytes).into_owned();
        return Ok(Err(anyhow::Error::msg(error)));
    }
    Ok(Ok(Visited { bytes, unvisited }))
}

/// Answers until the other end is closed.
fn serve(stream: &mut UnixStream, mut visit: impl FnMut() -> Result<Visited>) -> io::Result<()> {
    loop {
        let mut question = [0];
        stream.read_exact(&mut question)?;
        let (failed, visited) = match visit() {
            Ok(visited) => (0, visited),
            Err(error) => {
                let bytes = format!("{error:#}").into_bytes();
                (
                    1,
                    Visited {
                        bytes,
                        unvisited: 0,
                    },
                )
            }
        };
        for word in [failed, visited.unvisited, visited.bytes.len() as u64] {
            stream.write_all(&word.to_ne_bytes())?;
        }
        stream.write_all(&visited.bytes)?;
    }
}

fn work(mut stream: UnixStream, link: &OwnedFd) {
    let _ = prctl::set_name(c"tcptools-netns");
    if close_others(&[stream.as_raw_fd(), link.as_raw_fd()]).is_ok()
        && keep_two_capabilities().is_ok()
    {
        let _ = serve(&mut stream, || visit(link));
    }
}

fn visit(link: &OwnedFd) -> Result<Visited> {
    let mut bytes = iter::run(link)?;
    let mut failed = 0u64;
    let unvisited = namespaces::visit_others(|| match iter::run(link) {
        Ok(more) => bytes.extend(more),
        Err(_) => failed = failed.saturating_add(1),
    });
    let unvisited = unvisited.saturating_add(failed);
    Ok(Visited { bytes, unvisited })
}

/// The command's pipes, maps and programs shall end with the command.
fn close_others(kept: &[RawFd]) -> Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let entries = fs::read_dir("/proc/self/fd").context("no /proc")?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let open: Vec<RawFd> = names.filter_map(|n| n.to_str()?.parse().ok()).collect();
    let null = null.as_ref().map(AsRawFd::as_raw_fd);
    for fd in open.into_iter().filter(|fd| !kept.contains(fd)) {
        // SAFETY: nothing in this process uses the descriptor any more, whoever has opened it.
        unsafe {
            match null {
                Ok(null) if fd == null => {}
                Ok(null) if fd <= libc::STDERR_FILENO => drop(libc::dup2(null, fd)),
                _ => drop(libc::close(fd)),
            }
        }
    }
    Ok(())
}

fn keep_two_capabilities() -> Result<()> {
    let kept = [Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE];
    let may = |&cap: &Capability| caps::has_cap(None, CapSet::Permitted, cap).unwrap_or(false);
    let kept = kept.into_iter().filter(may).collect();
    // Takes CAP_SETPCAP, and so goes first; not having it is fine.
    let _ = caps::clear(None, CapSet::Bounding);
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::clear(None, CapSet::Inheritable)?;
    match prctl::set_no_new_privs() {
        Ok(()) => Ok(()),
        Err(error) => bail!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A worker that is a thread, for what a process would do the same.
    fn answers(
        mut all: Vec<Result<Visited>>,
    ) -> (RefCell<Option<UnixStream>>, thread::JoinHandle<()>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let body = move || {
            let _ = serve(&mut theirs, || all.remove(0));
        };
        (RefCell::new(Some(ours)), thread::spawn(body))
    }

    #[test]
    fn after_a_visit_that_failed_the_next_is_not_stale() {
        let first = Err(anyhow::anyhow!("not now"));
        let fresh = |n: u8| Visited {
            bytes: vec![n; 100_000],
            unvisited: n.into(),
        };
        let (stream, thread) = answers(vec![Ok(fresh(1)), first, Ok(fresh(3)), Ok(fresh(4))]);
        let mut held = stream.borrow_mut();
        let stream = held.as_mut().unwrap();
        assert_eq!(ask(stream).unwrap().unwrap(), fresh(1));
        assert_eq!(ask(stream).unwrap().unwrap_err().to_string(), "not now");
        assert_eq!(ask(stream).unwrap().unwrap(), fresh(3));
        assert_eq!(ask(stream).unwrap().unwrap(), fresh(4));
        *held = None;
        thread.join().unwrap();
    }

    #[test]
    fn a_process_that_has_gone_is_an_error_each_time() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let half = thread::spawn(move || {
            theirs.read_exact(&mut [0]).unwrap();
            theirs.write_all(&[0; 30]).unwrap();
        });
        let worker = NamespaceWorker {
            stream: RefCell::new(Some(ours)),
            process: Pid::from_raw(i32::MAX),
        };
        // No such process: there is nothing to wait for.
        let worker = std::mem::ManuallyDrop::new(worker);
        // All is zero: an answer of no bytes, and six more of the next one.
        assert_eq!(worker.visit().unwrap(), Visited::default());
        half.join().unwrap();
        for _ in 0..2 {
            let error = worker.visit().unwrap_err().to_string();
            assert_eq!(error, "no process visits them any more");
        }
    }
}
