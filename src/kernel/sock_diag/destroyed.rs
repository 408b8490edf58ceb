// SPDX-License-Identifier: MIT OR Apache-2.0
//! Final statistics of sockets: the kernel multicasts them for every socket that it destroys (`ss -E`), a moment after
//! the record of tcp:tcp_destroy_sock.

use std::collections::HashMap;
use std::mem::take;
use std::time::{Duration, Instant};

use super::message::DiagSocket;
use super::watch::Watch;
use crate::kernel::limits;

/// How long to wait for the statistics of a destroyed socket. A kernel worker sends them once nothing refers to the
/// socket (net/core/sock_diag.c). What has not arrived by then was lost, or is not sent: for the kernel's own sockets,
/// and in namespaces that are not watched.
pub const STATISTICS_TIMEOUT: Duration = Duration::from_secs(2);

/// How often it is looked for statistics while a row waits for some. All such rows are gone through each time.
pub const LOOK: Duration = Duration::from_millis(50);

/// Capacity of each of the two generations; when exceeded, the older one is dropped early.
const MAX: usize = 64 * 1024;

/// Statistics of destroyed sockets, by cookie.
pub struct DestroyMonitor {
    watch: Option<Watch>,
    unavailable_reason: Option<String>,
    came: Generations,
}

impl DestroyMonitor {
    /// Watches all existing network namespaces. Delivers nothing if the kernel does not support it.
    pub fn watch() -> Self {
        let (watch, unavailable_reason) = match Watch::new() {
            Ok(watch) => (Some(watch), None),
            Err(error) => (None, Some(limits::said(&error))),
        };
        Self {
            watch,
            unavailable_reason,
            ..Self::without()
        }
    }

    /// Why there are no statistics, if the kernel does not send them.
    pub fn unavailable_reason(&self) -> Option<&str> {
        self.unavailable_reason.as_deref()
    }

    /// Delivers nothing.
    pub fn without() -> Self {
        Self {
            watch: None,
            unavailable_reason: None,
            came: Generations::default(),
        }
    }

    /// Whether statistics are delivered.
    pub fn is_available(&self) -> bool {
        self.watch.is_some()
    }

    /// Statistics lost because they arrived faster than they were read or claimed by rows, including those of filtered
    /// sockets.
    pub fn lost(&self) -> u64 {
        let unread = self.watch.as_ref().map_or(0, Watch::lost);
        unread.saturating_add(self.came.lost)
    }

    /// Network namespaces that existed at the start but are not watched.
    pub fn unvisited(&self) -> u64 {
        self.watch.as_ref().map_or(0, |watch| watch.unvisited)
    }

    /// When to read next, even if no row waits; `None`: whenever one does.
    pub fn due(&self) -> Option<Instant> {
        self.watch.as_ref().and_then(Watch::due)
    }

    /// Reads what has arrived since the last call. Call it once per turn of the reader.
    pub fn read(&mut self) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        self.came.turn();
        watch.read(|socket| self.came.insert(socket));
    }

    /// Removes and returns the statistics of the socket with this cookie, if they have arrived.
    pub fn take(&mut self, cookie: u64) -> Option<DiagSocket> {
        self.came.take(cookie)
    }

    /// Inserts statistics as if they had been received.
    #[cfg(test)]
    pub(crate) fn insert(&mut self, cookie: u64, account: DiagSocket) {
        self.came.insert(DiagSocket { cookie, ..account });
    }
}

/// Statistics by cookie, in two generations. Filtered sockets' are never claimed, so all of them expire.
struct Generations {
    latest: HashMap<u64, DiagSocket>,
    before: HashMap<u64, DiagSocket>,
    turned: Instant,
    /// Statistics that were dropped early.
    lost: u64,
}

impl Default for Generations {
    fn default() -> Self {
        Self {
            latest: HashMap::new(),
            before: HashMap::new(),
            turned: Instant::now(),
            lost: 0,
        }
    }
}

impl Generations {
    /// Drops those for which no row can still wait.
    fn turn(&mut self) {
        if self.turned.elapsed() > STATISTICS_TIMEOUT {
            self.age();
        }
    }

    fn age(&mut self) {
        self.turned = Instant::now();
        self.before = take(&mut self.latest);
    }

    fn insert(&mut self, socket: DiagSocket) {
        if self.latest.len() >= MAX {
            self.lost = self.lost.saturating_add(self.before.len() as u64);
            self.age();
        }
        self.latest.insert(socket.cookie, socket);
    }

    fn take(&mut self, cookie: u64) -> Option<DiagSocket> {
        let found = self.latest.remove(&cookie);
        found.or_else(|| self.before.remove(&cookie))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untaken_statistics_are_bounded_and_counted() {
        let mut came = Generations::default();
        for cookie in 0..3 * MAX as u64 + 1 {
            came.insert(DiagSocket {
                cookie,
                ..DiagSocket::default()
            });
        }
        assert_eq!(came.latest.len() + came.before.len(), MAX + 1);
        assert_eq!(came.lost, 2 * MAX as u64);
        assert!(came.take(0).is_none());
        assert!(came.take(2 * MAX as u64).is_some() && came.take(3 * MAX as u64).is_some());
        assert!(came.take(3 * MAX as u64).is_none(), "handed over once");
    }

    #[test]
    fn untaken_statistics_expire() {
        let mut came = Generations::default();
        let account = DiagSocket::default();
        came.insert(account);
        for generation in 0..2 {
            let past = Instant::now().checked_sub(STATISTICS_TIMEOUT + Duration::from_millis(1));
            came.turned = past.unwrap();
            came.turn();
            let kept = came.latest.len() + came.before.len();
            assert_eq!(kept, 1 - generation, "{generation}");
        }
        assert_eq!(came.lost, 0, "that is no loss");
    }
}
