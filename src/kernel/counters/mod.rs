// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own counters of every network namespace (/proc/net/snmp, snmp6 and netstat), and of the host
//! (/proc/net/softnet_stat): what they have counted since a moment.
//!
//! Each namespace is visited by a process that may (`kernel/namespaces/worker.rs`), so that those without a process are
//! read too, and those that are made later. One that ends takes its counters with it: what it had at the last look is
//! kept.

pub(crate) mod block;
mod history;
pub mod known;
pub(crate) mod parse;
mod undelivered;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;

use block::{Block, Identity};
use history::History;
use parse::Softnet;
use undelivered::Undelivered;

use crate::kernel::holders::SocketIterator;
use crate::kernel::namespaces::worker::Found;

/// The name of a counter, as nstat(8) has it.
pub type Name = Rc<str>;

/// What one counter has counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The inode number of the network namespace; 0: of the whole host.
    pub netns: u32,
    /// The counter.
    pub name: Name,
    /// By how much it has grown since the last [`Counters::take`].
    pub count: u64,
    /// The namespace has ended: it may have counted more after the last look.
    pub at_least: bool,
}

/// All counters of this thread's network namespace.
///
/// # Errors
/// /proc cannot be read.
pub fn here() -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    let mut put = |name: &str, value| {
        all.insert(name.to_owned(), value);
    };
    for table in ["snmp", "netstat"] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
        parse::pairs(&text, &mut put);
    }
    // There is none without IPv6.
    let text = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap_or_default();
    parse::lines(&text, &mut put);
    Ok(all)
}

/// Reads them again and again.
pub struct Counters {
    namespaces: SocketIterator,
    wanted: fn(&str) -> bool,
    names: HashSet<Name>,
    known: HashMap<Identity, History>,
    /// Of namespaces that are gone, until they are taken.
    ended: Vec<History>,
    host: HashMap<usize, (Softnet, Softnet)>,
    /// How long the last look took; `None` before the first one.
    took: Option<Duration>,
}

/// Looks that come and go by themselves are no more frequent than that.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// And take at most this part of the time.
const SHARE: u32 = 20;

/// What the computation of [`known::UNDELIVERED`] is compared with.
const ARRIVED: &str = "IpInReceives";

impl Counters {
    /// Those that `wanted` names. Call it with privileges, and before any thread exists but the one for signals. `report`
    /// is called with the number of namespaces that a look had to leave out, if it has grown.
    pub fn new(wanted: fn(&str) -> bool, report: impl Fn(u64) + 'static) -> Self {
        let look = Box::new(move |found: &mut Found<'_>| {
            found(&block::read(wanted)?);
            Ok(())
        });
        Self::reading(SocketIterator::looking(look, &[], &[], report), wanted)
    }

    fn reading(namespaces: SocketIterator, wanted: fn(&str) -> bool) -> Self {
        Self {
            namespaces,
            wanted,
            names: HashSet::new(),
            known: HashMap::new(),
            ended: Vec::new(),
            host: HashMap::new(),
            took: None,
        }
    }

    /// Reads every namespace, one after the other. What the first look finds was counted before.
    ///
    /// # Errors
    /// When not even the command's own namespace can be read.
    pub fn look(&mut self) -> Result<()> {
        let begin = Instant::now();
        let bytes = self.namespaces.run()?;
        let text = String::from_utf8_lossy(&bytes);
        self.note(&block::decode(&text));
        let softnet = fs::read_to_string("/proc/thread-self/net/softnet_stat");
        self.note_host(&softnet.unwrap_or_default());
        self.took = Some(begin.elapsed());
        Ok(())
    }

    /// How long after a look the next one is worth it: a namespace that ends takes along what it counts meanwhile.
    pub fn rest(&self) -> Duration {
        let took = self.took.unwrap_or_default();
        LOOK_EVERY.max(took.saturating_mul(SHARE))
    }

    /// See [`SocketIterator::unvisited`].
    pub fn unvisited(&self) -> u64 {
        self.namespaces.unvisited()
    }

    fn note(&mut self, blocks: &[Block<'_>]) {
        let first = self.took.is_none();
        let mut seen = HashSet::new();
        for block in blocks {
            seen.insert(block.identity);
            let names = &mut self.names;
            let mut name = |name: &str| match names.get(name) {
                Some(known) => Rc::clone(known),
                None => {
                    let new: Name = name.into();
                    names.insert(Rc::clone(&new));
                    new
                }
            };
            let other = |history: &History| history.is_of_another(block);
            if self.known.get(&block.identity).is_some_and(other) {
                self.ended.extend(self.known.remove(&block.identity));
            }
            let history = self.known.entry(block.identity).or_insert_with(|| {
                // One that is new counts from zero.
                let values = if first { &block.values[..] } else { &[] };
                let values = values.iter().map(|(text, value)| (name(text), *value));
                History::new(block.identity.inode, values)
            });
            for (text, value) in &block.values {
                history.update(name(text), *value);
            }
        }
        // One that could not be entered this time is still there.
        if self.unvisited() == 0 {
            let gone = self.known.keys().filter(|key| !seen.contains(key));
            let gone: Vec<_> = gone.copied().collect();
            let gone = gone.iter().filter_map(|key| self.known.remove(key));
            self.ended.extend(gone);
        }
    }

    fn note_host(&mut self, text: &str) {
        for cpu in parse::softnet(text) {
            // What a CPU has counted before it was seen first is not known.
            self.host.entry(cpu.cpu).or_insert((cpu, cpu)).1 = cpu;
        }
    }

    /// What was counted between the last two calls' last looks.
    pub fn take(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        for history in self.known.values_mut() {
            history.take(self.wanted, false, &mut changes);
        }
        for history in &mut self.ended {
            history.take(self.wanted, true, &mut changes);
        }
        self.ended.clear();
        let (mut dropped, mut flow_limit) = (0, 0);
        for (before, now) in self.host.values_mut() {
            dropped += u64::from(now.dropped.wrapping_sub(before.dropped));
            flow_limit += u64::from(now.flow_limit.wrapping_sub(before.flow_limit));
            *before = *now;
        }
        for (name, count) in [
            (known::SOFTNET_DROPPED, dropped),
            (known::SOFTNET_FLOW_LIMIT, flow_limit),
        ] {
            if count != 0 && (self.wanted)(name) {
                changes.push(Change {
                    netns: 0,
                    name: name.into(),
                    count,
                    at_least: false,
                });
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters() -> Counters {
        let wanted = |name: &str| known::trouble(name).is_some();
        Counters::reading(SocketIterator::AtOnce(Vec::new()), wanted)
    }

    /// Notes what a look finds, and how much each counter has grown: `(namespace, name, count, at least)`.
    fn look(counters: &mut Counters, text: &str) {
        counters.note(&block::decode(text));
        counters.took = Some(Duration::ZERO);
    }

    fn taken(counters: &mut Counters) -> Vec<(u32, String, u64, bool)> {
        let changes = counters.take().into_iter();
        let mut all: Vec<_> = changes
            .map(|c| (c.netns, c.name.to_string(), c.count, c.at_least))
            .collect();
        all.sort();
        all
    }

    fn one(netns: u32, name: &str, count: u64, at_least: bool) -> (u32, String, u64, bool) {
        (netns, name.to_owned(), count, at_least)
    }

    const DROPS: &str = "TcpExtListenDrops";

    #[test]
    fn first_look_is_the_beginning() {
        let mut counters = counters();
        look(
            &mut counters,
            "= 7 1 5 1\nTcpExtListenDrops 100\nTcpInSegs 5\n",
        );
        assert_eq!(taken(&mut counters), []);
        look(
            &mut counters,
            "= 7 1 5 1\nTcpExtListenDrops 103\nUdpNoPorts 2\nTcpInSegs 9\n",
        );
        let grown = [one(7, DROPS, 3, false), one(7, "UdpNoPorts", 2, false)];
        assert_eq!(taken(&mut counters), grown);
        assert_eq!(taken(&mut counters), []);
    }

    #[test]
    fn new_namespace_counts_from_zero_and_its_end_is_told() {
        let mut counters = counters();
        look(&mut counters, "= 7 1 5 1\n");
        look(&mut counters, "= 7 1 5 1\n= 8 2 6 1\nTcpExtListenDrops 4\n");
        assert_eq!(taken(&mut counters), [one(8, DROPS, 4, false)]);
        look(&mut counters, "= 7 1 5 1\n= 8 2 6 1\nTcpExtListenDrops 9\n");
        look(&mut counters, "= 7 1 5 1\n");
        // The next one with its numbers.
        look(
            &mut counters,
            "= 7 1 5 1\n= 8 2 9 1\nTcpExtListenDrops 20\n",
        );
        let grown = [one(8, DROPS, 5, true), one(8, DROPS, 20, false)];
        assert_eq!(taken(&mut counters), grown);
        assert_eq!(taken(&mut counters), []);
    }

    #[test]
    fn without_cookies_fewer_are_another_namespace() {
        let mut counters = counters();
        look(
            &mut counters,
            "= 8 2 0 1\nTcpExtListenDrops 9\nUdpNoPorts 1\n",
        );
        look(&mut counters, "= 8 2 0 1\nTcpExtListenDrops 12\n");
        let grown = [one(8, DROPS, 12, false)];
        assert_eq!(taken(&mut counters), grown);
    }

    #[test]
    fn counter_of_32_bits_wraps() {
        let mut counters = counters();
        look(&mut counters, "= 8 2 0 1\nTcpExtListenDrops 4294967290\n");
        look(&mut counters, "= 8 2 0 1\nTcpExtListenDrops 4\n");
        assert_eq!(taken(&mut counters), [one(8, DROPS, 10, false)]);
    }

    #[test]
    fn few_undelivered_of_many_are_on_their_way() {
        let mut counters = counters();
        look(
            &mut counters,
            "= 8 2 6 1\nIpInUndelivered 9\nIpInReceives 100\n",
        );
        look(
            &mut counters,
            "= 8 2 6 1\nIpInUndelivered 11\nIpInReceives 100100\n",
        );
        assert_eq!(taken(&mut counters), []);
        look(
            &mut counters,
            "= 8 2 6 1\nIpInUndelivered 14\nIpInReceives 100200\n",
        );
        assert_eq!(taken(&mut counters), [one(8, known::UNDELIVERED, 3, false)]);
    }

    #[test]
    fn host_counts_on_all_cpus_and_wraps() {
        let mut counters = counters();
        let line = |dropped: &str| format!("0 {dropped} 0 0 0 0 0 0 0 0 00000001 0 ");
        counters.note_host(&format!("{}00000000\n", line("fffffffe")));
        counters.note_host(&format!("{}0\n{}1\n", line("00000003"), line("00000007")));
        assert_eq!(
            taken(&mut counters),
            [one(0, known::SOFTNET_DROPPED, 5, false)]
        );
        counters.note_host(&format!("{}0\n{}1\n", line("3"), line("8")));
        assert_eq!(
            taken(&mut counters),
            [one(0, known::SOFTNET_DROPPED, 1, false)]
        );
    }
}
