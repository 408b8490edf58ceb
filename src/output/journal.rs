// SPDX-License-Identifier: MIT OR Apache-2.0
//! The systemd journal, by its native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>): a datagram per entry.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::output::message::Throttle;

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// How long to wait for a full journal. Meanwhile rows wait in the ring buffer, whose losses are counted.
const SEND_TIMEOUT: Duration = Duration::from_millis(250);

/// A connection to the journal. Reuses one buffer for all entries.
pub struct Journal {
    socket: UnixDatagram,
    path: PathBuf,
    entry: Vec<u8>,
    stalled: bool,
    lost: u64,
    said: Throttle,
}

impl Journal {
    /// Connects to the journal.
    ///
    /// # Errors
    /// A sentence, when nothing listens at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let connect = || -> io::Result<UnixDatagram> {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path)?;
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
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
            entry: Vec::with_capacity(1024),
            stalled: false,
            lost: 0,
            said: Throttle::default(),
        })
    }

    /// Begins an entry.
    pub fn begin(&mut self) {
        self.entry.clear();
    }

    /// Adds a field. `value` may hold any byte, line feeds too.
    pub fn field(&mut self, key: &str, value: &[u8]) {
        self.entry.extend_from_slice(key.as_bytes());
        if value.contains(&b'\n') {
            self.entry.push(b'\n');
            let size = value.len() as u64;
            self.entry.extend_from_slice(&size.to_le_bytes());
        } else {
            self.entry.push(b'=');
        }
        self.entry.extend_from_slice(value);
        self.entry.push(b'\n');
    }

    /// Adds a field whose text has no line feed.
    pub fn text(&mut self, key: &str, value: impl std::fmt::Display) {
        // Writing to memory does not fail.
        let _ = writeln!(self.entry, "{key}={value}");
    }

    /// Sends the entry. Counts it as lost if the journal does not accept it in time.
    pub fn send(&mut self) {
        let mut sent = self.socket.send(&self.entry);
        // A restarted journal has another socket at the same path.
        if sent.as_ref().is_err_and(gone) && self.socket.connect(&self.path).is_ok() {
            sent = self.socket.send(&self.entry);
        }
        let failed = sent.is_err();
        self.lost += u64::from(failed);
        // A stalled journal delays one entry, not each.
        if failed != self.stalled && self.socket.set_nonblocking(failed).is_ok() {
            self.stalled = failed;
        }
    }

    /// How many entries the journal did not accept.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// When more of them are due to be reported.
    pub fn due(&self) -> Option<Instant> {
        self.said.due()
    }

    /// The same, if it is due to be reported. `last`: the run ends.
    pub fn to_say(&mut self, last: bool) -> Option<u64> {
        self.said.is_due(self.lost, last).then_some(self.lost)
    }
}

fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotConnected
    )
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
        journal.begin();
        journal.text("PORT", 80);
        journal.field("COMM", b"a\nb");
        journal.send();
        let expected = b"PORT=80\nCOMM\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert_eq!(receive(&server), expected);

        drop(server);
        std::fs::remove_file(&path).unwrap();
        journal.send();
        assert_eq!(journal.lost(), 1);
        let server = UnixDatagram::bind(&path).unwrap();
        journal.send();
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
