// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes to an inherited descriptor without ever blocking in write(2) (docs/principles.md 13).
//!
//! That a descriptor is ready is no promise where several processes write to it, and O_NONBLOCK belongs to the open file
//! description, which the caller's other processes share. So pipes and terminals are opened anew: that description is
//! our own.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat, major, minor};
use nix::unistd::{isatty, write};

use crate::kernel::privileges;

/// Up to this size a pipe takes all or nothing (PIPE_BUF in `include/uapi/linux/limits.h`).
const ATOMIC: usize = 4096;

/// Writes what fits.
pub struct Writer<F> {
    fd: F,
    way: Way,
    /// The ioctl that returns how many bytes are unread.
    queue: Option<libc::Ioctl>,
    regular: bool,
    terminal: bool,
}

enum Way {
    /// Never blocks: a regular file, /dev/null.
    Direct,
    /// An open file description of our own.
    Reopened(OwnedFd),
    /// A socket, written with MSG_DONTWAIT.
    Socket,
    /// What cannot be reopened (another user's pipe or terminal, no /proc): a thread blocks, and can be abandoned.
    Thread(Waiter),
    /// Not even a thread: poll() is asked before each write.
    Polled,
}

impl<F: AsFd> Writer<F> {
    /// Changes nothing about the descriptor itself.
    pub fn new(fd: F) -> Self {
        let mode = fstat(fd.as_fd()).map_or(0, |stat| stat.st_mode);
        let kind = SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits());
        // One whose other end is closed answers with an error: any other device says that it is none.
        let terminal = kind == SFlag::S_IFCHR && isatty(fd.as_fd()).unwrap_or(true);
        let (way, queue) = match kind {
            SFlag::S_IFSOCK => (Way::Socket, Some(libc::TIOCOUTQ)),
            SFlag::S_IFIFO => (Way::by_reopening(&fd), Some(libc::FIONREAD)),
            _ if terminal => (Way::by_reopening(&fd), Some(libc::TIOCOUTQ)),
            _ => (Way::Direct, None),
        };
        Self {
            fd,
            way,
            queue,
            regular: kind == SFlag::S_IFREG,
            terminal,
        }
    }

    /// The descriptor that was given.
    pub fn get(&self) -> &F {
        &self.fd
    }

    /// Whether it is a regular file.
    pub fn is_regular(&self) -> bool {
        self.regular
    }

    /// Whether this error of a write says that nobody reads any more.
    pub fn has_left(&self, error: Errno) -> bool {
        match error {
            Errno::EPIPE | Errno::ECONNRESET => true,
            // The terminal's other end is closed.
            Errno::EIO => self.terminal,
            _ => false,
        }
    }

    /// Whether a thread is still writing the last bytes.
    pub fn holds(&self) -> bool {
        matches!(&self.way, Way::Thread(waiter) if waiter.busy)
    }

    /// What is best written in one go: as many whole lines as a pipe takes or refuses at once, so that the lines of
    /// several writers are never mixed and none is cut.
    pub fn chunk<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        if matches!(self.way, Way::Direct) || bytes.len() <= ATOMIC {
            return bytes;
        }
        let (first, _) = bytes.split_at(ATOMIC);
        let lines = first.iter().rposition(|&b| b == b'\n');
        lines.map_or(first, |end| &first[..=end])
    }

    /// Writes the beginning of `bytes`, or nothing. After EAGAIN the next call must begin with the same bytes.
    ///
    /// # Errors
    /// EAGAIN: there is no room now. Others as write(2).
    pub fn try_write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        loop {
            let written = match &mut self.way {
                Way::Direct => write(&self.fd, bytes),
                Way::Reopened(fd) => write(fd, bytes),
                Way::Socket => {
                    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    send(self.fd.as_fd().as_raw_fd(), bytes, flags)
                }
                Way::Thread(waiter) => waiter.try_write(bytes),
                Way::Polled => match self.wait(Duration::ZERO) {
                    true => write(&self.fd, bytes),
                    false => Err(Errno::EAGAIN),
                },
            };
            if written != Err(Errno::EINTR) {
                return written;
            }
        }
    }

    /// For poll(): the first tells that the reader has left; with `room` they also tell when to try again.
    pub fn poll_fds(&self, room: bool) -> [PollFd<'_>; 2] {
        let (fd, done) = match &self.way {
            Way::Reopened(fd) => (fd.as_fd(), None),
            Way::Thread(waiter) => (self.fd.as_fd(), Some(waiter.event.as_fd())),
            _ => (self.fd.as_fd(), None),
        };
        let wanted = |flag| if room { flag } else { PollFlags::empty() };
        match done {
            Some(event) => [
                PollFd::new(fd, PollFlags::empty()),
                PollFd::new(event, wanted(PollFlags::POLLIN)),
            ],
            None => [
                PollFd::new(fd, wanted(PollFlags::POLLOUT)),
                PollFd::new(fd, PollFlags::empty()),
            ],
        }
    }

    /// Waits until there may be space; returns whether there may be.
    pub fn wait(&self, time: Duration) -> bool {
        let mut fds = self.poll_fds(true);
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
    }

    /// How many bytes are unread, if known.
    pub fn queued(&self) -> Option<i32> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: these requests write an int, which lives.
        let ret = unsafe { libc::ioctl(self.fd.as_fd().as_raw_fd(), self.queue?, &raw mut bytes) };
        (ret == 0).then_some(bytes)
    }
}

impl Way {
    fn by_reopening(fd: &impl AsFd) -> Self {
        if let Some(own) = reopened(fd) {
            return Self::Reopened(own);
        }
        Waiter::new(fd).map_or(Self::Polled, Self::Thread)
    }
}

/// Another open file description of the same pipe or terminal.
fn reopened(fd: &impl AsFd) -> Option<OwnedFd> {
    let stat = fstat(fd.as_fd()).ok()?;
    // /dev/ptmx makes a new terminal at each open (Documentation/admin-guide/devices.txt: 5, 2).
    if (major(stat.st_rdev), minor(stat.st_rdev)) == (5, 2) {
        return None;
    }
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let own = open(path.as_str(), flags, Mode::empty()).ok()?;
    let same = fstat(&own).ok()?;
    ((same.st_dev, same.st_ino) == (stat.st_dev, stat.st_ino)).then_some(own)
}

/// A thread that waits in write(2), for as long as it takes.
struct Waiter {
    jobs: Sender<Vec<u8>>,
    results: Receiver<Result<usize, Errno>>,
    /// Readable when there is a result.
    event: Arc<EventFd>,
    busy: bool,
}

impl Waiter {
    /// `None`: no descriptor or thread is available.
    fn new(fd: &impl AsFd) -> Option<Self> {
        let file = File::from(fd.as_fd().try_clone_to_owned().ok()?);
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK).ok()?;
        let event = Arc::new(event);
        let (jobs, todo) = channel::<Vec<u8>>();
        let (tell, results) = channel();
        let done = Arc::clone(&event);
        let body = move || {
            privileges::drop_all();
            for bytes in todo {
                if tell.send(write(&file, &bytes)).is_err() {
                    return;
                }
                let _ = done.write(1);
            }
        };
        thread::Builder::new().spawn(body).ok()?;
        Some(Self {
            jobs,
            results,
            event,
            busy: false,
        })
    }

    fn try_write(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        if !self.busy {
            let job = bytes.to_vec();
            self.jobs.send(job).map_err(|_| Errno::EIO)?;
            self.busy = true;
        }
        // Before the look, so that a result that comes after it is announced.
        let _ = self.event.read();
        match self.results.try_recv() {
            Ok(result) => {
                self.busy = false;
                result
            }
            Err(TryRecvError::Empty) => Err(Errno::EAGAIN),
            Err(TryRecvError::Disconnected) => Err(Errno::EIO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeWriter, Read, pipe};

    fn full(writer: &mut Writer<PipeWriter>) -> usize {
        let mut taken = 0;
        let line = [[b'x'; 1023].as_slice(), b"\n"].concat();
        while let Ok(n) = writer.try_write(&line) {
            taken += n;
            assert!(taken < 1 << 24, "it never fills");
        }
        taken
    }

    #[test]
    fn full_pipe_does_not_block() {
        let (mut reader, writer) = pipe().unwrap();
        let mut writer = Writer::new(writer);
        assert!(matches!(writer.way, Way::Reopened(_)));
        let taken = full(&mut writer);
        assert_eq!(writer.queued(), Some(taken as i32));
        assert_eq!(writer.try_write(b"x\n"), Err(Errno::EAGAIN));
        assert!(!writer.wait(Duration::ZERO));
        let mut some = vec![0; 8192];
        reader.read_exact(&mut some).unwrap();
        assert!(writer.wait(Duration::ZERO));
        assert_eq!(writer.try_write(b"x\n"), Ok(2));
    }

    #[test]
    fn callers_file_description_is_unchanged() {
        use nix::fcntl::{FcntlArg, fcntl};
        let (_reader, pipe) = pipe().unwrap();
        let before = fcntl(&pipe, FcntlArg::F_GETFL).unwrap();
        let writer = Writer::new(pipe);
        assert_eq!(fcntl(writer.get(), FcntlArg::F_GETFL).unwrap(), before);
    }

    #[test]
    fn thread_writes_where_reopening_fails() {
        let (mut reader, pipe) = pipe().unwrap();
        let mut writer = Writer::new(pipe);
        writer.way = Way::Thread(Waiter::new(&writer.fd).unwrap());
        let patient = |writer: &mut Writer<PipeWriter>, bytes: &[u8]| loop {
            match writer.try_write(bytes) {
                Err(Errno::EAGAIN) if writer.wait(Duration::from_millis(300)) => {}
                result => return result,
            }
        };
        assert_eq!(patient(&mut writer, b"one\n"), Ok(4));
        let many = vec![b'x'; 1 << 20];
        assert_eq!(patient(&mut writer, &many), Err(Errno::EAGAIN));
        assert_eq!(writer.try_write(&many), Err(Errno::EAGAIN));
        let mut got = vec![0; 4];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(got, b"one\n");
        drop(reader);
        assert!(matches!(
            patient(&mut writer, &many),
            Ok(_) | Err(Errno::EPIPE)
        ));
    }

    #[test]
    fn lines_are_written_whole() {
        let (_reader, pipe) = pipe().unwrap();
        let writer = Writer::new(pipe);
        let long = [[b'x'; 3000].as_slice(), b"\n", &[b'y'; 3000], b"\n"].concat();
        assert_eq!(writer.chunk(&long).len(), 3001);
        assert_eq!(writer.chunk(b"x\ny\n"), b"x\ny\n");
        assert_eq!(writer.chunk(&[b'x'; 5000]).len(), ATOMIC);
    }
}
