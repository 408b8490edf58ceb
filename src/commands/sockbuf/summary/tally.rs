// SPDX-License-Identifier: MIT OR Apache-2.0
//! Overflows, added up by owner and kind.

use std::collections::HashMap;

use crate::abi::known::KNOWN_NETNS;
use crate::abi::types::Record;
use crate::aggregate::bounded::{Bounded, Sum};
use crate::aggregate::group::Group;
use crate::aggregate::keys::Keys;

use super::super::bpf::types::overflow;
use super::explain::Rows;

/// Sums that are kept at once, those of most overflows.
const MAX_SUMS: usize = 10_000;

/// Namespaces whose rows are counted.
const MAX_NAMESPACES: usize = 1 << 16;

/// A sum.
pub(super) struct Total {
    /// The newest.
    pub(super) sample: overflow,
    /// `None`: of several.
    pub(super) lport: Option<u16>,
    pub(super) count: u64,
}

impl Total {
    /// Of two sums that are one.
    fn add(&mut self, more: Self) {
        self.count += more.count;
        self.lport = self.lport.filter(|port| Some(*port) == more.lport);
        if more.sample.head.boot_ns > self.sample.head.boot_ns {
            self.sample = more.sample;
        }
    }
}

impl Sum for Total {
    fn occurrences(&self) -> u64 {
        self.count
    }
}

/// The sums of an interval.
pub(super) struct Tally {
    sums: Bounded<Group, Total>,
    /// How many rows there were in each network namespace.
    rows: HashMap<u32, Rows>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            sums: Bounded::new(MAX_SUMS),
            rows: HashMap::new(),
        }
    }
}

impl Tally {
    pub(super) fn add(&mut self, group: Group, body: &overflow) {
        let head = body.head();
        let lport = Some(head.flow.lport).filter(|port| *port != 0);
        let new = |_| Total {
            sample: *body,
            lport,
            count: 0,
        };
        let total = self.sums.entry(group, new);
        total.count += 1;
        total.sample = *body;
        total.lport = total.lport.filter(|port| Some(*port) == lport);
        let room = self.rows.len() < MAX_NAMESPACES || self.rows.contains_key(&head.netns);
        if head.known & KNOWN_NETNS != 0 && room {
            self.rows.entry(head.netns).or_default().add(body);
        }
    }

    /// The sums, the largest first. The next ones begin.
    pub(super) fn take(&mut self, keys: &Keys) -> Vec<(Group, Total)> {
        let mut sums = keys.merged(self.sums.drain(), Total::add);
        sums.sort_by(|(a, x), (b, y)| y.count.cmp(&x.count).then_with(|| a.cmp(b)));
        sums
    }

    /// How many rows there were in each network namespace since the last call.
    pub(super) fn take_rows(&mut self) -> HashMap<u32, Rows> {
        std::mem::take(&mut self.rows)
    }

    /// See [`Bounded::uncounted`].
    pub(super) fn uncounted(&self) -> u64 {
        self.sums.uncounted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::types::pid_source;
    use crate::aggregate::by::By;

    fn row(pid: u32, lport: u16) -> overflow {
        let mut body = overflow::default();
        body.head.owner.pid = pid;
        body.head.owner.source = pid_source::SCAN;
        body.head.flow.lport = lport;
        body
    }

    #[test]
    fn a_sum_has_its_port_if_there_is_one() {
        let (mut tally, keys) = (Tally::default(), Keys::of(By::Pid));
        for (pid, lport) in [(1, 53), (2, 53), (1, 53), (2, 54), (2, 53)] {
            let body = row(pid, lport);
            tally.add(keys.group(body.head(), 0), &body);
        }
        let found: Vec<_> = tally
            .take(&keys)
            .into_iter()
            .map(|(group, total)| (group.head(0).pid(), total.lport, total.count))
            .collect();
        assert_eq!(found, [(Some(2), None, 3), (Some(1), Some(53), 2)]);
        assert!(tally.take(&keys).is_empty());
    }

    #[test]
    fn rows_of_unknown_namespaces_explain_nothing() {
        let mut tally = Tally::default();
        tally.add(Group::default(), &row(1, 53));
        assert!(tally.take_rows().is_empty());
        let mut known = row(1, 53);
        known.head.known = KNOWN_NETNS;
        tally.add(Group::default(), &known);
        assert_eq!(tally.take_rows().len(), 1);
        assert!(tally.take_rows().is_empty());
    }
}
