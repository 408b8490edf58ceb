// SPDX-License-Identifier: MIT OR Apache-2.0
//! From attaching to the last row: the main loop of every command, and its end.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libbpf_rs::{Link, MapCore, Object, ProgramMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::handler::{Handler, Printer};
use super::idle::Idle;
use super::loss::{Counters, Lost};
use super::pace::{POLL, Pace};
use super::peers::{LATE, Missed, OtherEnds};
use super::signals::Interrupt;
use super::stdout::{Stop, written};
use super::{Session, is_scan};
use crate::kernel::{holders, iter, limits, pids, privileges};
use crate::output::{
    message,
    whose::{self, peer},
};
use crate::session::{buffer::Buffer, skipped::Skipped, stats::Meter};

/// The longest wait, for which poll() has a number.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Records per turn of the handler: some milliseconds of work. Without a limit, a steady flow would delay deadlines
/// and output.
const BATCH: usize = 4096;

/// Hands records to the handler, and its rows to the printer.
struct Reader<'h, H> {
    buffer: Buffer,
    pace: Pace,
    /// Records since the last wait.
    brought: usize,
    handler: &'h mut H,
    printer: Printer,
    interrupt: Interrupt,
    /// Records since the handler's last turn.
    taken: usize,
    /// Take everything that is left, even after a request to stop.
    draining: bool,
}

impl<H: Handler> Reader<'_, H> {
    /// Takes the available records unless it must stop; returns whether more may follow. The rest comes first next
    /// time.
    fn read(&mut self) -> bool {
        let mut more = true;
        loop {
            while let Some(record) = self.buffer.take() {
                self.handler.record(record, &mut self.printer);
                self.taken += 1;
                self.brought += 1;
                if self.stops() {
                    return true;
                }
            }
            if !more {
                return false;
            }
            more = self.buffer.fetch();
        }
    }

    fn stops(&self) -> bool {
        let enough = || self.taken >= BATCH || self.printer.full() || self.interrupt.raised();
        self.printer.sink.is_full() || !self.draining && enough()
    }

    /// All available records have been taken: decides how to wait for more.
    fn pause(&mut self) {
        let brought = std::mem::take(&mut self.brought);
        let before = self.pace;
        let unwritten = brought == 0 && !self.buffer.is_empty();
        self.pace = before.next(brought, unwritten, self.buffer.says_asleep());
        if let Some(asleep) = self.pace.says(before) {
            self.buffer.say_asleep(asleep);
        }
    }

    /// Sleeps until the kernel half wakes it (if records are read), output can be written, a signal arrives, the reader
    /// of the rows closes, or the time is up; `None`: without a limit.
    fn wait(&self, takes: bool, time: Option<Duration>) -> Result<(), Stop> {
        let [out, room] = self.printer.sink.poll_fds();
        let interrupt = PollFd::new(self.interrupt.as_fd(), PollFlags::POLLIN);
        let mut wanted = PollFlags::empty();
        wanted.set(PollFlags::POLLIN, takes);
        let clients = match self.handler.wakes() {
            Some(clients) if takes => PollFd::new(clients, PollFlags::POLLIN),
            _ => PollFd::new(self.interrupt.as_fd(), PollFlags::empty()),
        };
        let buffer = PollFd::new(self.buffer.fd(), wanted);
        let mut fds = [out, room, interrupt, clients, buffer];
        // Rounded up: a zero would spin through the last millisecond.
        let time = time.map(|time| time.min(LONGEST) + Duration::from_micros(999));
        let timeout = time.map_or(Ok(PollTimeout::NONE), PollTimeout::try_from);
        if poll(&mut fds, timeout.unwrap_or(PollTimeout::ZERO)).is_err() {
            return Ok(());
        }
        let [out, _, _, _, buffer] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        if buffer.contains(PollFlags::POLLIN) {
            self.buffer.woken();
        }
        match self.printer.sink.has_left(out) {
            true => Err(Stop::Closed),
            false => Ok(()),
        }
    }

    /// Takes the remaining records in batches.
    fn drain(&mut self) -> Result<(), Stop> {
        self.draining = true;
        self.buffer.close();
        let mut failed = Ok(());
        while self.read() {
            match self.printer.deliver(&self.interrupt) {
                Ok(()) => {}
                Err(Stop::Closed) => return Err(Stop::Closed),
                // The rest is only counted.
                Err(stop) => {
                    self.printer.sink.give_up();
                    failed = Err(stop);
                }
            }
        }
        failed
    }
}

impl Session<'_> {
    /// Attaches everything, and shows records until it is time to stop.
    ///
    /// # Errors
    /// When a probe cannot be attached, or rows cannot be written.
    pub fn run(&self, object: &mut Object, handler: &mut impl Handler) -> Result<()> {
        let interrupt = &self.interrupt;
        let ready = self.ready.take().context("nothing was opened")?;
        let counters = Counters::from_object(object).context("no counters");
        let counters = counters.map_err(|e| self.explain(e))?;
        let mut buffer = Buffer::new(object, self.buffer_bytes()).map_err(|e| self.explain(e))?;
        let mut storage = MaybeUninit::uninit();
        let mut others = self.other_ends(handler, &mut storage)?;
        let mut meter = self.run.stats.then(|| Meter::new(self.tool, object));
        if let Some(blank) = pids::blank(self.has_only_records()) {
            crate::message!("{}: {blank}", self.tool);
        }
        let mut links = Vec::new();
        // First: by the time of a row its end is noted.
        if let Some(others) = &mut others {
            meter
                .iter_mut()
                .for_each(|meter| meter.add(others.object()));
            links.extend(self.attach(others.object(), interrupt)?);
            self.scan(others.object(), interrupt)?;
            buffer.hand_over_late(LATE, peer::foresee);
        }
        links.extend(self.attach(object, interrupt)?);
        self.scan(object, interrupt)?;
        handler.attached();
        interrupt.check()?;
        interrupt.started();
        let rights = ready.rights().max(self.rights);
        let announced = ready.announce()?;
        whose::open(object);
        let missed = others.as_mut().map(OtherEnds::open).transpose()?;
        limits::give_back_memory();
        message::open();
        // Whoever may not open the caller's pipe or terminal anew needs a thread that writes to it.
        let printer = Printer::new(self.run.count_events);
        let refused = || object.maps().next().is_some_and(|map| map.info().is_err());
        privileges::drop_but(rights, refused);

        let skipped = Skipped::new(object);
        let mut lost = Lost::new(self.tool, self.table() || self.has_only_records(), counters);
        let idle = Idle::begin(self.tool, self.run, handler.shows());
        let mut reader = Reader {
            pace: Pace::new(buffer.can_wake()),
            buffer,
            brought: 0,
            handler,
            printer,
            interrupt: interrupt.clone(),
            taken: 0,
            draining: false,
        };
        let stop = self.show(&mut reader, &mut lost);
        announced.withdraw();
        reader.handler.detaching();
        drop(links);
        let stop = stop.and_then(|()| reader.drain());
        let end = End {
            lost,
            skipped: &skipped,
            meter: meter.as_ref(),
            missed: missed.as_ref(),
            idle,
        };
        let ended = self.end(reader, stop, end);
        peer::close();
        ended
    }

    fn attach(&self, object: &mut Object, interrupt: &Interrupt) -> Result<Vec<Link>> {
        let attach = |program: ProgramMut<'_>| {
            let name = program.section().to_string_lossy().into_owned();
            program
                .attach()
                .with_context(|| format!("cannot attach to {name}"))
                .map_err(|e| self.explain(e))
        };
        let mut links = Vec::new();
        // A tracepoint runs its programs in attach order: `forget_socket` must be last.
        for last in [false, true] {
            let turn = |p: &ProgramMut<'_>| p.autoload() && (p.name() == "forget_socket") == last;
            let programs = object.progs_mut().filter(turn);
            for program in programs.filter(|p| !is_iterator(p)) {
                interrupt.check()?;
                links.push(attach(program)?);
            }
        }
        Ok(links)
    }

    /// Scans the owners of existing sockets. The tool is useful without them, so a failure is a warning, unless the
    /// host is out of resources.
    fn scan(&self, object: &mut Object, interrupt: &Interrupt) -> Result<()> {
        let scan = |p: &ProgramMut<'_>| p.autoload() && is_scan(p);
        let subflows = holders::Subflows::from_object(object);
        for program in object.progs_mut().filter(scan) {
            interrupt.check()?;
            let run = iter::attach(&program, None).and_then(|link| iter::scan(&link));
            let run = run.and_then(|_| subflows.scan());
            if let Err(error) = run {
                if limits::exhausted(&error).is_some() {
                    return Err(error);
                }
                let tool = self.tool;
                crate::message!(
                    "{tool}: cannot scan open sockets, so their owners stay unknown: {error:#}"
                );
            }
        }
        Ok(())
    }

    fn show<H: Handler>(&self, reader: &mut Reader<'_, H>, lost: &mut Lost) -> Result<(), Stop> {
        let deadline = self.run.duration.map(|d| Instant::now() + d);
        // The first look does not wait.
        let mut more = true;
        reader.handler.header(&mut reader.printer.sink.buf);
        reader.printer.flush()?;
        loop {
            let until = |due: Instant| due.saturating_duration_since(Instant::now());
            let left = deadline.map(until);
            let takes = !reader.printer.full() && !reader.printer.sink.is_full();
            let rest = match takes {
                true if more => Some(Duration::ZERO),
                true => reader.pace.rest(),
                // What is lost meanwhile is reported.
                false => Some(POLL),
            };
            let due = [reader.handler.due(), lost.due(), reader.buffer.due()];
            let due = due.into_iter().flatten().map(until);
            let times = due.filter(|_| takes).chain(rest).chain(left);
            reader.wait(takes, times.min())?;
            reader.handler.resume();
            if takes {
                more = reader.read();
                if !more {
                    reader.pause();
                }
            }
            let (printer, handler) = (&mut reader.printer, &mut *reader.handler);
            // A turn ends when all available records, or many, have been handed over: handlers use turns to decide
            // what can no longer arrive. Waiting for the reader of the rows does not end a turn.
            if takes && (!more || reader.taken >= BATCH) {
                reader.taken = 0;
                handler.tick(printer);
            }
            printer.flush()?;
            printer.sink.report(self.tool);
            lost.report(handler.untracked(), handler.uncounted(), false);
            let enough = printer.full() && printer.sink.buf.is_empty();
            if enough || reader.interrupt.raised() || left.is_some_and(|d| d.is_zero()) {
                return Ok(());
            }
        }
    }

    fn end<H: Handler>(
        &self,
        reader: Reader<'_, H>,
        stop: Result<(), Stop>,
        end: End<'_>,
    ) -> Result<()> {
        let Reader {
            handler,
            mut printer,
            interrupt,
            ..
        } = reader;
        let End {
            mut lost,
            skipped,
            meter,
            missed,
            idle,
        } = end;
        if let Err(Stop::Closed) = stop {
            let gone = lost.report(handler.untracked(), handler.uncounted(), true);
            if let Some(meter) = meter {
                meter.report(printer.rows, &gone);
            }
            return Ok(());
        }
        let tool = self.tool;
        if stop.is_err() {
            printer.sink.give_up();
        }
        printer.ending = Some(interrupt.clone());
        handler.finish(&mut printer);
        let gone = lost.report(handler.untracked(), handler.uncounted(), true);
        let skipped = skipped.read();
        if skipped > 0 {
            crate::message!(
                "{tool}: up to {skipped} events missed: the BPF program was already running on that CPU"
            );
        }
        let mut fields = vec![
            ("events", Some(printer.rows)),
            ("lost", Some(gone.lost)),
            ("untracked", Some(gone.untracked)),
            ("uncounted", Some(gone.uncounted)),
            ("skipped", Some(skipped)),
            ("unvisited", Some(handler.unvisited())),
            ("statistics_lost", Some(handler.statistics_lost())),
        ];
        fields.extend(handler.figures());
        fields.extend(missed.map(|missed| missed.report(tool)));
        fields.extend(
            meter
                .into_iter()
                .flat_map(|m| m.report(printer.rows, &gone)),
        );
        let journal_lost = printer.sink.journal_lost();
        fields.extend(journal_lost.map(|lost| ("journal_lost", Some(lost))));
        idle.end(printer.rows);
        match message::lost() {
            0 => {}
            1 => crate::message!("{tool}: 1 message could not be written to standard error"),
            messages => crate::message!(
                "{tool}: {messages} messages could not be written to standard error"
            ),
        }
        fields.push(("messages_lost", Some(message::lost())));
        handler.summary(&mut printer.sink.buf, &fields);
        let result = stop.and_then(|()| printer.deliver(&interrupt));
        written(result, &mut printer.sink)
    }
}

/// What is needed for the end of a run.
struct End<'e> {
    lost: Lost,
    skipped: &'e Skipped,
    meter: Option<&'e Meter>,
    missed: Option<&'e Missed>,
    idle: Idle,
}

fn is_iterator(program: &ProgramMut<'_>) -> bool {
    program.section().to_string_lossy().starts_with("iter/")
}
