// SPDX-License-Identifier: MIT OR Apache-2.0
//! One order for the rows of several commands: that of the kernel's clock.

use std::collections::BTreeMap;

use super::Row;

/// Rows that wait for earlier ones of other commands.
#[derive(Default)]
pub struct Order {
    /// By time, then in the order of the sources, then as they came.
    waiting: BTreeMap<(u64, usize, u64), Row>,
    /// How many have come.
    came: u64,
    /// The time of the last one that was taken.
    taken_ns: u64,
}

impl Order {
    pub fn put(&mut self, row: Row) {
        self.came += 1;
        // A row without a time, as a summary's, stays where it came.
        let time = match row.boot_ns() {
            0 => self
                .waiting
                .last_key_value()
                .map_or(self.taken_ns, |(key, _)| key.0),
            time => time,
        };
        self.waiting.insert((time, row.source, self.came), row);
    }

    /// The first one, if it is not later than this, or `all`.
    pub fn take(&mut self, until_ns: u64, all: bool) -> Option<Row> {
        let first = self.waiting.first_entry()?;
        if !all && first.key().0 > until_ns {
            return None;
        }
        self.taken_ns = first.key().0;
        Some(first.remove())
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(source: usize, boot_ns: u64) -> Row {
        let line = format!(r#"{{"tool":"t","event":"e","boot_ns":{boot_ns}}}"#);
        Row::parse(line, source).unwrap()
    }

    #[test]
    fn rows_come_by_time_then_source() {
        let mut order = Order::default();
        for (source, time) in [(1, 30), (0, 30), (1, 10), (0, 20), (0, 0)] {
            order.put(row(source, time));
        }
        assert!(order.take(9, false).is_none());
        let mut taken = Vec::new();
        while let Some(row) = order.take(25, false).or_else(|| order.take(0, true)) {
            taken.push((row.source, row.boot_ns()));
        }
        assert_eq!(taken, [(1, 10), (0, 20), (0, 30), (0, 0), (1, 30)]);
        assert!(order.is_empty());
    }
}
