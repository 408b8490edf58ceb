// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where entries of the systemd journal go: its socket, a datagram per entry.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::framed;
use crate::error::Usage;
use crate::kernel::trust;
use crate::output::message::Throttle;

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// How long an entry waits for a full journal, beside rows that go to standard output.
const SEND_TIMEOUT: Duration = Duration::from_millis(250);

/// How long the last entries wait for one that takes none.
const LAST_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to the journal.
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    stalled: bool,
    lost: u64,
    said: Throttle,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The journal has it.
    Taken,
    /// The journal is full: try again.
    Full,
    /// Nobody will have it; it is counted.
    Lost,
}

impl Journal {
    /// Connects to the journal.
    ///
    /// # Errors
    /// A sentence, when nothing listens at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        if trust::elevated() && path != Path::new(SOCKET) {
            bail!(Usage(format!(
                "--journal-socket: only {SOCKET}, with rights that you do not have"
            )));
        }
        let connect = || -> io::Result<UnixDatagram> {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = connect().map_err(|e| {
            let (path, reason) = (path.display(), e.to_string());
            let reason = reason.split(" (os error").next().unwrap_or_default();
            anyhow!("cannot connect to the systemd journal at {path}: {reason}")
        })?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            stalled: false,
            lost: 0,
            said: Throttle::default(),
        })
    }

    /// Sends an entry, unless the journal is full. One that is refused is counted as lost.
    pub fn offer(&mut self, entry: &[u8]) -> Sent {
        let mut sent = self.socket.send(entry);
        // A restarted journal has another socket at the same path.
        if sent.as_ref().is_err_and(gone) && self.socket.connect(&self.path).is_ok() {
            sent = self.socket.send(entry);
        }
        match sent {
            Ok(_) => Sent::Taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Sent::Full,
            Err(_) => {
                self.lost += 1;
                Sent::Lost
            }
        }
    }

    /// Sends an entry, and counts it as lost if the journal does not take it in time.
    pub fn send(&mut self, entry: &[u8]) {
        let mut sent = self.offer(entry);
        // A stalled journal delays one entry, not each.
        if sent == Sent::Full && !self.stalled && self.wait(SEND_TIMEOUT) {
            sent = self.offer(entry);
        }
        self.stalled = sent == Sent::Full;
        self.lost += u64::from(self.stalled);
    }

    /// Waits until there may be room; returns whether there may be.
    pub fn wait(&self, time: Duration) -> bool {
        let mut fds = self.poll_fds(true);
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
        poll(&mut fds, timeout).is_ok_and(|ready| ready > 0)
    }

    /// For poll(): with `room`, when to try again. The second one tells nothing.
    pub fn poll_fds(&self, room: bool) -> [PollFd<'_>; 2] {
        let wanted = if room {
            PollFlags::POLLOUT
        } else {
            PollFlags::empty()
        };
        let fd = self.socket.as_fd();
        [PollFd::new(fd, wanted), PollFd::new(fd, PollFlags::empty())]
    }

    /// How many entries the journal did not accept.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// When more of them are due to be reported.
    pub fn due(&self) -> Option<Instant> {
        self.said.due()
    }

    /// Reports them, if that is due. `last`: the run ends.
    pub fn report(&mut self, tool: &str, last: bool) {
        if self.said.is_due(self.lost, last) {
            crate::message!("{tool}: the journal did not accept {} entries", self.lost);
        }
    }
}

fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionRefused | ErrorKind::NotConnected
    )
}

/// Where rows go instead of standard output, until [`take`].
static CHOSEN: Mutex<Option<Journal>> = Mutex::new(None);

/// Connects to the journal, to which all rows go from now on.
///
/// # Errors
/// As [`Journal::open`].
pub fn choose(path: &Path) -> Result<()> {
    let journal = Journal::open(path)?;
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(journal);
    Ok(())
}

/// The journal that was chosen; once.
pub fn take() -> Option<Journal> {
    CHOSEN.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Sends these entries, which lie one after another in a buffer, to the journal if it was chosen.
///
/// # Errors
/// A sentence, when the journal does not accept them all.
pub fn deliver(mut entries: &[u8]) -> Option<Result<()>> {
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    let journal = chosen.as_mut()?;
    let lost = journal.lost();
    while let Some((entry, taken)) = framed(entries) {
        if journal.offer(entry) == Sent::Full {
            match journal.wait(LAST_TIMEOUT) {
                true => continue,
                false => journal.lost += 1,
            }
        }
        entries = entries.get(taken..).unwrap_or_default();
    }
    Some(match journal.lost() - lost {
        0 => Ok(()),
        1 => Err(anyhow!("the journal did not accept 1 entry")),
        lost => Err(anyhow!("the journal did not accept {lost} entries")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("journal-{name}-{}", std::process::id()))
    }

    fn receive(socket: &UnixDatagram) -> Vec<u8> {
        let mut buffer = vec![0; 4096];
        let n = socket.recv(&mut buffer).unwrap();
        buffer.truncate(n);
        buffer
    }

    #[test]
    fn journal_protocol_and_restart() {
        let path = path("restart");
        let server = UnixDatagram::bind(&path).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        let expected = b"PORT=80\nCOMM\n\x03\0\0\0\0\0\0\0a\nb\n";
        journal.send(expected);
        assert_eq!(receive(&server), expected);

        drop(server);
        std::fs::remove_file(&path).unwrap();
        journal.send(expected);
        assert_eq!(journal.lost(), 1);
        let server = UnixDatagram::bind(&path).unwrap();
        journal.send(expected);
        assert_eq!(
            (receive(&server).len(), journal.lost()),
            (expected.len(), 1)
        );
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn missing_journal_is_reported() {
        let error = Journal::open(&path("none")).err().unwrap().to_string();
        assert!(
            error.starts_with("cannot connect to the systemd journal at"),
            "{error}"
        );
    }
}
