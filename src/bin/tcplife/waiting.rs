// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows of sessions that have ended, which wait until their sockets are destroyed, and then for the accounts of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tcptools::diag::{Accounts, PATIENCE};

use super::super::bpf::types::session;
use super::account::{Calls, Ended, complete, within_one};

/// A process may keep a dead socket for ever: then its row comes without the account.
const KEPT: Duration = Duration::from_secs(5);

/// So long a row may hold up those of later ends. After that these overtake it.
const HOLDS: Duration = Duration::from_millis(250);

/// Rows that wait at the most; what is more comes as it is.
const MOST: usize = 128 * 1024;

struct Row {
    row: session,
    ended: Ended,
    since: Instant,
    /// The cookie of its socket, and when that was destroyed.
    destroyed: Option<(u64, Instant)>,
    ready: bool,
}

/// The rows by their numbers, in the order of their ends.
pub struct Waiting {
    accounts: Accounts,
    rows: BTreeMap<u64, Row>,
}

impl Waiting {
    pub fn new(accounts: Accounts) -> Self {
        Self {
            accounts,
            rows: BTreeMap::new(),
        }
    }

    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// One more, with the highest number so far. `last`: nothing more will be told of it.
    pub fn push(&mut self, number: u64, row: session, ended: Ended, last: bool) {
        let row = Row {
            row,
            ended,
            since: Instant::now(),
            destroyed: None,
            ready: last || !self.accounts.are_told(),
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

    /// Its socket is used anew: tcp_disconnect() has cleared it.
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

    /// Hands over the rows that need not wait any longer. Call it once per turn of the reader.
    pub fn release(&mut self, out: impl FnMut(&session)) {
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
        let mut surplus = self.rows.len().saturating_sub(MOST);
        let mut held = false;
        self.rows.retain(|_, row| {
            let goes = row.ready && !held || surplus > 0;
            surplus = surplus.saturating_sub(1);
            if goes {
                out(&row.row);
            } else {
                held |= row.since.elapsed() < HOLDS;
            }
            !goes
        });
    }
}

impl Row {
    fn look(&mut self, accounts: &mut Accounts) {
        let Some((cookie, since)) = self.destroyed else {
            self.ready = self.since.elapsed() > KEPT;
            return;
        };
        let told = accounts.take(cookie);
        if let Some(told) = &told {
            complete(&mut self.row, &self.ended, told);
        }
        self.ready = told.is_some() || cookie == 0 || since.elapsed() > PATIENCE;
    }
}
