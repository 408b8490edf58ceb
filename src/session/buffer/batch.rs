// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records copied out of the kernel's buffers into reused memory.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use std::ops::Range;

/// A queue of records of whole words; the first word is the time.
#[derive(Default)]
pub(super) struct Batch {
    /// Records start at a word boundary, so they are aligned for decoding.
    words: Vec<u64>,
    /// The position of each record in `words`.
    records: Vec<Range<usize>>,
    /// Records before it have been taken.
    next: usize,
    /// Records before it may be taken.
    ready: usize,
    /// The previous buffer, for [`Self::forget_taken`].
    spare: Vec<u64>,
}

impl Batch {
    /// Adds a copy, without an incomplete word at the end: the kernel pads samples of a perf buffer by half a word
    /// (`perf_prepare_sample`: raw).
    pub(super) fn push(&mut self, record: &[u8]) {
        let (words, _) = record.as_chunks::<8>();
        let first = self.words.len();
        let end = first.saturating_add(words.len());
        self.words.reserve(words.len());
        // One copy, which a loop over the words would not become.
        // SAFETY: there is room for as many words behind the first ones, and any bytes are a word.
        unsafe {
            let free = self.words.as_mut_ptr().add(first);
            std::ptr::copy_nonoverlapping(words.as_ptr(), free.cast(), words.len());
            self.words.set_len(end);
        }
        if !words.is_empty() {
            self.records.push(first..end);
        }
    }

    /// Makes room.
    pub(super) fn forget_taken(&mut self) {
        self.records.drain(..self.next);
        (self.next, self.ready) = (0, 0);
        self.spare.clear();
        for record in &mut self.records {
            let first = self.spare.len();
            let words = self.words.get(record.clone()).unwrap_or_default();
            self.spare.extend_from_slice(words);
            *record = first..self.spare.len();
        }
        std::mem::swap(&mut self.words, &mut self.spare);
    }

    /// Releases all records, in the order added.
    pub(super) fn release(&mut self) {
        self.ready = self.records.len();
    }

    /// Releases records up to that time, sorted by time; equal times keep their order.
    pub(super) fn release_until(&mut self, ns: u64) {
        let words = &self.words;
        let time = |record: &Range<usize>| words.get(record.start).copied().unwrap_or(0);
        if let Some(left) = self.records.get_mut(self.next..) {
            left.sort_by_key(time);
        }
        self.ready = self.records.partition_point(|record| time(record) <= ns);
    }

    /// How many records there are, taken or not.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The records but for so many, in the order added.
    pub(super) fn since(&self, known: usize) -> impl Iterator<Item = &[u8]> {
        let (words, records) = (&self.words, self.records.get(known..));
        let records = records.unwrap_or_default().iter();
        records.filter_map(move |record| words.get(record.clone()).map(bytes_of))
    }

    /// The time of the first record that may not be taken yet, if they are sorted.
    pub(super) fn kept(&self) -> Option<u64> {
        let first = self.records.get(self.ready)?.start;
        self.words.get(first).copied()
    }

    /// The next record that may be taken.
    pub(super) fn take(&mut self) -> Option<&[u8]> {
        let record = self.records.get(self.next..self.ready)?.first()?;
        let words = self.words.get(record.clone())?;
        self.next = self.next.saturating_add(1);
        Some(bytes_of(words))
    }
}

fn bytes_of(words: &[u64]) -> &[u8] {
    // SAFETY: the bytes of a live slice of integers, seen for its length.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn taken(batch: &mut Batch) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| batch.take().map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn records_are_taken_once_in_order() {
        let mut batch = Batch::default();
        let records = [bytes(&[3, 1]), bytes(&[2]), bytes(&[1, 2, 3])];
        for _ in 0..3 {
            for record in &records {
                batch.push(record);
            }
            assert!(batch.take().is_none(), "not released");
            batch.release();
            assert_eq!(taken(&mut batch), records);
            batch.forget_taken();
            batch.release();
            assert!(batch.take().is_none());
        }
    }

    #[test]
    fn records_are_sorted_by_time() {
        let mut batch = Batch::default();
        for time in [5, 1, 9, 3] {
            batch.push(&bytes(&[time, time * 10]));
        }
        batch.release_until(4);
        assert_eq!(taken(&mut batch), [bytes(&[1, 10]), bytes(&[3, 30])]);
        batch.forget_taken();
        batch.push(&bytes(&[7]));
        batch.push(&bytes(&[5]));
        batch.release_until(8);
        let until = [bytes(&[5, 50]), bytes(&[5]), bytes(&[7])];
        assert_eq!(taken(&mut batch), until);
        batch.release_until(u64::MAX);
        assert_eq!(taken(&mut batch), [bytes(&[9, 90])]);
    }

    #[test]
    fn kept_records_are_seen_once() {
        let mut batch = Batch::default();
        for time in [5, 1] {
            let known = batch.len();
            batch.push(&bytes(&[time]));
            let seen: Vec<_> = batch.since(known).map(<[u8]>::to_vec).collect();
            assert_eq!(seen, [bytes(&[time])]);
            batch.release_until(4);
        }
        assert_eq!(taken(&mut batch), [bytes(&[1])]);
        assert_eq!(batch.kept(), Some(5));
        batch.release_until(5);
        assert_eq!((taken(&mut batch).len(), batch.kept()), (1, None));
    }

    #[test]
    fn padding_is_removed() {
        let mut batch = Batch::default();
        batch.push(&[&bytes(&[1, 2])[..], &[0; 4]].concat());
        batch.push(&[0; 4]);
        batch.release();
        assert_eq!(taken(&mut batch), [bytes(&[1, 2])]);
    }
}
