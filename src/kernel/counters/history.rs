// SPDX-License-Identifier: MIT OR Apache-2.0
//! One namespace's counters over time.

use std::collections::HashMap;
use std::rc::Rc;

use super::block::Block;
use super::undelivered::is_more_than_passing;
use super::{ARRIVED, Change, Name, known};

/// When its values were taken last, and at the last look.
#[derive(Clone, Copy, Default)]
struct Value {
    before: u64,
    now: u64,
}

impl Value {
    /// By how much it has grown. What has fallen is no counter.
    fn growth(self) -> u64 {
        grown(self.before, self.now).unwrap_or(0)
    }
}

/// By how much a counter has grown; `None`: it has fallen.
fn grown(before: u64, now: u64) -> Option<u64> {
    /// Counters are `unsigned long`: on 32-bit kernels they wrap. So much is not counted between two looks.
    const MOST: u64 = 1 << 31;
    const WRAP: u64 = 1 << 32;
    let wrapped = || (before < WRAP).then(|| (now + WRAP).saturating_sub(before));
    now.checked_sub(before)
        .or_else(|| wrapped().filter(|&growth| growth < MOST))
}

/// Its counters that were not zero at some look.
pub(super) struct History {
    inode: u32,
    values: HashMap<Name, Value>,
}

impl History {
    /// With what it had counted before.
    pub fn new(inode: u32, before: impl Iterator<Item = (Name, u64)>) -> Self {
        let value = |value| Value {
            before: value,
            now: value,
        };
        Self {
            inode,
            values: before.map(|(name, n)| (name, value(n))).collect(),
        }
    }

    /// Whether a look found another namespace in its place. Cookies tell; without them that it has counted less.
    pub fn is_of_another(&self, block: &Block<'_>) -> bool {
        if block.identity.cookie != 0 {
            return false;
        }
        let now: HashMap<&str, u64> = block.values.iter().copied().collect();
        self.values.iter().any(|(name, value)| {
            let now = now.get(&**name).copied().unwrap_or(0);
            let counts = known::is_counter(name) && &**name != known::UNDELIVERED;
            counts && grown(value.now, now).is_none()
        })
    }

    pub fn update(&mut self, name: Name, value: u64) {
        self.values.entry(name).or_default().now = value;
    }

    /// Adds what it has counted to `changes`, and begins anew.
    pub fn take(&mut self, wanted: fn(&str) -> bool, at_least: bool, changes: &mut Vec<Change>) {
        let growth = |name| self.values.get(name).copied().unwrap_or_default().growth();
        let (undelivered, arrived) = (growth(known::UNDELIVERED), growth(ARRIVED));
        let passing = !is_more_than_passing(undelivered, arrived);
        for (name, value) in &mut self.values {
            let count = value.growth();
            value.before = value.now;
            let hidden = passing && &**name == known::UNDELIVERED;
            if count != 0 && !hidden && known::is_counter(name) && wanted(name) {
                changes.push(Change {
                    netns: self.inode,
                    name: Rc::clone(name),
                    count,
                    at_least,
                });
            }
        }
    }
}
