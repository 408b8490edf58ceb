// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows of sessions that have ended, which wait until their sockets are destroyed, and then for the accounts of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::abi::types::MAX_SOCKETS;
use crate::kernel::sock_diag::{DestroyMonitor, LOOK, STATISTICS_TIMEOUT};
use crate::session::Interval;

use super::super::bpf::types::session;
use super::final_stats::{Calls, Ended, complete, within_one};

/// A process may keep a dead socket open forever: then its row is printed without statistics.
const DESTROY_TIMEOUT: Duration = Duration::from_secs(5);

/// So long a row may hold up those of later ends. After that these overtake it.
const ORDER_TIMEOUT: Duration = Duration::from_millis(250);

/// Maximum number of waiting rows; the excess is printed as is.
const MAX_ROWS: usize = MAX_SOCKETS as usize;

struct Row {
    row: session,
    ended: Ended,
    since: Instant,
    /// The cookie of its socket, and when that was destroyed.
    destroyed: Option<(u64, Instant)>,
    ready: bool,
}

/// The rows by their numbers, in the order of their ends.
pub struct DeferredRows {
    accounts: DestroyMonitor,
    rows: BTreeMap<u64, Row>,
    looks: Interval,
}

impl DeferredRows {
    pub fn new(accounts: DestroyMonitor) -> Self {
        Self {
            accounts,
            rows: BTreeMap::new(),
            looks: Interval::at_once(LOOK),
        }
    }

    pub fn accounts(&self) -> &DestroyMonitor {
        &self.accounts
    }

    /// Adds a row with the highest number so far. `last`: no statistics will follow.
    pub fn push(&mut self, number: u64, row: session, ended: Ended, last: bool) {
        let row = Row {
            row,
            ended,
            since: Instant::now(),
            destroyed: None,
            ready: last || !self.accounts.is_available(),
        };
        self.rows.insert(number, row);
    }

    /// Its socket is destroyed.
    pub fn destroyed(&mut self, number: u64, cookie: u64, calls: &Calls) {
        if let Some(row) = self.rows.get_mut(&number) {
            row.row.head.cookie = cookie;
            row.ended.at_once = within_one(&row.ended.calls, calls);
            row.destroyed = Some((cookie, Instant::now()));
        }
    }

    /// Its socket is reused: tcp_disconnect() has cleared it.
    pub fn reused(&mut self, number: u64) {
        if let Some(row) = self.rows.get_mut(&number) {
            row.ready = true;
        }
    }

    /// A reset was its true ending. Whether it was still here.
    pub fn amend(&mut self, number: u64, reason: u8) -> bool {
        let row = self.rows.get_mut(&number);
        row.is_some_and(|row| {
            row.row.reason = reason;
            row.ended.reset = true;
            true
        })
    }

    /// When to release rows next, if ever.
    pub fn due(&self) -> Option<Instant> {
        let waits = !self.rows.is_empty();
        let look = self.looks.due().filter(|_| waits);
        look.into_iter().chain(self.accounts.due()).min()
    }

    /// Releases the rows that need not wait any longer, if it is time to look.
    pub fn release_due(&mut self, out: impl FnMut(&session)) {
        if self.looks.has_passed() {
            self.looks.restart();
            self.release(out);
        }
    }

    fn release(&mut self, out: impl FnMut(&session)) {
        self.accounts.read();
        let accounts = &mut self.accounts;
        for row in self.rows.values_mut().filter(|row| !row.ready) {
            row.look(accounts);
        }
        self.hand_over(out);
    }

    /// The same for all rows, at the end of a run: no more sockets will be seen to be destroyed.
    pub fn finish(&mut self, mut out: impl FnMut(&session)) {
        for row in self.rows.values_mut() {
            row.ready |= row.destroyed.is_none();
        }
        self.release(&mut out);
        while !self.rows.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
            self.release(&mut out);
        }
    }

    fn hand_over(&mut self, mut out: impl FnMut(&session)) {
        let mut surplus = self.rows.len().saturating_sub(MAX_ROWS);
        let mut blocked = false;
        self.rows.retain(|_, row| {
            let goes = row.ready && !blocked || surplus > 0;
            surplus = surplus.saturating_sub(1);
            if goes {
                out(&row.row);
            } else {
                blocked |= row.since.elapsed() < ORDER_TIMEOUT;
            }
            !goes
        });
    }
}

impl Row {
    fn look(&mut self, accounts: &mut DestroyMonitor) {
        let Some((cookie, since)) = self.destroyed else {
            self.ready = self.since.elapsed() > DESTROY_TIMEOUT;
            return;
        };
        let diag = accounts.take(cookie);
        if let Some(diag) = &diag {
            complete(&mut self.row, &self.ended, diag);
        }
        self.ready = diag.is_some() || cookie == 0 || since.elapsed() > STATISTICS_TIMEOUT;
    }
}
