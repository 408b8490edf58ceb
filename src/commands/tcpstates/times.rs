// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long sockets were in a state.

use crate::aggregate::buckets;

use super::bpf::types::histogram;

// SAFETY: generated from C, a `repr(C)` struct of integers without padding: every bit pattern is a value.
unsafe impl plain::Plain for histogram {}

/// As in tcpstates.bpf.c: 16 buckets for each power of two.
pub(super) const SUB_BITS: u32 = 4;

/// The times in one state that were counted in an interval, or since the start.
#[derive(Clone, Default)]
pub(super) struct Times {
    buckets: Vec<u32>,
    pub(super) unknown: u64,
    /// The longest since the start, exactly.
    max_ns: u64,
}

impl Times {
    /// Adds up what each CPU counted.
    pub(super) fn of(cpus: &[Vec<u8>]) -> Self {
        let mut sum = Self::default();
        for bytes in cpus {
            let mut h = histogram::default();
            if plain::copy_from_bytes(&mut h, bytes).is_err() {
                continue;
            }
            sum.buckets.resize(h.bucket.len(), 0);
            for (to, n) in sum.buckets.iter_mut().zip(h.bucket) {
                *to = to.wrapping_add(n);
            }
            sum.unknown += h.unknown;
            sum.max_ns = sum.max_ns.max(h.max_ns);
        }
        sum
    }

    /// Adds those of another group.
    pub(super) fn add(&mut self, more: &Self) {
        let len = self.buckets.len().max(more.buckets.len());
        self.buckets.resize(len, 0);
        for (to, n) in self.buckets.iter_mut().zip(&more.buckets) {
            *to = to.wrapping_add(*n);
        }
        self.unknown += more.unknown;
        self.max_ns = self.max_ns.max(more.max_ns);
    }

    pub(super) fn since(&self, before: &Self) -> Self {
        let mut change = self.clone();
        for (now, then) in change.buckets.iter_mut().zip(&before.buckets) {
            *now = now.wrapping_sub(*then);
        }
        change.unknown -= before.unknown;
        change
    }

    pub(super) fn timed(&self) -> u64 {
        self.buckets.iter().map(|&n| u64::from(n)).sum()
    }

    /// The time that `percent` of the sockets did not exceed: the middle of its bucket, 1/32 off at most.
    pub(super) fn percentile(&self, percent: u64) -> Option<u64> {
        let time = buckets::percentile(&self.buckets, SUB_BITS, percent);
        time.map(|time| time.min(self.max_ns))
    }

    /// The longest time: exact if it is the longest since the start, otherwise the middle of its bucket.
    pub(super) fn longest(&self) -> Option<u64> {
        buckets::highest(&self.buckets, SUB_BITS, self.max_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ns: &[u64]) -> Times {
        let mut buckets = vec![0; 784];
        for &ns in ns {
            let bucket = (0..784)
                .rposition(|b| buckets::lowest(b, SUB_BITS) <= ns)
                .unwrap();
            buckets[bucket] += 1;
        }
        Times {
            buckets,
            unknown: 0,
            max_ns: ns.iter().copied().max().unwrap_or(0),
        }
    }

    #[test]
    fn percentile_error_is_within_bound() {
        let ns: Vec<u64> = (1..=1000).map(|n| n * 1_000_003).collect();
        let times = times(&ns);
        for (percent, exact) in [(50, 500_001_500u64), (99, 990_002_970), (1, 10_000_030)] {
            let actual = times.percentile(percent).unwrap();
            assert!(
                actual.abs_diff(exact) * 32 <= exact,
                "p{percent}: {actual} for {exact}"
            );
        }
        assert_eq!(times.longest(), Some(1_000_003_000));
    }

    #[test]
    fn percentiles_of_none_and_of_one() {
        assert_eq!(
            (times(&[]).percentile(50), times(&[]).longest()),
            (None, None)
        );
        let one = times(&[1_000_000]);
        assert_eq!(one.longest(), Some(1_000_000));
        assert!(one.percentile(99).unwrap() <= 1_000_000);
    }

    #[test]
    fn interval_starts_from_zero() {
        let (before, after) = (times(&[5_000_000_000]), times(&[5_000_000_000, 1000]));
        let change = after.since(&before);
        assert_eq!(change.timed(), 1);
        let longest = change.longest().unwrap();
        assert!(longest.abs_diff(1000) * 32 <= 1000, "{longest}");
    }
}
