// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows that wait for what the kernel tells of their destroyed sockets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{Accounts, Described, PATIENCE};

/// Rows that wait for the account of their socket, first come, first served.
pub struct Finals<R> {
    accounts: Accounts,
    waiting: VecDeque<(u64, Instant, R)>,
}

impl<R> Finals<R> {
    /// Where no accounts come, all rows come without.
    pub fn new(accounts: Accounts) -> Self {
        Self {
            accounts,
            waiting: VecDeque::new(),
        }
    }

    /// Whether accounts come at all.
    pub fn are_told(&self) -> bool {
        self.accounts.are_told()
    }

    /// Why none will come, if the kernel does not tell.
    pub fn untold(&self) -> Option<&str> {
        self.accounts.untold()
    }

    /// Accounts that were lost because this process was too slow.
    pub fn lost(&self) -> u64 {
        self.accounts.lost()
    }

    /// See [`Accounts::unvisited`].
    pub fn unvisited(&self) -> u64 {
        self.accounts.unvisited()
    }

    /// A row that waits for the account of the socket with this cookie, which has just been destroyed.
    pub fn push(&mut self, cookie: u64, row: R) {
        self.waiting.push_back((cookie, Instant::now(), row));
    }

    /// Hands over the rows that need not wait any longer. Call it once per turn of the reader.
    pub fn release(&mut self, mut show: impl FnMut(R, Option<&Described>)) {
        self.accounts.read();
        while let Some((cookie, since, _)) = self.waiting.front() {
            let found = self.accounts.take(*cookie);
            let waits = self.accounts.are_told() && since.elapsed() < PATIENCE;
            if found.is_none() && waits {
                return;
            }
            if let Some((_, _, row)) = self.waiting.pop_front() {
                show(row, found.as_ref());
            }
        }
    }

    /// The same for all rows, at the end of a run.
    pub fn finish(&mut self, mut show: impl FnMut(R, Option<&Described>)) {
        self.release(&mut show);
        while !self.waiting.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
            self.release(&mut show);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_an_account_come_in_the_end() {
        let mut finals = Finals::new(Accounts::without());
        finals.push(1, 'a');
        finals.push(2, 'b');
        let mut rows = Vec::new();
        finals.finish(|row, account| rows.push((row, account.is_some())));
        assert_eq!(rows, [('a', false), ('b', false)]);
    }

    #[test]
    fn rows_keep_their_order() {
        let mut finals = Finals::new(Accounts::watch());
        finals.push(u64::MAX - 1, 'a');
        finals.push(u64::MAX, 'b');
        let account = Described::default();
        finals.accounts.insert(u64::MAX, account);
        finals.release(|_, _| panic!("the first one waits"));
        finals.accounts.insert(u64::MAX - 1, account);
        let mut rows = Vec::new();
        finals.release(|row, account| rows.push((row, account.is_some())));
        assert_eq!(rows, [('a', true), ('b', true)]);
    }
}
