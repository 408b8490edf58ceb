// SPDX-License-Identifier: MIT OR Apache-2.0
//! From records to rows, or to sums: both wait for owners that are not known yet.

use std::time::Instant;

use crate::abi::types::{decode, event_name};
use crate::output::Rows;
use crate::session::{Deferred, Figures, Handler, Printer, Shows};

use super::bpf::types::overflow;
use super::columns::EVENTS;
use super::lookup::Lookup;
use super::summary::Summary;

/// More rows than this do not wait for the next visit.
const MAX_DEFERRED: usize = 1 << 16;

/// What is made of them.
pub(super) enum Shown {
    Each(Box<Rows<overflow>>),
    Sums(Box<Summary>),
}

/// Hands them on once the owner is known, in order.
pub(super) struct Overflows {
    shown: Shown,
    pub(super) lookup: Option<Lookup>,
    /// Rows that wait for an owner, and, to keep the order, the rows behind them.
    deferred: Deferred<overflow>,
}

impl Overflows {
    pub(super) fn new(shown: Shown) -> Self {
        Self {
            shown,
            lookup: None,
            deferred: Deferred::default(),
        }
    }

    /// Its records do not tell their network namespace.
    pub(super) fn without_namespaces(&mut self) {
        if let Some(summary) = self.sums_mut() {
            summary.without_namespaces();
        }
    }

    fn sums(&self) -> Option<&Summary> {
        match &self.shown {
            Shown::Each(_) => None,
            Shown::Sums(summary) => Some(summary),
        }
    }

    fn sums_mut(&mut self) -> Option<&mut Summary> {
        match &mut self.shown {
            Shown::Each(_) => None,
            Shown::Sums(summary) => Some(summary),
        }
    }

    /// Hands on a record, unless --pid or --comm is set and the owner was not found.
    fn hand_on(&mut self, body: &overflow, out: &mut Printer) {
        if body.filter_deferred != 0 {
            return;
        }
        match &mut self.shown {
            Shown::Each(rows) => {
                let event = event_name(&EVENTS, body.head.event);
                out.row(|buf| rows.row(buf, event, &body.into()));
            }
            Shown::Sums(summary) => summary.add(body),
        }
    }

    /// Looks up missing owners, and hands on the records that waited for them.
    fn release(&mut self, out: &mut Printer) {
        if let Some(lookup) = &mut self.lookup
            && self.deferred.iter_mut().any(|body| lookup.helps(body))
        {
            lookup.complete(self.deferred.iter_mut());
        }
        while let Some(body) = self.deferred.pop_if(|_, _| true) {
            self.hand_on(&body, out);
        }
    }
}

impl Handler for Overflows {
    fn attached(&mut self) {
        if let Some(summary) = self.sums_mut() {
            summary.begin();
        }
    }

    fn header(&mut self, out: &mut Vec<u8>) {
        match &mut self.shown {
            Shown::Each(rows) => rows.header(out),
            Shown::Sums(summary) => summary.header(out),
        }
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(body) = decode::<overflow>(record) else {
            return;
        };
        let mut body = *body;
        let lookup = self.lookup.as_ref();
        let waits = lookup.is_some_and(|lookup| lookup.try_complete(&mut body));
        if waits || !self.deferred.is_empty() {
            self.deferred.push(body);
            if self.deferred.len() >= MAX_DEFERRED {
                self.release(out);
            }
        } else {
            self.hand_on(&body, out);
        }
    }

    fn resume(&mut self) {
        if let Shown::Each(rows) = &mut self.shown {
            rows.refresh_clock();
        }
        if let Some(lookup) = &mut self.lookup {
            lookup.refresh();
        }
    }

    fn tick(&mut self, out: &mut Printer) {
        let shows = self.sums_mut().is_some_and(Summary::tick);
        if shows || self.lookup.as_ref().is_some_and(Lookup::has_rested) {
            self.release(out);
        }
        if let (true, Some(summary)) = (shows, self.sums_mut()) {
            summary.print(out);
        }
    }

    fn due(&self) -> Option<Instant> {
        let lookup = self.lookup.as_ref().filter(|_| !self.deferred.is_empty());
        let lookup = lookup.and_then(Lookup::due);
        let summary = self.sums().and_then(Summary::due);
        lookup.into_iter().chain(summary).min()
    }

    fn shows(&self) -> Shows {
        self.sums().map_or(Shows::Rows, Summary::shows)
    }

    fn detaching(&mut self) {
        if let Some(summary) = self.sums_mut() {
            summary.detaching();
        }
    }

    fn finish(&mut self, out: &mut Printer) {
        self.release(out);
        if let Some(summary) = self.sums_mut() {
            summary.finish(out);
        }
    }

    fn uncounted(&self) -> u64 {
        self.sums().map_or(0, Summary::uncounted)
    }

    fn unvisited(&self) -> u64 {
        self.sums().map_or(0, Summary::unvisited)
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        match &mut self.shown {
            Shown::Each(rows) => rows.summary(out, fields),
            Shown::Sums(summary) => summary.summary(out, fields),
        }
    }
}
