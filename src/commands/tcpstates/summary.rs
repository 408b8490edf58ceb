// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--summary`: per state, how many sockets left it and after how long, and who is in it now.
//!
//! The kernel half counts; a look at all sockets gives the current ones, and the ports that they take.

use std::time::{Duration, Instant};

use crate::abi::types::{Record, head};
use crate::output::{Format, Row, Rows, Style};
use crate::session::{Figures, Handler, Interval, Printer};
use anyhow::Result;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::STATE_NOW;
use super::bpf::TcpstatesSkel;
use super::look::Look;
use super::now::{Now, State, columns, owner};
use super::ports::{self, Destination, Ports};
use super::times::Times;

/// States in the order of a connection's life, by their numbers in `include/net/tcp_states.h`.
const ORDER: [u8; 11] = [10, 2, 3, 1, 4, 5, 11, 6, 8, 9, 7];
const STATES: usize = 13;

/// Destinations in a table.
const DESTINATIONS: usize = 10;

/// Prints the table at the end, or at an interval.
pub struct Summary {
    rows: Rows<State>,
    again: bool,
    histograms: MapHandle,
    look: Look,
    /// `None`: they are not counted.
    ports: Option<Rows<Destination>>,
    before: Vec<Times>,
    every: Interval,
    uncounted: u64,
}

impl Summary {
    /// Takes the map of histograms from the loaded programs. `ports`: all sockets are seen, and so all ports.
    ///
    /// # Errors
    /// When the map cannot be used.
    pub fn new(
        skel: &TcpstatesSkel<'_>,
        look: Look,
        style: Style,
        (interval, ports): (Option<Duration>, bool),
    ) -> Result<Self> {
        // The lines of CSV are of one kind.
        let ports = ports && style.format != Format::Csv;
        let ports = ports.then(|| Rows::sums("tcpstates", style.clone(), ports::columns()));
        Ok(Self {
            again: style.format == Format::Table,
            ports: ports.transpose()?,
            rows: Rows::sums("tcpstates", style, columns())?,
            histograms: MapHandle::try_from(&skel.maps.histograms)?,
            look,
            before: vec![Times::default(); STATES],
            every: Interval::new(interval),
            uncounted: 0,
        })
    }

    /// What was counted since the last call, by state.
    fn times(&mut self) -> Result<Vec<Times>> {
        let mut changes = Vec::with_capacity(STATES);
        for (state, before) in self.before.iter_mut().enumerate() {
            let key = (state as u32).to_ne_bytes();
            let cpus = self.histograms.lookup_percpu(&key, MapFlags::ANY)?;
            let times = Times::of(&cpus.unwrap_or_default());
            changes.push(times.since(before));
            *before = times;
        }
        Ok(changes)
    }

    fn now(&mut self) -> Result<(Vec<Now>, Ports)> {
        let mut now: Vec<_> = (0..STATES).map(|_| Now::default()).collect();
        let mut ports = Ports::new();
        let counts = self.ports.is_some();
        self.look.each(|socket| {
            if counts {
                ports.add(socket);
            }
            let state = now.get_mut(usize::from(socket.state));
            if let (STATE_NOW, Some(state)) = (socket.head.event, state) {
                state.add(socket);
            }
        })?;
        Ok((now, ports))
    }

    fn print(&mut self, out: &mut Printer) -> Result<()> {
        let mut times = self.times()?;
        let (mut now, ports) = self.now()?;
        let head = head {
            boot_ns: self.rows.next_period().boot_ns,
            ..head::default()
        };
        if self.again {
            out.heading(|buf| self.rows.header(buf));
        }
        for state in ORDER {
            let times = std::mem::take(&mut times[usize::from(state)]);
            let now = std::mem::take(&mut now[usize::from(state)]);
            if times.timed() + times.unknown + now.sockets == 0 {
                continue;
            }
            let body = State {
                state,
                times,
                most: now.most(),
                oldest_owner: now.oldest.as_ref().and_then(|o| owner(o.head())),
                now,
            };
            let (head, body) = (&head, &body);
            out.row(|buf| self.rows.row(buf, "state", &Row { head, body }));
        }
        self.uncounted += ports.uncounted();
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
