// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of every command: open, configure, load, attach, seed, poll, drain, account.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapHandle, Object, OpenObject, PrintLevel, ProgramMut, set_print};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};

use crate::cli::Run;
use crate::cost::Meter;
use crate::filter::Filter;
use crate::holders::{self, Holders};
use crate::interrupt::Interrupt;
use crate::iter::Visit;
use crate::lost::{Counters, Lost};
pub use crate::output::Figures;
use crate::output::Rows;
use crate::sink::{Sink, Stop};
use crate::skipped::Skipped;
use crate::source::Source;
use crate::types::{Record, config, decode, lacks};
use crate::{host, iter, preflight, privileges, record, tracepoint};

/// Sockets that are followed where their state cannot lie in the sockets themselves.
const TABLE_SOCKETS: u32 = 128 * 1024;

/// How often the reader looks by itself: the kernel half wakes it only when the buffer fills.
const TICK: Duration = Duration::from_millis(50);

/// What a tool does with its records.
pub trait Handler {
    /// Writes the header line, if there is one.
    fn header(&mut self, out: &mut Vec<u8>);
    /// One record from the kernel half.
    fn record(&mut self, record: &[u8], out: &mut Printer);
    /// When every probe is attached, before the first record and while there still are privileges.
    fn attached(&mut self) {}
    /// Events of sockets that no state was kept for on this side.
    fn untracked(&self) -> u64 {
        0
    }
    /// Occurrences that a table on this side had no room for.
    fn uncounted(&self) -> u64 {
        0
    }
    /// After every batch, and at least every 50 ms.
    fn tick(&mut self, _out: &mut Printer) {}
    /// Once, when no record will follow.
    fn finish(&mut self, _out: &mut Printer) {}
    /// Writes the last record of a JSON run.
    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures);
}

/// The handler of a tool whose every record is one row.
pub struct EachRow<E> {
    /// Writes the rows.
    pub rows: Rows<E>,
    /// The row's `event` in JSON.
    pub event: fn(&E) -> &'static str,
}

impl<E: Record> Handler for EachRow<E> {
    fn header(&mut self, out: &mut Vec<u8>) {
        self.rows.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        if let Some(body) = decode::<E>(record) {
            let event = (self.event)(body);
            out.row(|buf| self.rows.row(buf, event, &body.into()));
        }
    }

    fn tick(&mut self, _out: &mut Printer) {
        self.rows.refresh_clock();
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.rows.summary(out, fields);
    }
}

/// Takes rows up to the number that the user asked for.
pub struct Printer {
    sink: Sink,
    rows: u64,
    limit: u64,
}

impl Printer {
    /// One row, unless there are enough.
    pub fn row(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.rows < self.limit {
            self.rows += 1;
            write(&mut self.sink.buf);
        }
    }

    /// A line that is no row: the header of one more table.
    pub fn heading(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.full() {
            write(&mut self.sink.buf);
        }
    }

    fn full(&self) -> bool {
        self.rows >= self.limit
    }
}

/// One run of a command.
pub struct Session<'a> {
    tool: &'static str,
    run: &'a Run,
    tracepoints: &'a [&'a str],
    lacks: lacks,
    /// Only tracepoints' records can be read.
    records: bool,
}

impl<'a> Session<'a> {
    /// `tracepoints` are those that the tool cannot do without.
    pub fn new(tool: &'static str, run: &'a Run, tracepoints: &'a [&'a str]) -> Self {
        let log = |_, text: String| crate::message::write(format_args!("{text}"));
        set_print(run.verbose.then_some((PrintLevel::Debug, log)));
        // Until the handlers are there a signal waits: an early one must end the run as properly as a late one.
        // Blocking cannot fail for valid signals.
        let _ = signals().thread_block();
        let lacks = crate::lacks::known();
        let records = record::is_needed();
        if run.verbose {
            crate::message!("{tool}: what this kernel lacks (1): {lacks:?}");
        }
        Self {
            tool,
            run,
            tracepoints,
            lacks,
            records,
        }
    }

    /// Whether the command is to be run by [`record::run`], for what the kernel lacks.
    pub fn has_only_records(&self) -> bool {
        self.records
    }

    /// See [`record::types`].
    pub fn types(&self) -> Option<&Path> {
        record::types(self.run)
    }

    /// Whether sockets that exist already are to be looked at.
    pub fn seeds(&self) -> bool {
        !self.run.no_seed
    }

    /// What is not known on this kernel: the end of a sentence.
    pub fn say(&self, blank: &str) {
        let tool = self.tool;
        crate::message!("{tool}: {}: {blank}", record::this_kernel());
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match self.records {
            true => preflight::explain_record(error),
            false => preflight::explain(error, self.tracepoints),
        }
    }

    /// Opens the skeleton and puts the filters and the buffer size into it.
    ///
    /// # Errors
    /// When the object is not one of ours, or memory is short.
    pub fn open<'o, B>(
        &self,
        builder: B,
        storage: &'o mut MaybeUninit<OpenObject>,
        filter: &Filter,
    ) -> Result<B::Output>
    where
        B: SkelBuilder<'o>,
        B::Output: OpenSkel<'o>,
    {
        match &self.run.btf {
            Some(file) if record::has_types() => record::check_unused(file)?,
            _ => {}
        }
        let mut open = builder.open(storage)?;
        let object = open.open_object_mut();
        if !self.run.no_seed {
            let by_address = if self.table() { "_by_address" } else { "" };
            enable(object, &format!("seed_sockets{by_address}"));
            enable(object, "seed_subflows");
        }
        if self.table() {
            enable(object, "forget_socket");
        }
        enable_deep_twins(object);
        for mut map in object.maps_mut() {
            if map.name() == "events" {
                map.set_max_entries(self.buffer_bytes())?;
            } else if self.table() && map.name().to_string_lossy().ends_with("_by_address") {
                map.set_max_entries(TABLE_SOCKETS)?;
            } else if map.name() == ".rodata.config" {
                let bytes = map.initial_value_mut().context("no configuration map")?;
                let config = plain::from_mut_bytes::<config>(bytes)
                    .map_err(|_| anyhow!("the configuration has another layout"))?;
                config.lacks = self.lacks;
                filter.fill(config);
                config.wake_bytes = self.buffer_bytes() / 4;
                config.pid_ns = host::pid_namespace().unwrap_or(0);
                config.stats = self.run.stats.into();
                config.reader = std::process::id();
            }
        }
        Ok(open)
    }

    /// Whether the state of sockets lies in a table, not in the sockets.
    fn table(&self) -> bool {
        self.lacks.sk_storage != 0
    }

    /// Has a program loaded that `EACH_SOCKET` of `src/bpf/state.bpf.h` makes, in the variant for this kernel.
    pub fn enable<'o>(&self, open: &mut impl OpenSkel<'o>, name: &str) {
        let (program, _) = self.visiting(name);
        enable(open.open_object_mut(), &program);
    }

    /// The variant, and the map whose elements it visits.
    fn visiting(&self, name: &str) -> (String, Option<&'static str>) {
        match (self.table(), self.lacks.map_elements != 0) {
            (true, _) => (format!("{name}_by_address"), Some("sockets_by_address")),
            (false, true) => (format!("{name}_by_namespace"), None),
            (false, false) => (name.to_owned(), Some("sockets")),
        }
    }

    /// Attaches `seed_sockets`, for a tool that asks for owners again later.
    ///
    /// # Errors
    /// When the kernel has no such iterator.
    pub fn owners(&self, object: &mut Object) -> Result<Link> {
        let named = |p: &ProgramMut<'_>| is_seed(p) && p.autoload();
        let program = object.progs_mut().find(named);
        iter::attach(&program.context("no iterator")?, None)
    }

    /// A way to visit all sockets that are followed, with a program that `enable` enabled, and to know who has them open.
    ///
    /// # Errors
    /// When the kernel has no such iterator (before 5.9).
    pub fn each_socket(&self, object: &mut Object, name: &str) -> Result<Holders> {
        let files = self.seeds().then(|| self.owners(object)).transpose()?;
        let (program, map) = self.visiting(name);
        let map = map.map(|name| {
            let map = object.maps().find(|m| m.name() == name);
            Ok::<_, anyhow::Error>(MapHandle::try_from(&map.context("no sockets")?)?)
        });
        let map = map.transpose()?;
        let program = object
            .progs_mut()
            .find(|p| p.name() == OsStr::new(&program));
        let program = program.context("no iterator")?;
        let link = iter::attach(&program, map.as_ref().map(AsFd::as_fd))?;
        let sockets = match map {
            Some(_) => Visit::AtOnce(link),
            None => Visit::by_namespace(&link)?,
        };
        Ok(Holders::new(files, sockets))
    }

    fn buffer_bytes(&self) -> u32 {
        buffer_bytes(self.run.buffer)
    }

    /// Has the kernel check the programs.
    ///
    /// # Errors
    /// Why this host cannot run them, in a sentence; or [`lacks::Anew`](crate::lacks::Anew).
    pub fn load<'o, O: OpenSkel<'o>>(&self, open: O) -> Result<O::Output> {
        open.load().map_err(
            |e| match !self.records && crate::lacks::explains_refusal() {
                true => crate::lacks::Anew.into(),
                false => self.explain(e.into()),
            },
        )
    }

    /// Attaches everything, and shows records until it is time to stop.
    ///
    /// # Errors
    /// When a probe cannot be attached, or rows cannot be written.
    pub fn run(&self, object: &mut Object, handler: &mut impl Handler) -> Result<()> {
        let counters = Counters::of(object).context("no counters")?;
        let printer = Printer {
            sink: Sink::default(),
            rows: 0,
            limit: self.run.count_events.unwrap_or(u64::MAX),
        };
        let state = RefCell::new((printer, handler));
        let interrupt = RefCell::new(None::<Interrupt>);
        let source = Source::of(object, self.buffer_bytes(), |record| {
            let (printer, handler) = &mut *state.borrow_mut();
            handler.record(record, printer);
            printer.full() || interrupt.borrow().as_ref().is_some_and(Interrupt::raised)
        })?;
        let meter = self.run.stats.then(|| Meter::new(self.tool, object));
        let links = self.attach(object)?;
        self.seed(object)?;
        state.borrow_mut().1.attached();
        if let Some(path) = &self.run.ready_file {
            fs::write(path, "").with_context(|| format!("cannot create {}", path.display()))?;
        }
        give_back_memory();
        privileges::drop_unless(|| object.maps().next().is_some_and(|map| map.info().is_err()));
        *interrupt.borrow_mut() = Some(Interrupt::install()?);
        let _ = signals().thread_unblock();

        let interrupt = interrupt.borrow().clone().context("no signal handlers")?;
        let skipped = Skipped::new(object);
        let mut lost = Lost::new(self.tool, self.table() || self.records, counters);
        let stop = self.show(&state, &source, &interrupt, &mut lost);
        drop(links);
        if matches!(stop, Ok(()) | Err(Stop::Interrupted)) {
            source.drain();
        }
        let (printer, handler) = &mut *state.borrow_mut();
        let meter = meter.as_ref();
        self.end(printer, *handler, stop, &mut lost, &skipped, meter)
    }

    fn attach(&self, object: &mut Object) -> Result<Vec<Link>> {
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
                links.push(attach(program)?);
            }
        }
        Ok(links)
    }

    /// Owners of the sockets that are there already. The tool is useful without them, so a failure is a warning.
    fn seed(&self, object: &mut Object) -> Result<()> {
        let seed = |p: &ProgramMut<'_>| p.autoload() && is_seed(p);
        let subflows = holders::Subflows::of(object);
        for program in object.progs_mut().filter(seed) {
            let run = iter::attach(&program, None).and_then(|link| iter::run(&link));
            let run = run.and_then(|_| subflows.seed());
            if let Err(error) = run {
                let tool = self.tool;
                crate::message!(
                    "{tool}: owners of sockets that exist already stay unknown: {error:#}"
                );
            }
        }
        Ok(())
    }

    fn show<H: Handler>(
        &self,
        state: &RefCell<(Printer, &mut H)>,
        source: &Source<'_>,
        interrupt: &Interrupt,
        lost: &mut Lost,
    ) -> Result<(), Stop> {
        let deadline = self.run.duration.map(|d| Instant::now() + d);
        {
            let (printer, handler) = &mut *state.borrow_mut();
            handler.header(&mut printer.sink.buf);
            printer.sink.flush(interrupt)?;
        }
        let mut more = false;
        loop {
            let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
            let rest = if more { Duration::ZERO } else { TICK };
            wait(
                &state.borrow().0.sink,
                source,
                interrupt,
                left.unwrap_or(rest).min(rest),
            )?;
            more = source.consume();
            let (printer, handler) = &mut *state.borrow_mut();
            handler.tick(printer);
            printer.sink.flush(interrupt)?;
            lost.say(handler.untracked(), handler.uncounted());
            if interrupt.raised() || printer.full() || left.is_some_and(|d| d.is_zero()) {
                return Ok(());
            }
        }
    }

    fn end(
        &self,
        printer: &mut Printer,
        handler: &mut impl Handler,
        stop: Result<(), Stop>,
        lost: &mut Lost,
        skipped: &Skipped,
        meter: Option<&Meter>,
    ) -> Result<()> {
        match stop {
            Err(Stop::Closed) => {
                if let Some(meter) = meter {
                    meter.tell(printer.rows, &lost.counters.read());
                }
                return Ok(());
            }
            Err(Stop::Failed(e)) => return Err(e).context("cannot write rows"),
            Ok(()) | Err(Stop::Interrupted) => {}
        }
        handler.finish(printer);
        let gone = lost.say(handler.untracked(), handler.uncounted());
        let skipped = skipped.read();
        if skipped > 0 {
            let tool = self.tool;
            crate::message!(
                "{tool}: up to {skipped} events not seen: they came while this program was at work on the same CPU, and the kernel skips such"
            );
        }
        let mut fields = vec![
            ("events", Some(printer.rows)),
            ("lost", Some(gone.lost)),
            ("untracked", Some(gone.untracked)),
            ("uncounted", Some(gone.uncounted)),
            ("skipped", Some(skipped)),
        ];
        fields.extend(meter.into_iter().flat_map(|m| m.tell(printer.rows, &gone)));
        handler.summary(&mut printer.sink.buf, &fields);
        match printer.sink.finish() {
            Ok(0) | Err(Stop::Closed | Stop::Interrupted) => Ok(()),
            Ok(lines) => {
                let tool = self.tool;
                crate::message!(
                    "{tool}: {lines} lines were not written: their reader does not read"
                );
                Ok(())
            }
            Err(Stop::Failed(e)) => Err(e).context("cannot write rows"),
        }
    }
}

/// A ring buffer is a power of two of bytes, and of pages: `--buffer` begins at the largest page, so that the first is the
/// second too.
fn buffer_bytes(kib: u32) -> u32 {
    (kib * 1024).next_power_of_two()
}

/// Loading programs takes some memory for a moment: types, instructions. What is free again shall be the host's.
fn give_back_memory() {
    // SAFETY: releases what the allocator does not use; no pointer becomes invalid.
    #[cfg(target_env = "gnu")]
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect()
}

fn enable(object: &mut OpenObject, name: &str) {
    for mut program in object.progs_mut().filter(|p| p.name() == OsStr::new(name)) {
        program.set_autoload(true);
    }
}

/// The twins for where several tasks can be preempted in a program (`bpf/nested.bpf.h`).
fn enable_deep_twins(object: &mut OpenObject) {
    let mut deep: Vec<_> = object
        .progs_mut()
        .filter(|p| p.name().to_string_lossy().contains("_nested_deep"))
        .collect();
    if !deep.is_empty() && tracepoint::can_be_preempted() {
        for program in &mut deep {
            program.set_autoload(true);
        }
    }
}

fn is_seed(program: &ProgramMut<'_>) -> bool {
    program.name().to_string_lossy().starts_with("seed_sockets")
}

fn is_iterator(program: &ProgramMut<'_>) -> bool {
    program.section().to_string_lossy().starts_with("iter/")
}

/// Sleeps until records fill the buffer, a signal comes, the reader leaves, or time is up.
fn wait(
    sink: &Sink,
    source: &Source<'_>,
    interrupt: &Interrupt,
    timeout: Duration,
) -> Result<(), Stop> {
    let mut fds = [
        PollFd::new(sink.as_fd(), PollFlags::empty()),
        PollFd::new(source.fd(), PollFlags::POLLIN),
        PollFd::new(interrupt.as_fd(), PollFlags::POLLIN),
    ];
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::BUFFER_KIB;

    #[test]
    fn every_buffer_is_a_power_of_two_of_pages_of_any_size() {
        let (least, most) = (*BUFFER_KIB.start(), *BUFFER_KIB.end());
        for kib in [least, least + 1, 100, 1000, 2048, most / 2 + 1, most] {
            let bytes = buffer_bytes(kib);
            assert!(bytes >= kib * 1024 && bytes / 2 < kib * 1024, "{kib} KiB");
            for page in [4096, 16_384, 65_536] {
                let pages = bytes / page;
                assert!(pages.is_power_of_two(), "{kib} KiB, pages of {page}");
                assert_eq!(pages * page, bytes, "{kib} KiB, pages of {page}");
            }
        }
    }
}
