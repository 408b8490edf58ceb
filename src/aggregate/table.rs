// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tables of sums: hash maps of the kernel half, or local ones if it only sends records.

use anyhow::{Context, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle, MapMut};

use crate::aggregate::bounded::{Bounded, Sum};

/// A table of either kind.
pub enum Table {
    /// The kernel half's, read anew each time.
    Kernel(MapHandle),
    /// Ours.
    Local(LocalMap),
}

/// A bounded hash map; the excess is counted.
pub struct LocalMap(Bounded<Vec<u8>, Entry>);

/// A value, and how many occurrences it is of.
struct Entry {
    value: Vec<u8>,
    occurrences: u64,
}

impl Sum for Entry {
    fn occurrences(&self) -> u64 {
        self.occurrences
    }
}

impl Table {
    /// Keeps a descriptor of its own, so that the object can be lent elsewhere.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(map: &MapMut<'_>) -> Result<Self> {
        Ok(Self::Kernel(MapHandle::try_from(map)?))
    }

    /// Empty, with room for so many entries.
    pub fn own(most: u32) -> Self {
        Self::Local(LocalMap(Bounded::new(most as usize)))
    }

    /// Every key and value. The kernel half never deletes an entry, so none is missed but one that comes meanwhile; a
    /// table of our own is empty afterwards.
    ///
    /// # Errors
    /// When the caller may no longer use BPF.
    pub fn read(&mut self) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let map = match self {
            Self::Kernel(map) => map,
            Self::Local(own) => {
                let entries = own.0.drain();
                return Ok(entries.map(|(key, entry)| (key, entry.value)).collect());
            }
        };
        let mut all = Vec::new();
        for key in map.keys() {
            let value = map.lookup(&key, MapFlags::ANY);
            if let Some(value) = value.context("cannot read the table")? {
                all.push((key, value));
            }
        }
        Ok(all)
    }

    /// Whether a reading has only what came since the one before.
    pub fn begins_anew(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Changes the value of a key, which is `T::default()` at first, for so many occurrences. Only a table of our own has
    /// no other writer.
    pub fn change<T: plain::Plain + Default>(
        &mut self,
        key: &[u8],
        occurrences: u64,
        change: impl FnOnce(&mut T),
    ) {
        let Self::Local(own) = self else {
            return;
        };
        let new = |_| Entry {
            value: Vec::new(),
            occurrences: 0,
        };
        let entry = own.0.entry(key.to_vec(), new);
        entry.occurrences += occurrences;
        let mut value = T::default();
        // Too short a value is a new one.
        let _ = plain::copy_from_bytes(&mut value, &entry.value);
        change(&mut value);
        // SAFETY: what is counted is integers without padding, so all its bytes have values.
        let bytes = unsafe { plain::as_bytes(&value) };
        entry.value.splice(.., bytes.iter().copied());
    }

    /// What a table of our own had no room for; the kernel half counts that of its own.
    pub fn uncounted(&self) -> u64 {
        match self {
            Self::Kernel(_) => 0,
            Self::Local(own) => own.0.uncounted(),
        }
    }

    /// Makes room for another entry, between two readings.
    ///
    /// # Errors
    /// When there is no such entry, or the caller may no longer use BPF.
    pub fn delete(&self, key: &[u8]) -> Result<()> {
        match self {
            Self::Kernel(map) => Ok(map.delete(key)?),
            // A reading has emptied it.
            Self::Local(_) => Ok(()),
        }
    }

    /// Writes the only value of a table that is a variable of the kernel half.
    ///
    /// # Errors
    /// When the caller may no longer use BPF.
    pub fn write(&self, value: &[u8]) -> Result<()> {
        let first = 0u32.to_ne_bytes();
        match self {
            Self::Kernel(map) => Ok(map.update(&first, value, MapFlags::ANY)?),
            Self::Local(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_table_counts_excess() {
        let mut table = Table::own(2);
        for key in [1, 2, 1, 3, 3, 1, 4] {
            table.change(&[key], 10, |count: &mut u64| *count += 10);
        }
        let mut entries = table.read().unwrap();
        entries.sort();
        let count = |n: u64| n.to_ne_bytes().to_vec();
        assert_eq!(entries, [(vec![1], count(30)), (vec![4], count(10))]);
        assert_eq!(table.uncounted(), 30);
        assert!(table.read().unwrap().is_empty(), "it begins anew");
    }
}
