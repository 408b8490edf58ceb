// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: per state, how many sockets left it and after how long, and who is in it now.
//!
//! The kernel half counts; a look at all sockets gives the current ones, and the ports that they take.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::abi::types::{Record, head};
use crate::aggregate::bounded::Bounded;
use crate::aggregate::group::Group;
use crate::aggregate::keys::Keys;
use crate::aggregate::top;
use crate::output::{Format, Row, Rows, Style};
use crate::session::{Figures, Handler, Interval, Printer};
use anyhow::Result;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::STATE_NOW;
use super::bpf::TcpstatesSkel;
use super::look::Look;
use super::now::{Now, State, columns};
use super::ports::{self, Destination, Ports};
use super::times::Times;

/// States in the order of a connection's life, by their numbers in `include/net/tcp_states.h`.
const ORDER: [u8; 11] = [10, 2, 3, 1, 4, 5, 11, 6, 8, 9, 7];
const STATES: u32 = 13;

/// Destinations in a table, and groups.
const DESTINATIONS: usize = 10;
const GROUPS: usize = 20;

/// States of groups whose changes are counted at once, and those whose sockets are.
pub(super) const MAX_GROUPS: u32 = 10_240;
const MAX_SOCKETS: usize = 50_000;

/// Prints the table at the end, or at an interval.
pub(super) struct Summary {
    rows: Rows<State>,
    again: bool,
    /// `None`: all sockets of a state are one.
    keys: Option<Keys>,
    /// Groups in a table.
    top: usize,
    histograms: MapHandle,
    look: Look,
    /// `None`: they are not counted.
    ports: Option<Rows<Destination>>,
    before: HashMap<Group, Times>,
    every: Interval,
    uncounted: u64,
}

/// What is made of the sockets, but for the interval.
pub(super) struct How {
    /// All sockets are seen, and so all ports.
    pub(super) ports: bool,
    pub(super) by: Option<Keys>,
    pub(super) top: Option<u32>,
}

/// A state of a group, which has it as its kind.
fn state_of(group: &Group) -> u8 {
    group.kind() as u8
}

impl Summary {
    /// Takes the map of histograms from the loaded programs.
    ///
    /// # Errors
    /// When the map cannot be used, or a column that was named does not exist.
    pub(super) fn new(
        skel: &TcpstatesSkel<'_>,
        look: Look,
        style: Style,
        interval: Option<Duration>,
        how: How,
    ) -> Result<Self> {
        // The lines of CSV are of one kind.
        let again = style.format == Format::Table;
        let ports = how.ports && style.format != Format::Csv;
        let ports_style = Style {
            columns: None,
            sort: None,
            ..style.clone()
        };
        let ports = ports.then(|| Rows::sums("tcpstates", ports_style, ports::columns()));
        let usual = match (&how.by, again) {
            (Some(_), true) => GROUPS,
            _ => usize::MAX,
        };
        let mut rows = Rows::sums("tcpstates", style, columns(how.by.as_ref()))?;
        let mut map = &skel.maps.histograms;
        if let Some(keys) = &how.by {
            rows = rows.by(&keys.name());
            map = &skel.maps.group_histograms;
        }
        Ok(Self {
            again,
            ports: ports.transpose()?,
            rows,
            top: top::limit(how.top, usual),
            keys: how.by,
            histograms: MapHandle::try_from(map)?,
            look,
            before: HashMap::new(),
            every: Interval::new(interval),
            uncounted: 0,
        })
    }

    /// What was counted since the last call.
    fn times(&mut self) -> Result<HashMap<Group, Times>> {
        let mut all = Vec::new();
        if self.keys.is_some() {
            for key in self.histograms.keys() {
                let value = self.histograms.lookup(&key, MapFlags::ANY)?;
                let value = value.map(|value| Times::of(&[value]));
                all.extend(Group::from_bytes(&key).zip(value));
            }
        } else {
            for state in 0..STATES {
                let key = state.to_ne_bytes();
                let cpus = self.histograms.lookup_percpu(&key, MapFlags::ANY)?;
                let times = Times::of(&cpus.unwrap_or_default());
                all.push((Group::new(&head::default(), 0, state), times));
            }
        }
        let since = |(group, times): (Group, Times)| {
            let before = self.before.entry(group).or_default();
            let change = times.since(before);
            *before = times;
            (group, change)
        };
        Ok(all.into_iter().map(since).collect())
    }

    fn now(&mut self) -> Result<(Bounded<Group, Now>, Ports)> {
        let (mut now, mut ports) = (Bounded::new(MAX_SOCKETS), Ports::new());
        let (counts, keys) = (self.ports.is_some(), self.keys.as_ref());
        self.look.each(|socket| {
            if counts {
                ports.add(socket);
            }
            if socket.head.event == STATE_NOW {
                let (head, state) = (socket.head(), socket.state.into());
                let of = |keys: &Keys| keys.group(head, state);
                let group = keys.map_or_else(|| Group::new(head, 0, state), of);
                now.entry(group, |_| Now::default()).add(socket);
            }
        })?;
        Ok((now, ports))
    }

    /// The states, in their order; of groups, those of most sockets first.
    fn states(&mut self, now: &mut Bounded<Group, Now>) -> Result<Vec<(Group, State)>> {
        let mut times = self.times()?;
        let mut all: Vec<(Group, (Times, Now))> = Vec::new();
        for (group, now) in now.drain() {
            all.push((group, (times.remove(&group).unwrap_or_default(), now)));
        }
        all.extend(
            times
                .into_iter()
                .map(|(group, times)| (group, (times, Now::default()))),
        );
        if let Some(keys) = &self.keys {
            all = keys.merged(all, |to, more| {
                to.0.add(&more.0);
                to.1.add_all(more.1);
            });
        }
        let state = |(group, (times, now))| (group, State::new(state_of(&group), times, now));
        let all = all.into_iter().map(state);
        let mut all: Vec<_> = all.filter(|(_, s)| s.left() + s.now.sockets != 0).collect();
        let place = |state| ORDER.iter().position(|one| *one == state);
        all.retain(|(_, s)| place(s.state).is_some());
        all.sort_by_cached_key(|(group, s)| {
            let most = self.keys.as_ref().map(|_| (s.now.sockets, s.left()));
            (Reverse(most), place(s.state), *group)
        });
        Ok(all)
    }

    fn print(&mut self, out: &mut Printer) -> Result<()> {
        let (mut now, ports) = self.now()?;
        let states = self.states(&mut now)?;
        let boot_ns = self.rows.next_period().boot_ns;
        let with_head = |(group, state): (Group, State)| (group.head(boot_ns), state);
        let mut states: Vec<_> = states.into_iter().map(with_head).collect();
        self.rows
            .sort(&mut states, |(head, body)| Row { head, body });
        if self.again {
            out.heading(|buf| self.rows.header(buf));
        }
        for (head, body) in states.iter().take(self.top) {
            out.row(|buf| self.rows.row(buf, "state", &Row { head, body }));
        }
        top::report("tcpstates", ("group", "groups"), states.len(), self.top);
        self.uncounted += now.uncounted() + ports.uncounted();
        self.print_ports(&ports.worst(), out);
        Ok(())
    }

    fn print_ports(&mut self, worst: &[Destination], out: &mut Printer) {
        let Some(rows) = self.ports.as_mut().filter(|_| !worst.is_empty()) else {
            return;
        };
        let head = head {
            boot_ns: rows.next_period().boot_ns,
            ..head::default()
        };
        let most = if self.again { DESTINATIONS } else { usize::MAX };
        if self.again {
            out.heading(|buf| {
                buf.push(b'\n');
                rows.header(buf);
            });
        }
        for body in worst.iter().take(most) {
            let head = &head;
            out.row(|buf| rows.row(buf, "ports", &Row { head, body }));
        }
        if let left @ 1.. = worst.len().saturating_sub(most) {
            crate::message!(
                "tcpstates: {left} more destinations take 1 % of the ports, or more; --json shows all"
            );
        }
    }

    fn try_print(&mut self, out: &mut Printer) {
        if let Err(error) = self.print(out) {
            crate::message!("tcpstates: cannot show the summary: {error:#}");
        }
    }
}

impl Handler for Summary {
    fn header(&mut self, out: &mut Vec<u8>) {
        if !self.again {
            self.rows.header(out);
        }
    }

    fn record(&mut self, _record: &[u8], _out: &mut Printer) {}

    fn tick(&mut self, out: &mut Printer) {
        if self.every.is_due() {
            self.try_print(out);
        }
    }

    fn due(&self) -> Option<Instant> {
        self.every.due()
    }

    fn shows(&self) -> crate::session::Shows {
        self.every.length().into()
    }

    fn finish(&mut self, out: &mut Printer) {
        self.try_print(out);
    }

    fn uncounted(&self) -> u64 {
        self.uncounted
    }

    fn unvisited(&self) -> u64 {
        self.look.unvisited()
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}
