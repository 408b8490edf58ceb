// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts of values in log-linear buckets (`bpf/common/buckets.bpf.h`), and their percentiles.
//!
//! With `sub_bits` n there are 2^n buckets for each power of two, so the middle of a bucket is at most 1/2^(n+1) away
//! from every value in it.

/// The smallest value of a bucket.
pub fn lowest(bucket: usize, sub_bits: u32) -> u64 {
    let (octave, rest) = (bucket >> sub_bits, bucket & ((1 << sub_bits) - 1));
    match octave {
        0 => bucket as u64,
        _ => ((1u64 << sub_bits) + rest as u64) << (octave - 1),
    }
}

/// The value that represents a bucket.
pub fn middle(bucket: usize, sub_bits: u32) -> u64 {
    (lowest(bucket, sub_bits) + lowest(bucket + 1, sub_bits)) / 2
}

/// The value that `percent` of all did not exceed: the middle of its bucket.
pub fn percentile<N: Copy + Into<u64>>(counts: &[N], sub_bits: u32, percent: u64) -> Option<u64> {
    let all: u64 = counts.iter().map(|&n| n.into()).sum();
    // As 128 bits: there may be very many.
    let rank = (u128::from(all) * u128::from(percent)).div_ceil(100).max(1);
    let mut seen = 0;
    let bucket = counts.iter().position(|&n| {
        seen += u128::from(n.into());
        seen >= rank
    })?;
    Some(middle(bucket, sub_bits))
}

/// The highest value: exactly, if `max`, the highest that ever was, is in the last bucket that has any; otherwise the
/// middle of that.
pub fn highest<N: Copy + Into<u64>>(counts: &[N], sub_bits: u32, max: u64) -> Option<u64> {
    let bucket = counts.iter().rposition(|&n| n.into() > 0)?;
    let last = bucket + 1 == counts.len();
    let holds = max >= lowest(bucket, sub_bits) && (last || max < lowest(bucket + 1, sub_bits));
    Some(if holds { max } else { middle(bucket, sub_bits) })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        for (sub_bits, count) in [(4, 784), (3, 256)] {
            let linear = 1 << sub_bits;
            assert!((0..2 * linear).all(|n| lowest(n, sub_bits) == n as u64));
            for bucket in linear..count - 1 {
                let (low, high) = (lowest(bucket, sub_bits), lowest(bucket + 1, sub_bits));
                let off = middle(bucket, sub_bits) - low;
                assert!(high > low && off << (sub_bits + 1) <= low, "{bucket}");
            }
        }
        assert_eq!((lowest(256, 3), lowest(784, 4)), (1 << 34, 1 << 52));
    }

    #[test]
    fn percentiles_and_maximum() {
        let mut counts = [0u64; 256];
        counts[3] = 98;
        counts[50] = 1;
        counts[100] = 1;
        let of = |percent| percentile(&counts, 3, percent);
        assert_eq!((of(50), of(98)), (Some(3), Some(3)));
        assert_eq!(
            (of(99), of(100)),
            (Some(middle(50, 3)), Some(middle(100, 3)))
        );
        let low = lowest(100, 3);
        assert_eq!(highest(&counts, 3, low + 1), Some(low + 1));
        assert_eq!(highest(&counts, 3, 2 * low), Some(middle(100, 3)));
        assert_eq!(
            (percentile(&[0u64; 8], 3, 50), highest(&[0u64; 8], 3, 0)),
            (None, None)
        );
    }

    /// The bucket of a value: the last that does not begin above it.
    fn bucket_of(value: u64, sub_bits: u32, count: usize) -> usize {
        (0..count)
            .rposition(|bucket| lowest(bucket, sub_bits) <= value)
            .unwrap()
    }

    proptest! {
        #[test]
        fn percentile_error_is_bounded(
            values in vec(0..1u64 << 34, 1..200),
            shift in 0..34u32,
            percent in 1..=100u64,
            sub_bits in 3..=4u32,
        ) {
            let mut values: Vec<_> = values.iter().map(|value| value >> shift).collect();
            let len = if sub_bits == 3 { 256 } else { 784 };
            let mut counts = vec![0u64; len];
            for &value in &values {
                counts[bucket_of(value, sub_bits, len)] += 1;
            }
            values.sort_unstable();
            let rank = (values.len() as u64 * percent).div_ceil(100).max(1);
            let exact = values[rank as usize - 1];
            let off = percentile(&counts, sub_bits, percent).unwrap().abs_diff(exact);
            prop_assert!(off << (sub_bits + 1) <= exact, "{off} off {exact}");
            let max = values[values.len() - 1];
            prop_assert_eq!(highest(&counts, sub_bits, max), Some(max));
        }
    }
}
