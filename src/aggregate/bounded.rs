// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sums in bounded memory: a map that keeps the largest ones, and counts what it evicts (docs/principles.md 2, 5).

use std::collections::HashMap;
use std::hash::Hash;

/// What is summed up under one key.
pub trait Sum {
    /// How many occurrences are in it.
    fn occurrences(&self) -> u64;

    /// The order in which sums are evicted, lowest first.
    fn rank(&self) -> (u64, u64) {
        (self.occurrences(), 0)
    }
}

impl Sum for u64 {
    fn occurrences(&self) -> u64 {
        *self
    }
}

/// Sums by key, as many as there is room for. A key that comes when it is full takes the place of the lowest half. So every
/// sum that is left is of real occurrences, those of a key that was let go before are missing from it, and the sums
/// together with [`Bounded::uncounted`] are all that occurred.
#[derive(Debug)]
pub struct Bounded<K, S> {
    sums: HashMap<K, S>,
    most: usize,
    uncounted: u64,
    /// Something was evicted since the last clear.
    incomplete: bool,
}

impl<K: Eq + Hash, S: Sum> Bounded<K, S> {
    /// With capacity for `most` keys, at least one.
    pub fn new(most: usize) -> Self {
        Self {
            sums: HashMap::new(),
            most: most.max(1),
            uncounted: 0,
            incomplete: false,
        }
    }

    /// The sum of a key; `start` makes it if it is new, given whether occurrences of it may be missing.
    pub fn entry(&mut self, key: K, start: impl FnOnce(bool) -> S) -> &mut S {
        if self.sums.len() >= self.most && !self.sums.contains_key(&key) {
            self.let_go();
        }
        let incomplete = self.incomplete;
        self.sums.entry(key).or_insert_with(|| start(incomplete))
    }

    /// The sum of a key, if there is one.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut S> {
        self.sums.get_mut(key)
    }

    /// All keys and sums, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &S)> {
        self.sums.iter()
    }

    /// Empties it: what is summed up from now on is complete again.
    pub fn drain(&mut self) -> impl Iterator<Item = (K, S)> + '_ {
        self.incomplete = false;
        self.sums.drain()
    }

    /// Occurrences that were evicted since the start.
    pub fn uncounted(&self) -> u64 {
        self.uncounted
    }

    /// The lowest half: of fewer the map would not use the room again, but double it.
    fn let_go(&mut self) {
        let mut ranks: Vec<_> = self.sums.values().map(Sum::rank).collect();
        let half = ranks.len().div_ceil(2);
        let (_, &mut highest, _) = ranks.select_nth_unstable(half - 1);
        let lower = ranks[..half].iter().filter(|rank| **rank < highest);
        let mut as_high = half - lower.count();
        let uncounted = &mut self.uncounted;
        self.sums.retain(|_, sum| {
            let rank = sum.rank();
            let goes = rank < highest || (rank == highest && as_high > 0);
            if goes {
                as_high -= usize::from(rank == highest);
                *uncounted += sum.occurrences();
            }
            !goes
        });
        self.incomplete = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(sums: &mut Bounded<u32, u64>, key: u32) {
        *sums.entry(key, |_| 0) += 1;
    }

    #[test]
    fn overflow_keeps_largest_keys_and_total() {
        let mut sums = Bounded::new(100);
        for n in 0..100_000 {
            add(&mut sums, 1_000_000 + n);
            // Two that stand out, the second one late.
            if n % 10 == 0 {
                add(&mut sums, 1);
            }
            if n > 50_000 && n % 20 == 0 {
                add(&mut sums, 2);
            }
            assert!(sums.iter().count() <= 100);
        }
        let of = |key| sums.iter().find(|(k, _)| **k == key).map(|(_, sum)| *sum);
        assert_eq!(of(1), Some(10_000));
        assert!(of(2).is_some_and(|sum| sum > 2400));
        let all: u64 = sums.iter().map(|(_, sum)| sum).sum();
        assert_eq!(all + sums.uncounted(), 100_000 + 10_000 + 2499);
    }

    #[test]
    fn omission_is_reported_until_cleared() {
        let mut sums = Bounded::new(2);
        let mut incomplete = vec![];
        for key in [1, 2, 1, 3] {
            *sums.entry(key, |missing| {
                incomplete.push((key, missing));
                0u64
            }) += 1;
        }
        assert_eq!(incomplete, [(1, false), (2, false), (3, true)]);
        assert_eq!(sums.drain().count(), 2);
        assert_eq!((sums.iter().count(), sums.uncounted()), (0, 1));
        sums.entry(4, u64::from);
        assert_eq!(sums.get_mut(&4), Some(&mut 0));
    }
}
