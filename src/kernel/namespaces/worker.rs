// SPDX-License-Identifier: MIT OR Apache-2.0
//! A process that looks at every network namespace, on request: runs an iterator there, or asks the kernel by netlink.
//!
//! It keeps privileges as long as the command runs: CAP_SYS_ADMIN to enter a namespace, CAP_SYS_PTRACE to look up that of
//! a process, and root's files, as only root can look where some are mounted (`/run/docker/netns`). The command itself
//! drops all of them; so this is a separate process, which reads only /proc and what our own program or netlink tells,
//! and answers only the command. It exits with the command, however that ends.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::cell::RefCell;
use std::ffi::CStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
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
use nix::unistd::{ForkResult, Pid, fork, geteuid, setresuid};

use crate::kernel::{namespaces, privileges};

/// What is done in each namespace: hands on what it finds there.
pub(crate) type Look = dyn Fn(&mut Found<'_>) -> Result<()>;

/// Takes what is found, piece by piece.
pub(crate) type Found<'f> = dyn FnMut(&[u8]) + 'f;

/// How long a visit may take: a stopped worker must not block the command.
const VISIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The process, as the command sees it.
pub(crate) struct NamespaceWorker {
    /// `None` once it has gone.
    stream: RefCell<Option<UnixStream>>,
    process: Pid,
}

impl NamespaceWorker {
    /// Call it with privileges, and before any thread exists but the one for signals. `look` is what is done in each
    /// namespace, `kept` are the descriptors that it needs, and `rights` the capabilities besides those with which
    /// namespaces are entered.
    ///
    /// # Errors
    /// If no process or descriptor can be created.
    pub(crate) fn start(look: &Look, kept: &[RawFd], rights: &[Capability]) -> Result<Self> {
        let (ours, mut theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(VISIT_TIMEOUT))?;
        let kept = [kept, &[theirs.as_raw_fd()]].concat();
        let body = move || drop(serve(&mut theirs, |found| visit(look, found)));
        let process = spawn(c"tcptools-netns", &kept, rights, body)
            .context("cannot start the process that visits network namespaces")?;
        Ok(Self {
            stream: RefCell::new(Some(ours)),
            process,
        })
    }

    /// Visits each network namespace once, and hands on what it finds: of very much nothing is kept. Returns how many
    /// could not be visited.
    ///
    /// # Errors
    /// If the command's own cannot be visited, or the process has exited. What was found before that has been handed on.
    pub(crate) fn visit(&self, found: &mut Found<'_>) -> Result<u64> {
        let mut held = self.stream.borrow_mut();
        let stream = held
            .as_mut()
            .context("the process that visits network namespaces has ended")?;
        match ask(stream, found) {
            Ok(answer) => answer,
            Err(error) => {
                // A partial answer would corrupt the next one.
                *held = None;
                Err(error).context("the process that visits network namespaces has ended")
            }
        }
    }
}

impl Drop for NamespaceWorker {
    fn drop(&mut self) {
        // It exits by itself when the stream is closed, unless it is stopped or in a long visit.
        self.stream.take();
        end(self.process);
    }
}

/// One request; the answer is pieces, each behind its length, a length of 0, and how many namespaces were left out, or
/// [`FAILED`] and a sentence.
fn ask(stream: &mut UnixStream, found: &mut Found<'_>) -> io::Result<Result<u64>> {
    stream.write_all(&[0])?;
    let mut piece = Vec::new();
    while read_piece(stream, &mut piece)? {
        found(&piece);
    }
    match read_word(stream)? {
        FAILED => {
            read_piece(stream, &mut piece)?;
            let error = String::from_utf8_lossy(&piece).into_owned();
            Ok(Err(anyhow::Error::msg(error)))
        }
        unvisited => Ok(Ok(unvisited)),
    }
}

/// Instead of a number of namespaces: there was an error.
const FAILED: u64 = u64::MAX;

fn read_word(stream: &mut UnixStream) -> io::Result<u64> {
    let mut word = [0; 8];
    stream.read_exact(&mut word)?;
    Ok(u64::from_ne_bytes(word))
}

/// Whether there was one.
fn read_piece(stream: &mut UnixStream, piece: &mut Vec<u8>) -> io::Result<bool> {
    let length = read_word(stream)?;
    piece.clear();
    let mut rest = (&mut *stream).take(length);
    if rest.read_to_end(piece)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(length != 0)
}

fn write_piece(stream: &mut UnixStream, piece: &[u8]) -> io::Result<()> {
    stream.write_all(&(piece.len() as u64).to_ne_bytes())?;
    stream.write_all(piece)
}

/// Answers requests until the other end is closed.
fn serve(
    stream: &mut UnixStream,
    mut visit: impl FnMut(&mut Found<'_>) -> Result<u64>,
) -> io::Result<()> {
    loop {
        stream.read_exact(&mut [0])?;
        let mut written = Ok(());
        let answer = visit(&mut |piece| {
            if written.is_ok() && !piece.is_empty() {
                written = write_piece(stream, piece);
            }
        });
        written?;
        write_piece(stream, &[])?;
        match answer {
            Ok(unvisited) => stream.write_all(&unvisited.to_ne_bytes())?,
            Err(error) => {
                stream.write_all(&FAILED.to_ne_bytes())?;
                write_piece(stream, format!("{error:#}").as_bytes())?;
            }
        }
    }
}

/// Starts a process that runs `body` with these descriptors, the capabilities with which namespaces are entered, and
/// `rights` besides, and exits. Call it with privileges, and before any thread exists but the one for signals.
///
/// Returns when the process has its own rights: until then a command that has dropped its own could not end it.
///
/// # Errors
/// If no process can be created, or it does not get that far.
pub(crate) fn spawn(
    name: &CStr,
    kept: &[RawFd],
    rights: &[Capability],
    body: impl FnOnce(),
) -> Result<Pid> {
    let (mut ready, mut tell) = UnixStream::pair()?;
    // Freed memory would otherwise stay allocated in the child.
    crate::kernel::limits::give_back_memory();
    // Signals are for the command: the child keeps them blocked, and exits with the command.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: the only other thread is the one that waits for signals, which holds no lock meanwhile.
    let forked = unsafe { fork() };
    if !matches!(forked, Ok(ForkResult::Child)) {
        before.thread_set_mask()?;
    }
    match forked? {
        ForkResult::Parent { child } => {
            drop(tell);
            if let Err(error) = ready.read_exact(&mut [0]) {
                end(child);
                return Err(error).context("the process does not start");
            }
            Ok(child)
        }
        ForkResult::Child => {
            let work = || {
                let _ = prctl::set_name(name);
                let kept = [kept, &[tell.as_raw_fd()]].concat();
                let prepared = close_others(&kept).and_then(|()| keep_capabilities(rights));
                if prepared.is_ok() && tell.write_all(&[0]).is_ok() {
                    drop(tell);
                    body();
                }
            };
            let _ = catch_unwind(AssertUnwindSafe(work));
            // SAFETY: ends this process without running what the other one shall run at its end.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Ends such a process.
pub(crate) fn end(process: Pid) {
    if kill(process, Signal::SIGKILL).is_ok() {
        while waitpid(process, None) == Err(Errno::EINTR) {}
    }
}

fn visit(look: &Look, found: &mut Found<'_>) -> Result<u64> {
    look(found)?;
    let mut failed = 0u64;
    let unvisited = namespaces::visit_others(|| {
        if look(found).is_err() {
            failed = failed.saturating_add(1);
        }
    });
    Ok(unvisited.saturating_add(failed))
}

/// Closes the command's pipes, maps and programs, which must not outlive it.
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

fn keep_capabilities(more: &[Capability]) -> Result<()> {
    let kept = [Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_PTRACE];
    let may = |&cap: &Capability| caps::has_cap(None, CapSet::Permitted, cap).unwrap_or(false);
    let kept = kept.into_iter().chain(more.iter().copied());
    let kept = kept.filter(may).collect();
    // Take CAP_SETPCAP and CAP_SETUID, and so go first; not having these is fine.
    let _ = caps::clear(None, CapSet::Bounding);
    // The command, which will be this user's, can end it: see kill(2). What may be done to files stays.
    let _ = setresuid(privileges::user().0, geteuid(), geteuid());
    let _ = prctl::set_dumpable(false);
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

    /// What a visit is to find, and what it is to return.
    type Planned = (Vec<u8>, Result<u64>);

    /// A worker that is a thread, for what a process would do the same.
    fn answers(mut all: Vec<Planned>) -> (RefCell<Option<UnixStream>>, thread::JoinHandle<()>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let body = move || {
            let _ = serve(&mut theirs, |found| {
                let (bytes, answer) = all.remove(0);
                bytes.chunks(30_000).for_each(&mut *found);
                // Nothing is no end.
                found(&[]);
                answer
            });
        };
        (RefCell::new(Some(ours)), thread::spawn(body))
    }

    #[test]
    fn failed_visit_leaves_no_stale_answer() {
        let fresh = |n: u8| (vec![n; 100_000], Ok(n.into()));
        let failed = (vec![2; 7], Err(anyhow::anyhow!("not now")));
        let (stream, thread) = answers(vec![fresh(1), failed, fresh(3), fresh(4)]);
        let mut held = stream.borrow_mut();
        let stream = held.as_mut().unwrap();
        let mut ask = || {
            let mut bytes = Vec::new();
            let answer = ask(stream, &mut |piece| bytes.extend_from_slice(piece));
            (bytes, answer.unwrap().map_err(|error| error.to_string()))
        };
        assert_eq!(ask(), (vec![1; 100_000], Ok(1)));
        assert_eq!(ask(), (vec![2; 7], Err("not now".into())));
        assert_eq!(ask(), (vec![3; 100_000], Ok(3)));
        assert_eq!(ask(), (vec![4; 100_000], Ok(4)));
        *held = None;
        thread.join().unwrap();
    }

    #[test]
    fn exited_worker_is_an_error_each_time() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let half = thread::spawn(move || {
            theirs.read_exact(&mut [0]).unwrap();
            theirs.write_all(&[0; 22]).unwrap();
        });
        let worker = NamespaceWorker {
            stream: RefCell::new(Some(ours)),
            process: Pid::from_raw(i32::MAX),
        };
        // No such process: there is nothing to wait for.
        let worker = std::mem::ManuallyDrop::new(worker);
        // All is zero: an answer of nothing, and six bytes more of the next one.
        assert_eq!(worker.visit(&mut |_| {}).unwrap(), 0);
        half.join().unwrap();
        for _ in 0..2 {
            let error = worker.visit(&mut |_| {}).unwrap_err().to_string();
            assert_eq!(
                error,
                "the process that visits network namespaces has ended"
            );
        }
    }
}
