// SPDX-License-Identifier: MIT OR Apache-2.0
//! What sockets had in the end: the kernel tells it of every socket that it destroys (`ss -E`), a moment after the
//! record of tcp:tcp_destroy_sock.

use std::collections::HashMap;
use std::mem::take;
use std::time::{Duration, Instant};

use super::message::Described;
use super::watch::Watch;
use crate::limits;

/// A worker of the kernel's sends the account, once nothing refers to the socket any more (net/core/sock_diag.c). What
/// has not come by then was lost, or is not told: sockets of the kernel's own, and of namespaces that are not watched.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Accounts of a generation, of which there are two: what is beyond makes the older one go before its time.
const MAX: usize = 64 * 1024;

/// Accounts of destroyed sockets, for those who know the cookie.
pub struct Accounts {
    watch: Option<Watch>,
    untold: Option<String>,
    came: Generations,
}

impl Accounts {
    /// Watches every network namespace that there is now. Where the kernel does not tell, none will come.
    pub fn watch() -> Self {
        let (watch, untold) = match Watch::new() {
            Ok(watch) => (Some(watch), None),
            Err(error) => (None, Some(limits::said(&error))),
        };
        Self {
            watch,
            untold,
            ..Self::without()
        }
    }

    /// Why none will come, if the kernel does not tell.
    pub fn untold(&self) -> Option<&str> {
        self.untold.as_deref()
    }

    /// None will come.
    pub fn without() -> Self {
        Self {
            watch: None,
            untold: None,
            came: Generations::default(),
        }
    }

    /// Whether accounts come at all.
    pub fn are_told(&self) -> bool {
        self.watch.is_some()
    }

    /// Accounts that were lost because they came faster than they were read, or than rows took them. Some were nobody's,
    /// because of filters.
    pub fn lost(&self) -> u64 {
        let unread = self.watch.as_ref().map_or(0, Watch::lost);
        unread.saturating_add(self.came.lost)
    }

    /// Network namespaces that are not watched, though they were there at the start.
    pub fn unvisited(&self) -> u64 {
        self.watch.as_ref().map_or(0, |watch| watch.unvisited)
    }

    /// Takes what has come since the last call. Call it once per turn of the reader.
    pub fn read(&mut self) {
        let Some(watch) = &mut self.watch else {
            return;
        };
        self.came.turn();
        watch.read(|socket| self.came.insert(socket));
    }

    /// The account of the socket with this cookie, once it has come. It is handed over once.
    pub fn take(&mut self, cookie: u64) -> Option<Described> {
        self.came.take(cookie)
    }

    /// As if it had come.
    #[cfg(test)]
    pub(super) fn insert(&mut self, cookie: u64, account: Described) {
        self.came.insert(Described { cookie, ..account });
    }
}

/// Accounts by cookie: the latest, and those before them. Some are nobody's, because of filters, so none stays for long.
struct Generations {
    latest: HashMap<u64, Described>,
    before: HashMap<u64, Described>,
    turned: Instant,
    /// Accounts that had to go before their time.
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
    /// Forgets those that nobody can wait for any more.
    fn turn(&mut self) {
        if self.turned.elapsed() > PATIENCE {
            self.age();
        }
    }

    fn age(&mut self) {
        self.turned = Instant::now();
        self.before = take(&mut self.latest);
    }

    fn insert(&mut self, socket: Described) {
        if self.latest.len() >= MAX {
            self.lost = self.lost.saturating_add(self.before.len() as u64);
            self.age();
        }
        self.latest.insert(socket.cookie, socket);
    }

    fn take(&mut self, cookie: u64) -> Option<Described> {
        let found = self.latest.remove(&cookie);
        found.or_else(|| self.before.remove(&cookie))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_that_nobody_takes_are_bounded_and_counted() {
        let mut came = Generations::default();
        for cookie in 0..3 * MAX as u64 + 1 {
            came.insert(Described {
                cookie,
                ..Described::default()
            });
        }
        assert_eq!(came.latest.len() + came.before.len(), MAX + 1);
        assert_eq!(came.lost, 2 * MAX as u64);
        assert!(came.take(0).is_none());
        assert!(came.take(2 * MAX as u64).is_some() && came.take(3 * MAX as u64).is_some());
        assert!(came.take(3 * MAX as u64).is_none(), "handed over once");
    }

    #[test]
    fn none_stays_for_long() {
        let mut came = Generations::default();
        let account = Described::default();
        came.insert(account);
        for generation in 0..2 {
            let past = Instant::now().checked_sub(PATIENCE + Duration::from_millis(1));
            came.turned = past.unwrap();
            came.turn();
            let kept = came.latest.len() + came.before.len();
            assert_eq!(kept, 1 - generation, "{generation}");
        }
        assert_eq!(came.lost, 0, "that is no loss");
    }
}
