// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows that wait for the final statistics of their sockets.

use std::time::{Duration, Instant};

use crate::kernel::sock_diag::{DestroyMonitor, DiagSocket, LOOK, STATISTICS_TIMEOUT};
use crate::session::{Deferred, Interval};

/// Rows that wait for the final statistics of their sockets, in order.
pub struct PendingRows<R> {
    accounts: DestroyMonitor,
    deferred: Deferred<(u64, R)>,
    looks: Interval,
}

impl<R> PendingRows<R> {
    /// Without statistics from the kernel, rows are released at once.
    pub fn new(accounts: DestroyMonitor) -> Self {
        Self {
            accounts,
            deferred: Deferred::default(),
            looks: Interval::at_once(LOOK),
        }
    }

    /// Where the statistics come from.
    pub fn accounts(&self) -> &DestroyMonitor {
        &self.accounts
    }

    /// Adds a row that waits for the statistics of the socket with this cookie, which has just been destroyed.
    pub fn push(&mut self, cookie: u64, row: R) {
        self.deferred.push((cookie, row));
    }

    /// When to release rows next, if ever.
    pub fn due(&self) -> Option<Instant> {
        let waits = !self.deferred.is_empty();
        let look = self.looks.due().filter(|_| waits);
        look.into_iter().chain(self.accounts.due()).min()
    }

    /// Releases the rows that need not wait any longer, if it is time to look.
    pub fn release_due(&mut self, show: impl FnMut(R, Option<&DiagSocket>)) {
        if self.looks.has_passed() {
            self.looks.restart();
            self.release(show);
        }
    }

    fn release(&mut self, mut show: impl FnMut(R, Option<&DiagSocket>)) {
        self.accounts.read();
        let (mut found, accounts) = (None, &mut self.accounts);
        while let Some((_, row)) = self.deferred.pop_if(|(cookie, _), age| {
            found = accounts.take(*cookie);
            found.is_some() || !accounts.is_available() || age.time >= STATISTICS_TIMEOUT
        }) {
            show(row, found.as_ref());
        }
    }

    /// The same for all rows, at the end of a run.
    pub fn finish(&mut self, mut show: impl FnMut(R, Option<&DiagSocket>)) {
        self.release(&mut show);
        while !self.deferred.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
            self.release(&mut show);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_statistics_are_released() {
        let mut finals = PendingRows::new(DestroyMonitor::without());
        finals.push(1, 'a');
        finals.push(2, 'b');
        let mut rows = Vec::new();
        finals.finish(|row, account| rows.push((row, account.is_some())));
        assert_eq!(rows, [('a', false), ('b', false)]);
    }

    #[test]
    fn rows_keep_order() {
        let mut finals = PendingRows::new(DestroyMonitor::watch());
        finals.push(u64::MAX - 1, 'a');
        finals.push(u64::MAX, 'b');
        let account = DiagSocket::default();
        finals.accounts.insert(u64::MAX, account);
        finals.release(|_, _| panic!("the first one waits"));
        finals.accounts.insert(u64::MAX - 1, account);
        let mut rows = Vec::new();
        finals.release(|row, account| rows.push((row, account.is_some())));
        assert_eq!(rows, [('a', true), ('b', true)]);
    }
}
