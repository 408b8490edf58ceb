// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the metrics go: to whoever scrapes them, to a file again and again, or to standard output once.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::collector::Collector;
use super::server::Server;
use super::text::Format;
use crate::kernel::files::Place;
use crate::kernel::limits;
use crate::output::message::Throttle;
use crate::session::{Figures, Handler, Interval, Printer, Shows};

/// Where.
pub(super) enum Where {
    Listen(Box<Server>),
    File(Place, Interval),
    Output,
}

/// Hands metrics over.
pub(super) struct Serve {
    collector: Collector,
    to: Where,
    failures: Throttle,
    failed: u64,
}

impl Serve {
    pub(super) fn new(collector: Collector, to: Where) -> Self {
        Self {
            collector,
            to,
            failures: Throttle::default(),
            failed: 0,
        }
    }

    fn write_file(&mut self, last: bool) {
        let Where::File(place, _) = &self.to else {
            return;
        };
        let page = self.collector.page();
        let written = page.and_then(|mut page| Ok(place.write(&page.format(Format::Text))?));
        limits::give_back_memory();
        let Err(error) = written else {
            return;
        };
        self.failed += 1;
        if self.failures.is_due(self.failed, last) {
            crate::message!("tcptools: --textfile: cannot write the metrics: {error:#}");
        }
    }
}

impl Handler for Serve {
    fn header(&mut self, _out: &mut Vec<u8>) {
        if let Where::Listen(server) = &self.to {
            let address = server.address();
            crate::message!("tcptools: metrics are at http://{address}/metrics");
        }
    }

    fn record(&mut self, _record: &[u8], _out: &mut Printer) {}

    fn attached(&mut self) {
        self.collector.begin();
    }

    fn shows(&self) -> Shows {
        Shows::Picture
    }

    fn has_ends(&self) -> bool {
        false
    }

    fn unvisited(&self) -> u64 {
        self.collector.unvisited()
    }

    fn tick(&mut self, _out: &mut Printer) {
        match &mut self.to {
            Where::Listen(server) => {
                if server.serve(&mut self.collector) {
                    limits::give_back_memory();
                }
            }
            Where::File(_, every) => {
                if every.is_due() {
                    self.write_file(false);
                }
            }
            Where::Output => {}
        }
    }

    fn due(&self) -> Option<Instant> {
        match &self.to {
            Where::Listen(server) => server.due(self.collector.rests_until()),
            Where::File(_, every) => every.due(),
            Where::Output => None,
        }
    }

    fn wakes(&self) -> Option<BorrowedFd<'_>> {
        match &self.to {
            Where::Listen(server) => Some(server.wakes()),
            Where::File(..) | Where::Output => None,
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        match self.to {
            Where::Listen(_) => return,
            Where::File(..) => return self.write_file(true),
            Where::Output => {}
        }
        match self.collector.page() {
            Ok(mut page) => out.row(|buf| buf.extend_from_slice(&page.format(Format::Text))),
            Err(error) => crate::message!("tcptools: cannot show metrics: {error:#}"),
        }
    }

    fn summary(&mut self, _out: &mut Vec<u8>, _fields: &Figures) {}
}
