// SPDX-License-Identifier: MIT OR Apache-2.0
//! One histogram as it is shown: powers of two, percentiles, the highest value.

use std::net::IpAddr;

use crate::abi::types::hist;
use crate::aggregate::buckets::{self, lowest};

/// `HIST_SUB_BITS` and `HIST_MAX_EXPONENT` of hist.bpf.h.
const SUB_BITS: u32 = 3;
const MAX_EXPONENT: usize = 34;

/// What is told of the distribution: its name, and how many of a hundred values are not higher.
pub(super) const PERCENTILES: [(&str, u64); 3] = [("p50", 50), ("p90", 90), ("p99", 99)];

/// One histogram, the address or port that it is of, and what its values are of.
pub(super) struct Shown {
    pub(super) sample: Option<&'static str>,
    pub(super) addr: Option<IpAddr>,
    pub(super) port: Option<u32>,
    pub(super) hist: hist,
}

impl Shown {
    pub(super) fn of(&self) -> Option<String> {
        let port = || self.port.map(|port| port.to_string());
        self.addr.map(|addr| addr.to_string()).or_else(port)
    }

    pub(super) fn count(&self) -> u64 {
        self.hist.bucket.iter().sum()
    }

    /// Lowest and highest value of each power of two, and how many fell into it.
    pub(super) fn slots(&self) -> Vec<(u64, u64, u64)> {
        let bounds = |n: usize| match n {
            0 => (0, 1),
            _ => (1 << n, (2 << n) - 1),
        };
        let mut slots = [0; MAX_EXPONENT];
        for (bucket, count) in self.hist.bucket.iter().enumerate() {
            slots[lowest(bucket, SUB_BITS).max(1).ilog2() as usize] += count;
        }
        let with_bounds = |(n, count)| (bounds(n).0, bounds(n).1, count);
        slots.into_iter().enumerate().map(with_bounds).collect()
    }

    fn max(&self) -> u64 {
        buckets::highest(&self.hist.bucket, SUB_BITS, self.hist.max).unwrap_or(0)
    }

    /// The percentiles and the highest value, with their names.
    pub(super) fn figures(&self) -> [(&'static str, u64); 4] {
        let max = self.max();
        let of = |(name, percent)| {
            let value = buckets::percentile(&self.hist.bucket, SUB_BITS, percent);
            (name, value.unwrap_or(0).min(max))
        };
        let [p50, p90, p99] = PERCENTILES.map(of);
        [p50, p90, p99, ("max", max)]
    }
}

/// The bucket of a value: bucket_of() of buckets.bpf.h.
pub(super) fn bucket_of(value: u64) -> usize {
    let octave = value.max(1).ilog2().saturating_sub(SUB_BITS);
    let bucket = ((octave as usize) << SUB_BITS) + (value >> octave) as usize;
    bucket.min(hist::default().bucket.len() - 1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn of(values: impl IntoIterator<Item = u64>) -> Shown {
        let mut hist = hist::default();
        for value in values {
            hist.bucket[bucket_of(value)] += 1;
            hist.sum += value;
            hist.max = hist.max.max(value);
        }
        Shown {
            sample: None,
            addr: None,
            port: None,
            hist,
        }
    }

    #[test]
    fn slots_are_contiguous_powers_of_two() {
        let mut next = 0;
        for (lo, hi, _) in of([]).slots() {
            assert_eq!(lo, next);
            assert!(hi >= lo);
            next = hi + 1;
        }
        assert_eq!(next, 1 << MAX_EXPONENT);
    }

    #[test]
    fn values_fall_into_their_bucket_and_slot() {
        let values =
            (0..MAX_EXPONENT as u32).flat_map(|n| [1 << n, (1 << n) + (1 << n) / 3, (2 << n) - 1]);
        for value in values.chain([0]) {
            let bucket = bucket_of(value);
            assert!(lowest(bucket, SUB_BITS) <= value && value < lowest(bucket + 1, SUB_BITS));
            let inside =
                |(lo, hi, count): &(u64, u64, u64)| (*lo..=*hi).contains(&value) == (*count == 1);
            assert!(of([value]).slots().iter().all(inside), "{value}");
        }
        assert_eq!(bucket_of(u64::MAX), hist::default().bucket.len() - 1);
    }

    #[test]
    fn percentiles_within_a_sixteenth_and_exact_maximum() {
        let shown = of((1..=1000).map(|n| n * 317));
        let want = [158_500u64, 285_300, 313_830];
        for ((name, actual), want) in shown.figures().into_iter().zip(want) {
            assert!(actual.abs_diff(want) * 16 <= want, "{name} is {actual}");
        }
        assert_eq!(shown.figures()[3], ("max", 317_000));
        assert_eq!(of([302_017]).figures().map(|f| f.1), [302_017; 4]);
    }
}
