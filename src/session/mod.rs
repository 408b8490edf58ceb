// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of every command: open, configure, load, attach, seed, poll, drain, account.

mod handler;
mod idle;
mod loss;
mod ready;
mod run;
mod signals;
mod stdout;

use std::cell::{Cell, OnceCell, RefCell};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapHandle, Object, OpenObject, PrintLevel, ProgramMut, set_print};

pub use self::handler::{EachRow, Handler, Printer, Unseen};
pub use self::idle::Shows;
use self::ready::Ready;
pub(crate) use self::ready::descriptor;
pub(crate) use self::run::give_back_memory;
use self::signals::Interrupt;
pub use self::signals::Interrupted;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::cli::Run;
use crate::files::Place;
use crate::filter::Filter;
use crate::holders::Holders;
use crate::iter::Visit;
pub use crate::output::Figures;
use crate::types::{config, lacks};
use crate::{iter, limits, pids, preflight, record, tracepoint, trust};

/// Sockets that are followed where their state cannot lie in the sockets themselves.
const TABLE_SOCKETS: u32 = 128 * 1024;

/// One run of a command.
pub struct Session<'a> {
    tool: &'static str,
    run: &'a Run,
    tracepoints: &'a [&'a str],
    lacks: lacks,
    /// Only tracepoints' records can be read.
    records: bool,
    interrupt: OnceCell<Interrupt>,
    ready: RefCell<Option<Ready>>,
    /// See [`Self::will_write`].
    overrides: Cell<bool>,
}

impl<'a> Session<'a> {
    /// `tracepoints` are those that the tool cannot do without.
    pub fn new(tool: &'static str, run: &'a Run, tracepoints: &'a [&'a str]) -> Self {
        let log = |_, text: String| crate::message::write(format_args!("{text}"));
        set_print(run.verbose.then_some((PrintLevel::Debug, log)));
        more_descriptors();
        let lacks = crate::lacks::known();
        let records = record::is_needed();
        if run.verbose {
            crate::message!("{tool}: what this kernel lacks (1): {lacks:?}");
            if trust::elevated() {
                crate::message!("{tool}: {}", trust::ELEVATED);
            }
        }
        Self {
            tool,
            run,
            tracepoints,
            lacks,
            records,
            interrupt: OnceCell::new(),
            ready: RefCell::default(),
            overrides: Cell::new(false),
        }
    }

    /// Signals, which from the first call on end the run between two steps.
    fn interrupt(&self) -> Result<&Interrupt> {
        if let Some(interrupt) = self.interrupt.get() {
            return Ok(interrupt);
        }
        let interrupt = Interrupt::install()?;
        Ok(self.interrupt.get_or_init(|| interrupt))
    }

    /// A file will be written there once the run is over: root keeps the right to.
    pub fn will_write(&self, place: &Place) {
        self.overrides.set(place.overrides());
    }

    /// Whether the command is to be run by [`record::run`], for what the kernel lacks.
    pub fn has_only_records(&self) -> bool {
        self.records
    }

    /// The command's name.
    pub(crate) fn tool(&self) -> &'static str {
        self.tool
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
        self.interrupt()?.check()?;
        self.ready.replace(Some(Ready::new(self.tool, self.run)?));
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
            let constants = map.name().to_string_lossy().ends_with(".rodata");
            // Where a tool's flags go: without it they would be ignored.
            ensure!(!constants || map.initial_value().is_some(), "no constants");
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
                config.pid_ns = pids::namespace().number();
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
        match self.table() {
            true => (format!("{name}_by_address"), Some("sockets_by_address")),
            false if crate::lacks::refuses_map_elements() => (format!("{name}_by_namespace"), None),
            false => (name.to_owned(), Some("sockets")),
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
            None => Visit::by_namespace(self.tool, link),
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
        self.interrupt()?.check()?;
        open.load().map_err(|e| {
            let error = e.into();
            // What could not be asked for want of descriptors or memory is not lacking.
            let asked = !self.records && limits::exhausted(&error).is_none();
            match asked && crate::lacks::explains_refusal() {
                true => crate::lacks::Anew.into(),
                false => self.explain(error),
            }
        })
    }
}

/// A ring buffer is a power of two of bytes, and of pages: `--buffer` begins at the largest page, so that the first is the
/// second too.
fn buffer_bytes(kib: u32) -> u32 {
    (kib * 1024).next_power_of_two()
}

/// As many as may be: a command that watches every network namespace needs a descriptor for each.
fn more_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
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
