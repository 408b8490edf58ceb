// SPDX-License-Identifier: MIT OR Apache-2.0
//! Rows that are deferred because a later record may complete or retract them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Deferred rows, in order of arrival.
pub struct Deferred<R> {
    rows: VecDeque<Row<R>>,
    turn: u64,
}

struct Row<R> {
    row: R,
    since: Instant,
    turn: u64,
}

/// How long a row has been deferred.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// In turns of the reader: see [`Deferred::end_turn`].
    pub turns: u64,
    /// In time.
    pub time: Duration,
}

impl<R> Default for Deferred<R> {
    fn default() -> Self {
        Self {
            rows: VecDeque::new(),
            turn: 0,
        }
    }
}

impl<R> Deferred<R> {
    /// Defers one more row.
    pub fn push(&mut self, row: R) {
        self.rows.push_back(Row {
            row,
            since: Instant::now(),
            turn: self.turn,
        });
    }

    /// Whether no row is deferred.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many are deferred.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// All of them, to complete them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut R> {
        self.rows.iter_mut().map(|row| &mut row.row)
    }

    /// Removes the last row that matches.
    pub fn retract(&mut self, is_it: impl Fn(&R) -> bool) {
        if let Some(index) = self.rows.iter().rposition(|row| is_it(&row.row)) {
            self.rows.remove(index);
        }
    }

    /// The first row.
    pub fn front(&self) -> Option<&R> {
        self.rows.front().map(|row| &row.row)
    }

    /// When the first row has been deferred for so long, if there is one.
    pub fn due(&self, age: Duration) -> Option<Instant> {
        self.rows.front().map(|row| row.since + age)
    }

    /// The reader has handed over everything that was available.
    pub fn end_turn(&mut self) {
        self.turn += 1;
    }

    /// The first row, if it is due.
    pub fn pop_if(&mut self, is_due: impl FnOnce(&mut R, Age) -> bool) -> Option<R> {
        let first = self.rows.front_mut()?;
        let age = Age {
            turns: self.turn - first.turn,
            time: first.since.elapsed(),
        };
        let due = is_due(&mut first.row, age);
        due.then(|| self.rows.pop_front())
            .flatten()
            .map(|row| row.row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_row_delays_later_rows() {
        let mut rows = Deferred::default();
        (1..=3).for_each(|n| rows.push(n));
        assert_eq!(rows.pop_if(|n, _| *n > 1), None);
        rows.iter_mut().for_each(|n| *n *= 10);
        assert_eq!(rows.pop_if(|n, _| *n == 10), Some(10));
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn age_counts_turns() {
        let mut rows = Deferred::default();
        rows.push('a');
        rows.end_turn();
        rows.push('b');
        let next = |rows: &mut Deferred<char>| rows.pop_if(|_, age| age.turns == 1);
        assert_eq!((next(&mut rows), next(&mut rows)), (Some('a'), None));
        rows.end_turn();
        assert_eq!(next(&mut rows), Some('b'));
        assert!(rows.is_empty());
    }

    #[test]
    fn last_match_is_retracted() {
        let mut rows = Deferred::default();
        [(1, 'a'), (2, 'b'), (1, 'c')]
            .into_iter()
            .for_each(|row| rows.push(row));
        rows.retract(|row| row.0 == 1);
        rows.retract(|row| row.0 == 3);
        let left: Vec<_> = rows.iter_mut().map(|row| row.1).collect();
        assert_eq!(left, ['a', 'b']);
    }
}
