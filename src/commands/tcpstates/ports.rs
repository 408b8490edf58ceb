// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many of the ports that connect() may choose are taken, for each destination.
//!
//! A port that is taken for one destination is free for another (net/ipv4/inet_hashtables.c: __inet_hash_connect), unless
//! a process has bound it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs;

use crate::abi::names::state::{CLOSE, LISTEN, TIME_WAIT};
use crate::abi::types::{Record, bytes_of, flow, head};
use crate::aggregate::bounded::{Bounded, Sum};
use crate::kernel::namespaces;
use crate::kernel::namespaces::worker::Found;
use crate::output::address::Address;
use crate::output::column::columns;
use crate::output::schema::Kind;
use crate::output::whose::Whose;
use crate::output::{Column, Value};

use super::bpf::types::active;
use super::{PORT_RANGE, PORT_RESERVED};

/// Destinations that are counted; those with the fewest ports give way to others.
const MAX_DESTINATIONS: usize = 64 * 1024;

/// Hands on the settings of this thread's network namespace, as records.
pub(super) fn settings(found: &mut Found<'_>) {
    let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let netns = namespaces::here().map_or(0, |here| here.inode as u32);
    let of = |event, (lport, rport)| {
        let flow = flow {
            lport,
            rport,
            ..flow::default()
        };
        let head = head {
            netns,
            event,
            flow,
            ..head::default()
        };
        active::default().with_head(&head)
    };
    let Some(range) = range(&read("ip_local_port_range")) else {
        return;
    };
    found(bytes_of(&of(PORT_RANGE, range)));
    for reserved in reserved(&read("ip_local_reserved_ports")) {
        found(bytes_of(&of(PORT_RESERVED, reserved)));
    }
}

/// `32768\t60999`.
fn range(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace().map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// `8080,9148-9150`.
fn reserved(text: &str) -> impl Iterator<Item = (u16, u16)> {
    text.trim().split(',').filter_map(|item| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some((first.parse().ok()?, last.parse().ok()?))
    })
}

/// The ports that connect() may choose in a namespace.
#[derive(Default)]
struct Choice {
    range: (u16, u16),
    /// The kernel writes them in order, and none twice.
    reserved: Vec<(u16, u16)>,
}

impl Choice {
    fn has(&self, port: u16) -> bool {
        let within = |(first, last): (u16, u16)| (first..=last).contains(&port);
        within(self.range) && !self.reserved.iter().any(|&ports| within(ports))
    }

    fn count(&self) -> u32 {
        let (first, last) = self.range;
        let count = |(from, to): (u16, u16)| {
            let (from, to) = (from.max(first), to.min(last));
            (u32::from(to) + 1).saturating_sub(from.into())
        };
        let reserved: u32 = self.reserved.iter().copied().map(count).sum();
        count(self.range).saturating_sub(reserved)
    }
}

/// A destination, and from where.
type Key = (u32, Address, Address, u16);

/// The sockets of a destination: each has a port of its own.
#[derive(Default)]
struct Taken {
    ports: u64,
    time_wait: u64,
}

impl Sum for Taken {
    fn occurrences(&self) -> u64 {
        self.ports
    }
}

/// A destination's row.
pub(super) struct Destination {
    key: Key,
    taken: Taken,
    ports: u32,
}

impl Destination {
    fn percent(&self) -> f64 {
        self.taken.ports as f64 * 100.0 / f64::from(self.ports.max(1))
    }
}

/// What one look has found.
pub(super) struct Ports {
    choices: HashMap<u32, Choice>,
    taken: Bounded<Key, Taken>,
}

impl Ports {
    pub(super) fn new() -> Self {
        Self {
            choices: HashMap::new(),
            taken: Bounded::new(MAX_DESTINATIONS),
        }
    }

    /// A socket, or a setting of the namespace that is looked at next.
    pub(super) fn add(&mut self, one: &active) {
        let (head, flow) = (one.head(), &one.head().flow);
        match head.event {
            PORT_RANGE => {
                let range = (flow.lport, flow.rport);
                let choice = Choice {
                    range,
                    ..Choice::default()
                };
                self.choices.insert(head.netns, choice);
            }
            PORT_RESERVED => {
                let choice = self.choices.entry(head.netns).or_default();
                choice.reserved.push((flow.lport, flow.rport));
            }
            _ if one.state == LISTEN || one.state == CLOSE => {}
            _ => {
                let choice = self.choices.get(&head.netns);
                if choice.is_some_and(|choice| choice.has(flow.lport)) {
                    let key = (head.netns, head.local(), head.remote(), flow.rport);
                    let taken = self.taken.entry(key, |_| Taken::default());
                    taken.ports += 1;
                    taken.time_wait += u64::from(one.state == TIME_WAIT);
                }
            }
        }
    }

    /// Sockets of destinations for which there was no room.
    pub(super) fn uncounted(&self) -> u64 {
        self.taken.uncounted()
    }

    /// The destinations that take at least one port in a hundred, the worst first.
    pub(super) fn worst(self) -> Vec<Destination> {
        let Self { choices, mut taken } = self;
        let all = taken.drain().map(|(key, taken)| Destination {
            ports: choices.get(&key.0).map_or(0, Choice::count),
            key,
            taken,
        });
        let mut all: Vec<_> = all.filter(|one| one.percent() >= 1.0).collect();
        all.sort_by_key(|one| (Reverse((one.percent() * 1000.0) as u64), one.key));
        all
    }
}

pub(super) fn columns() -> Vec<Column<Destination>> {
    columns! { |row, d: Destination|
        "raddr"        ALL  "RADDR"     (15, 39)      => d.key.2;
        "rport"        ALL  "RPORT"     (5, 5)        => d.key.3;
        "laddr"        ALL  "LADDR"     (15, 39)      => d.key.1;
        "netns"        ALL  "NETNS"     (10, 10)      => d.key.0;
        "netns_name"   JSON                           => Value::Whose(Whose::Netns(d.key.0));
        "ports"        ALL  "PORTS"     (5, 5).right  => d.ports;
        "ports_taken"  ALL  "TAKEN"     (5, 5).right  => d.taken.ports;
        "time_wait"    ALL  "TIME_WAIT" (9, 9).right  => d.taken.time_wait;
        "percent"      ALL  "%"         (5, 5).right  => Value::Percent(d.percent());
    }
}

/// What `--describe-columns` says of its rows.
pub(super) fn kind() -> Kind {
    Kind::sums("ports", &columns())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::names::state::{ESTABLISHED, SYN_SENT};

    fn record(event: u16, netns: u32, state: u8, ports: (u16, u16), host: u8) -> active {
        let mut flow = flow {
            family: 4,
            lport: ports.0,
            rport: ports.1,
            ..flow::default()
        };
        flow.raddr[15] = host;
        let one = active {
            state,
            ..active::default()
        };
        let head = head {
            event,
            netns,
            flow,
            ..head::default()
        };
        one.with_head(&head)
    }

    #[test]
    fn settings_are_read() {
        assert_eq!(range("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(
            (range(""), range("1"), range("1 65536")),
            (None, None, None)
        );
        let all = |text| reserved(text).collect::<Vec<_>>();
        assert_eq!(all("8080,9148-9150\n"), [(8080, 8080), (9148, 9150)]);
        assert_eq!(all("\n"), []);
    }

    #[test]
    fn reserved_ports_are_not_for_choice() {
        let choice = Choice {
            range: (40_000, 40_009),
            reserved: vec![
                (1, 10),
                (39_000, 40_001),
                (40_005, 40_005),
                (40_009, 50_000),
            ],
        };
        assert_eq!(choice.count(), 6);
        let free: Vec<_> = (0..u16::MAX).filter(|&port| choice.has(port)).collect();
        assert_eq!(free, [40_002, 40_003, 40_004, 40_006, 40_007, 40_008]);
        let all = Choice {
            range: (0, u16::MAX),
            reserved: Vec::new(),
        };
        assert_eq!(all.count(), 65_536);
    }

    #[test]
    fn each_destination_has_all_ports() {
        let mut ports = Ports::new();
        ports.add(&record(PORT_RANGE, 7, 0, (40_000, 40_009), 0));
        ports.add(&record(PORT_RESERVED, 7, 0, (40_000, 40_001), 0));
        ports.add(&record(PORT_RANGE, 8, 0, (40_000, 40_099), 0));
        for port in 40_000..40_005 {
            ports.add(&record(1, 7, TIME_WAIT, (port, 80), 1));
        }
        ports.add(&record(1, 7, ESTABLISHED, (40_005, 80), 1));
        ports.add(&record(1, 7, SYN_SENT, (40_005, 81), 1));
        // Neither chosen nor a destination.
        ports.add(&record(1, 7, ESTABLISHED, (50_000, 80), 1));
        ports.add(&record(1, 7, LISTEN, (40_006, 0), 0));
        ports.add(&record(1, 8, SYN_SENT, (40_005, 80), 2));
        // A namespace whose settings nobody could read.
        ports.add(&record(1, 9, SYN_SENT, (40_005, 80), 2));
        let rows: Vec<_> = ports
            .worst()
            .iter()
            .map(|d| {
                (
                    d.key.0,
                    d.key.3,
                    d.taken.ports,
                    d.taken.time_wait,
                    d.ports,
                    d.percent(),
                )
            })
            .collect();
        let expected = [
            (7, 80, 4, 3, 8, 50.0),
            (7, 81, 1, 0, 8, 12.5),
            (8, 80, 1, 0, 100, 1.0),
        ];
        assert_eq!(rows, expected);
    }
}
