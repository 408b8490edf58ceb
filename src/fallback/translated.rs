// SPDX-License-Identifier: MIT OR Apache-2.0
//! The records of tracepoints, on their way to a command's handler.

use std::time::Instant;

use super::{Event, FilterMatch, Out, Sockets, Translate};
use crate::abi::types::{decode, trace_event, trace_kind};
use crate::kernel::clock::{boot_ns, monotonic_ns};
use crate::kernel::sock_diag::DestroyMonitor;
use crate::output::message;
use crate::session::{Figures, Handler, Printer, Shows};

/// A handler of tracepoints' records, in front of the command's.
pub(super) struct Translated<'h, T: Translate, H> {
    pub(super) tool: &'static str,
    pub(super) sockets: Sockets<T::Tool>,
    pub(super) scan: bool,
    pub(super) filter: FilterMatch,
    /// Records have the monotonic time.
    pub(super) monotonic: bool,
    /// The lag of the monotonic clock behind the boot-time clock.
    pub(super) behind_ns: u64,
    /// The times of the last two reads.
    pub(super) looked_ns: [u64; 2],
    /// Events that were lost up to now.
    pub(super) lost: u32,
    pub(super) translate: T,
    pub(super) handler: &'h mut H,
    /// Says what stays blank.
    pub(super) note: Option<&'h dyn Fn()>,
}

impl<T: Translate, H> Translated<'_, T, H> {
    pub(super) fn measure(&mut self) {
        self.behind_ns = match self.monotonic {
            true => boot_ns().saturating_sub(monotonic_ns()),
            false => 0,
        };
    }
}

impl<T: Translate, H: Handler> Handler for Translated<'_, T, H> {
    fn attached(&mut self) {
        if self.scan && self.translate.follows() {
            self.sockets.scan();
        }
        self.translate.attached();
        if let Some(why) = self
            .translate
            .accounts()
            .and_then(DestroyMonitor::unavailable_reason)
        {
            crate::message!("{}: statistics stay blank: {why}", self.tool);
        }
        let unvisited = self.translate.unvisited();
        if unvisited > 0 {
            message::unvisited(self.tool, "socket details", unvisited);
        }
        self.handler.attached();
    }

    fn header(&mut self, out: &mut Vec<u8>) {
        // Only now, because a command that cannot run prints only the reason.
        if let Some(note) = self.note.take() {
            note();
        }
        self.handler.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(&(mut event)) = decode::<trace_event>(record) else {
            return;
        };
        event.at_ns = event.at_ns.saturating_add(self.behind_ns);
        if event.lost.wrapping_sub(self.lost) as i32 > 0 {
            self.lost = event.lost;
            self.sockets.forget();
            self.translate.forget();
        }
        let owner = self.sockets.owner_by_ends(&event);
        let socket = self.sockets.follow(&event);
        let owner = socket.as_ref().map_or(owner, |socket| socket.owner);
        let trace = &event;
        let whose = Event {
            trace,
            record,
            end: matches!(trace.kind, trace_kind::STATE | trace_kind::DESTROY)
                .then(|| decode(record))
                .flatten(),
            owner,
            socket,
        };
        if self.filter.socket(trace) {
            let mut out = Out {
                filter: &self.filter,
                take: &mut |record| self.handler.record(record, out),
            };
            self.translate.event(whose, &mut out);
        }
        if event.kind == trace_kind::DESTROY {
            self.sockets.destroy(event.skaddr);
        }
    }

    fn resume(&mut self) {
        self.sockets.resume();
        self.measure();
        self.handler.resume();
    }

    fn due(&self) -> Option<Instant> {
        let both = [self.translate.due(), self.handler.due()];
        both.into_iter().flatten().min()
    }

    fn tick(&mut self, out: &mut Printer) {
        // A perf buffer's records are handed over one turn later.
        let [last, before] = self.looked_ns;
        self.looked_ns = [boot_ns(), last];
        let mut records = Out {
            filter: &self.filter,
            take: &mut |record| self.handler.record(record, out),
        };
        self.translate.tick(before, &mut self.sockets, &mut records);
        self.handler.tick(out);
    }

    fn finish(&mut self, out: &mut Printer) {
        let mut records = Out {
            filter: &self.filter,
            take: &mut |record| self.handler.record(record, out),
        };
        self.translate.finish(&mut records);
        let lost = self.statistics_lost();
        if lost > 0 {
            crate::message!(
                "{}: the statistics of {lost} sockets were lost: they arrived faster than they were read",
                self.tool
            );
        }
        self.handler.finish(out);
    }

    fn untracked(&self) -> u64 {
        let own = self.sockets.untracked();
        own.saturating_add(self.handler.untracked())
    }

    fn uncounted(&self) -> u64 {
        self.handler.uncounted()
    }

    fn shows(&self) -> Shows {
        self.handler.shows()
    }

    fn has_ends(&self) -> bool {
        self.handler.has_ends()
    }

    fn figures(&self) -> Vec<(&'static str, Option<u64>)> {
        self.handler.figures()
    }

    fn detaching(&mut self) {
        self.handler.detaching();
    }

    fn unvisited(&self) -> u64 {
        self.translate.unvisited().max(self.handler.unvisited())
    }

    fn statistics_lost(&self) -> u64 {
        self.translate.accounts().map_or(0, DestroyMonitor::lost)
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.handler.summary(out, fields);
    }
}
