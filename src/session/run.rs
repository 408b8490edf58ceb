// SPDX-License-Identifier: MIT OR Apache-2.0
//! From attaching to the last row: the loop that every command runs in, and its end.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use caps::Capability;
use libbpf_rs::{Link, MapCore, Object, ProgramMut};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::handler::{Handler, Printer};
use super::idle::Idle;
use super::loss::{Counters, Lost};
use super::signals::Interrupt;
use super::stdout::{Sink, Stop};
use super::{Session, is_seed};
use crate::cost::Meter;
use crate::skipped::Skipped;
use crate::source::{BATCH, Source};
use crate::{holders, iter, limits, message, pids, privileges};

/// How often the reader looks by itself: the kernel half wakes it only when the buffer fills.
const TICK: Duration = Duration::from_millis(50);

/// What the reader and what it is called back with share.
struct State<'h, H> {
    both: RefCell<(Printer, &'h mut H)>,
    interrupt: Interrupt,
    /// Records since the handler's last turn.
    taken: Cell<usize>,
    /// All that is left is taken, whoever asks to stop.
    draining: Cell<bool>,
}

impl<H: Handler> State<'_, H> {
    /// One record; whether to leave the rest for later.
    fn record(&self, record: &[u8]) -> bool {
        let (printer, handler) = &mut *self.both.borrow_mut();
        handler.record(record, printer);
        self.taken.set(self.taken.get() + 1);
        let over = !self.draining.get() && (printer.full() || self.interrupt.raised());
        over || printer.sink.is_full()
    }
}

impl Session<'_> {
    /// Attaches everything, and shows records until it is time to stop.
    ///
    /// # Errors
    /// When a probe cannot be attached, or rows cannot be written.
    pub fn run(&self, object: &mut Object, handler: &mut impl Handler) -> Result<()> {
        let interrupt = self.interrupt()?;
        let ready = self.ready.take().context("nothing was opened")?;
        let counters = Counters::of(object).context("no counters");
        let counters = counters.map_err(|e| self.explain(e))?;
        let state = State {
            both: RefCell::new((Printer::new(self.run.count_events), handler)),
            interrupt: interrupt.clone(),
            taken: Cell::new(0),
            draining: Cell::new(false),
        };
        let source = Source::of(object, self.buffer_bytes(), |record| state.record(record))
            .map_err(|e| self.explain(e))?;
        let meter = self.run.stats.then(|| Meter::new(self.tool, object));
        if let Some(blank) = pids::blank(self.records) {
            message!("{}: {blank}", self.tool);
        }
        let links = self.attach(object, interrupt)?;
        self.seed(object, interrupt)?;
        state.both.borrow_mut().1.attached();
        interrupt.check()?;
        interrupt.started();
        let keep = ready.overrides() || self.overrides.get();
        let told = ready.tell()?;
        give_back_memory();
        let keep: &[_] = if keep {
            &[Capability::CAP_DAC_OVERRIDE]
        } else {
            &[]
        };
        let refused = || object.maps().next().is_some_and(|map| map.info().is_err());
        privileges::drop_but(keep, refused);

        let skipped = Skipped::new(object);
        let mut lost = Lost::new(self.tool, self.table() || self.records, counters);
        let idle = Idle::begin(self.tool, self.run, state.both.borrow().1.shows());
        let stop = self.show(&state, &source, &mut lost);
        told.withdraw();
        drop(links);
        let stop = stop.and_then(|()| drain(&state, &source));
        let (printer, handler) = &mut *state.both.borrow_mut();
        let end = End {
            lost,
            skipped: &skipped,
            meter: meter.as_ref(),
            idle,
        };
        self.end(printer, *handler, interrupt, stop, end)
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
        // A tracepoint calls its programs in the order in which they came: what forgets a socket goes last.
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

    /// Owners of the sockets that are there already. The tool is useful without them, so a failure is a warning, unless it
    /// is that of a host where nothing else would work.
    fn seed(&self, object: &mut Object, interrupt: &Interrupt) -> Result<()> {
        let seed = |p: &ProgramMut<'_>| p.autoload() && is_seed(p);
        let subflows = holders::Subflows::of(object);
        for program in object.progs_mut().filter(seed) {
            interrupt.check()?;
            let run = iter::attach(&program, None).and_then(|link| iter::run(&link));
            let run = run.and_then(|_| subflows.seed());
            if let Err(error) = run {
                if limits::exhausted(&error).is_some() {
                    return Err(error);
                }
                let tool = self.tool;
                crate::message!(
                    "{tool}: owners of sockets that were open at the start stay unknown: {error:#}"
                );
            }
        }
        Ok(())
    }

    fn show<H: Handler>(
        &self,
        state: &State<'_, H>,
        source: &Source<'_>,
        lost: &mut Lost,
    ) -> Result<(), Stop> {
        let deadline = self.run.duration.map(|d| Instant::now() + d);
        let mut more = false;
        {
            let (printer, handler) = &mut *state.both.borrow_mut();
            handler.header(&mut printer.sink.buf);
            printer.flush()?;
        }
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let takes = {
                let (printer, _) = &*state.both.borrow();
                let takes = !printer.full() && !printer.sink.is_full();
                let rest = if more && takes { Duration::ZERO } else { TICK };
                let timeout = left.unwrap_or(rest).min(rest);
                let source = takes.then_some(source);
                wait(&printer.sink, source, &state.interrupt, timeout)?;
                takes
            };
            if takes {
                more = source.consume();
            }
            let (printer, handler) = &mut *state.both.borrow_mut();
            // A turn is over when all that was there has been handed over, or much: a handler tells by turns what
            // can no longer come. Where the reader of the rows holds it up, it is not.
            if takes && (!more || state.taken.get() >= BATCH) {
                state.taken.set(0);
                handler.tick(printer);
            }
            printer.flush()?;
            lost.say(handler.untracked(), handler.uncounted(), false);
            let enough = printer.full() && printer.sink.buf.is_empty();
            if enough || state.interrupt.raised() || left.is_some_and(|d| d.is_zero()) {
                return Ok(());
            }
        }
    }

    fn end(
        &self,
        printer: &mut Printer,
        handler: &mut impl Handler,
        interrupt: &Interrupt,
        stop: Result<(), Stop>,
        end: End<'_>,
    ) -> Result<()> {
        let End {
            mut lost,
            skipped,
            meter,
            idle,
        } = end;
        if let Err(Stop::Closed) = stop {
            let gone = lost.say(handler.untracked(), handler.uncounted(), true);
            if let Some(meter) = meter {
                meter.tell(printer.rows, &gone);
            }
            return Ok(());
        }
        let tool = self.tool;
        if stop.is_err() {
            printer.sink.give_up();
        }
        printer.ending = Some(interrupt.clone());
        handler.finish(printer);
        let gone = lost.say(handler.untracked(), handler.uncounted(), true);
        let skipped = skipped.read();
        if skipped > 0 {
            message!(
                "{tool}: up to {skipped} events missed: the BPF program was already running on their CPU"
            );
        }
        let unseen = handler.unseen();
        let mut fields = vec![
            ("events", Some(printer.rows)),
            ("lost", Some(gone.lost)),
            ("untracked", Some(gone.untracked)),
            ("uncounted", Some(gone.uncounted)),
            ("skipped", Some(skipped)),
            ("unvisited", Some(unseen.unvisited)),
            ("statistics_lost", Some(unseen.statistics_lost)),
        ];
        fields.extend(handler.figures());
        fields.extend(meter.into_iter().flat_map(|m| m.tell(printer.rows, &gone)));
        idle.end(printer.rows);
        match message::lost() {
            0 => {}
            1 => message!("{tool}: a message could not be written here"),
            messages => message!("{tool}: {messages} messages could not be written here"),
        }
        fields.push(("messages_lost", Some(message::lost())));
        handler.summary(&mut printer.sink.buf, &fields);
        written(stop.and_then(|()| printer.deliver(interrupt)), printer)
    }
}

/// What is needed for the end of a run.
struct End<'e> {
    lost: Lost,
    skipped: &'e Skipped,
    meter: Option<&'e Meter>,
    idle: Idle,
}

/// Takes what is left in the kernel's buffer, piece by piece.
fn drain<H: Handler>(state: &State<'_, H>, source: &Source<'_>) -> Result<(), Stop> {
    state.draining.set(true);
    let mut failed = Ok(());
    while source.drain() {
        let printer = &mut state.both.borrow_mut().0;
        match printer.deliver(&state.interrupt) {
            Ok(()) => {}
            Err(Stop::Closed) => return Err(Stop::Closed),
            // The rest is only counted.
            Err(stop) => {
                printer.sink.give_up();
                failed = Err(stop);
            }
        }
    }
    failed
}

/// Whether all rows were written, or why not, and how many.
fn written(result: Result<(), Stop>, printer: &mut Printer) -> Result<()> {
    let why = match result {
        Ok(()) => None,
        Err(Stop::Closed) => return Ok(()),
        Err(Stop::Failed(error)) => {
            printer.sink.give_up();
            Some(error)
        }
    };
    let rows = match printer.sink.left_out() {
        None => return Ok(()),
        Some(0) => "the end of the output was not written".into(),
        Some(1) => "1 row was not written".into(),
        Some(rows) => format!("{rows} rows were not written"),
    };
    Err(match why {
        None => anyhow!("{rows}: nothing reads standard output"),
        Some(error) => anyhow!("cannot write rows: {error}; {rows}"),
    })
}

/// Sleeps until records fill the buffer, there is room for rows that wait, a signal comes, the reader leaves, or time is
/// up.
fn wait(
    sink: &Sink,
    source: Option<&Source<'_>>,
    interrupt: &Interrupt,
    timeout: Duration,
) -> Result<(), Stop> {
    let [out, room] = sink.poll_fds();
    let mut fds = vec![out, room, PollFd::new(interrupt.as_fd(), PollFlags::POLLIN)];
    fds.extend(source.map(|source| PollFd::new(source.fd(), PollFlags::POLLIN)));
    // Rounded up: a zero would spin through the last millisecond.
    let timeout = PollTimeout::try_from(timeout + Duration::from_micros(999));
    if poll(&mut fds, timeout.unwrap_or(PollTimeout::ZERO)).is_err() {
        return Ok(());
    }
    let left = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
    match fds[0].revents() {
        Some(flags) if flags.intersects(left) => Err(Stop::Closed),
        _ => Ok(()),
    }
}

/// Loading programs takes some memory for a moment: types, instructions. What is free again shall be the host's.
pub(crate) fn give_back_memory() {
    // SAFETY: releases what the allocator does not use; no pointer becomes invalid.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

fn is_iterator(program: &ProgramMut<'_>) -> bool {
    program.section().to_string_lossy().starts_with("iter/")
}
