// SPDX-License-Identifier: MIT OR Apache-2.0
//! The life of every command: open, configure, load, attach, scan, poll, drain, report.

pub mod active;
pub mod buffer;
pub mod interval;
pub mod skipped;
pub mod stats;
pub mod table;

mod deferred;
pub(crate) mod handler;
mod idle;
mod loaded;
mod loss;
mod pace;
mod peers;
mod ready;
mod run;
mod signals;
mod stdout;
mod variant;

use std::cell::Cell;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapHandle, Object, OpenObject, PrintLevel, ProgramMut, set_print};

pub use self::deferred::{Age, Deferred};
pub use self::handler::{EachRow, Handler, Printer};
pub use self::idle::Shows;
pub use self::interval::Interval;
use self::ready::Ready;
pub use self::signals::Interrupt;
pub use self::stdout::{Sink, Stop};
use self::variant::{choose_backups, enable, type_numbers};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::table::Room;
use crate::abi::types::{config, missing_features};
use crate::cli::{Run, filter::Filter};
use crate::kernel::btf::{self, subset::Subset};
use crate::kernel::features::{self, Source};
use crate::kernel::files::Place;
use crate::kernel::holders::Holders;
use crate::kernel::holders::SocketIterator;
use crate::kernel::privileges::Rights;
use crate::kernel::{diagnose, iter, limits, pids, trust};
pub use crate::output::Figures;
use crate::output::message;

/// Storage for the BPF objects of a run, one per attempt to load them.
pub type Storage = [MaybeUninit<OpenObject>; 2];

/// Room for [`Session::start`].
pub fn storage() -> Storage {
    [const { MaybeUninit::uninit() }; 2]
}

/// What a skeleton's builder ends in.
type Loaded<'o, B> = <<B as SkelBuilder<'o>>::Output as OpenSkel<'o>>::Output;

/// One run of a command.
pub struct Session<'a> {
    tool: &'static str,
    run: &'a Run,
    tracepoints: &'a [&'a str],
    missing: missing_features,
    source: Source,
    /// See [`Self::start`].
    iterator: Option<&'static str>,
    interrupt: Interrupt,
    ready: Cell<Option<Ready>>,
    /// See [`Self::will_write`].
    rights: Rights,
}

impl<'a> Session<'a> {
    /// `tracepoints` are those the tool requires. From now on a signal ends the start between two steps.
    ///
    /// # Errors
    /// When signals cannot be handled.
    pub fn new(tool: &'static str, run: &'a Run, tracepoints: &'a [&'a str]) -> Result<Self> {
        let log = |_, text: String| message::write(format_args!("{text}"));
        set_print(run.verbose.then_some((PrintLevel::Debug, log)));
        more_descriptors();
        if run.verbose && trust::elevated() {
            crate::message!("{tool}: {}", trust::ELEVATED);
        }
        let mut session = Self {
            tool,
            run,
            tracepoints,
            missing: missing_features::default(),
            source: Source::Programs,
            iterator: None,
            interrupt: Interrupt::until_closed(run.stop_fd)?,
            ready: Cell::default(),
            rights: Rights::default(),
        };
        session.ask();
        Ok(session)
    }

    /// Updates what is known of the kernel.
    fn ask(&mut self) {
        self.missing = features::known();
        self.source = Source::new(self.run.btf.as_deref());
        if self.run.verbose {
            let (tool, missing) = (self.tool, self.missing);
            crate::message!("{tool}: missing kernel features are 1: {missing:?}");
        }
    }

    /// A file will be written there after the run: keep the privileges for it.
    pub fn will_write(&mut self, place: &Place) {
        self.rights = place.rights();
    }

    /// Whether only tracepoints' records are read.
    fn has_only_records(&self) -> bool {
        matches!(self.source, Source::Records { .. })
    }

    /// The command's name.
    pub(crate) fn tool(&self) -> &'static str {
        self.tool
    }

    /// The BTF with which fallback programs read sockets, if any.
    pub fn sockets(&self) -> Option<&Path> {
        match &self.source {
            Source::Records { sockets } => sockets.as_deref(),
            Source::Programs => None,
        }
    }

    /// Whether existing sockets are scanned at the start.
    pub fn scans(&self) -> bool {
        !self.run.no_scan
    }

    /// Prints what is unknown on this kernel; `blank` ends the sentence.
    pub fn note(&self, blank: &str) {
        let tool = self.tool;
        crate::message!("{tool}: {}: {blank}", features::this_kernel());
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match self.has_only_records() {
            true => diagnose::explain_record(error),
            false => diagnose::explain(error, self.tracepoints),
        }
    }

    /// Opens, configures and loads the skeleton; `None` if the command must use `fallback::run`. If the kernel rejects
    /// the programs because of a missing feature, everything is repeated with programs that do without it.
    ///
    /// `iterator` is a program defined by `EACH_SOCKET` of `bpf/common/owner/state.bpf.h`: see [`Self::each_socket`].
    ///
    /// # Errors
    /// Why this host cannot run them, in a sentence.
    pub fn start<'o, B>(
        &mut self,
        storage: &'o mut Storage,
        filter: &Filter,
        iterator: Option<&'static str>,
        mut configure: impl FnMut(&mut B::Output) -> Result<()>,
    ) -> Result<Option<Loaded<'o, B>>>
    where
        B: SkelBuilder<'o> + Default,
    {
        self.iterator = iterator;
        for storage in storage {
            if self.has_only_records() {
                return Ok(None);
            }
            let mut builder = B::default();
            let mut subset = Subset::new(builder.object_builder_mut());
            let mut open = self.open(builder, storage, filter)?;
            if let Some(subset) = &mut subset {
                subset.fill(open.open_object())?;
            }
            if let Some(name) = iterator {
                for (program, _) in self.visiting(name) {
                    enable(open.open_object_mut(), &program);
                }
            }
            configure(&mut open)?;
            self.interrupt.check()?;
            let error = match open.load() {
                Ok(skel) => return self.loaded(skel.object()).map(|()| Some(skel)),
                Err(error) => error.into(),
            };
            // A feature test that failed for lack of descriptors or memory proves nothing.
            if limits::exhausted(&error).is_some() || !features::explains_refusal() {
                return Err(self.explain(error));
            }
            self.ask();
        }
        bail!("the kernel refuses the programs, and those that do without newer features, too")
    }

    /// Opens the skeleton and puts the filters and the buffer size into it.
    ///
    /// # Errors
    /// When the object is not one of ours, or memory is short.
    pub(crate) fn open<'o, B>(
        &self,
        builder: B,
        storage: &'o mut MaybeUninit<OpenObject>,
        filter: &Filter,
    ) -> Result<B::Output>
    where
        B: SkelBuilder<'o>,
        B::Output: OpenSkel<'o>,
    {
        self.interrupt.check()?;
        self.ready.set(Some(Ready::new(self.tool, self.run)?));
        match &self.run.btf {
            Some(file) if features::has_types() => btf::file::check_unused(file)?,
            _ => {}
        }
        let mut open = builder.open(storage)?;
        self.configure(open.open_object_mut(), Some(filter))?;
        Ok(open)
    }

    /// Chooses programs, sizes of maps, and the configuration. Without a filter every socket is followed.
    fn configure(&self, object: &mut OpenObject, filter: Option<&Filter>) -> Result<()> {
        if !self.run.no_scan {
            let by_address = if self.table() { "_by_address" } else { "" };
            enable(object, &format!("scan_sockets{by_address}"));
            enable(object, "scan_subflows");
        }
        if self.table() {
            enable(object, "forget_socket");
        }
        choose_backups(object);
        let slots = self.room().slots();
        for mut map in object.maps_mut() {
            if map.name() == "events" {
                map.set_max_entries(self.buffer_bytes())?;
            } else if self.table() && map.name().to_string_lossy().ends_with("_by_address") {
                map.set_max_entries(self.room().most())?;
            } else if self.missing.socket_table == 0 && map.name() == "socket_table" {
                map.set_max_entries(slots)?;
            } else if map.name() == ".rodata.config" {
                let bytes = map.initial_value_mut().context("no configuration map")?;
                let config = plain::from_mut_bytes::<config>(bytes)
                    .map_err(|_| anyhow!("the configuration has another layout"))?;
                config.missing = self.missing;
                config.types = type_numbers();
                if let Some(filter) = filter {
                    filter.fill(config);
                }
                config.table_shift = 32 - slots.ilog2();
                config.wake_bytes = self.buffer_bytes() / 4;
                config.pid_ns = pids::namespace().number();
                config.stats = self.run.stats.into();
                config.reader = std::process::id();
            }
        }
        Ok(())
    }

    /// For how many sockets there is to be room.
    pub(crate) fn room(&self) -> Room {
        Room::new(self.run.sockets)
    }

    /// Whether socket state is in a table instead of socket storage, for lack of the latter.
    fn table(&self) -> bool {
        self.missing.sk_storage != 0
    }

    /// The variants of the iterator that visit all sockets, and the maps they iterate over.
    fn visiting(&self, name: &str) -> Vec<(String, Option<&'static str>)> {
        let in_storage = (name.to_owned(), Some("sockets"));
        let by = |what, map| (format!("{name}_by_{what}"), map);
        match self.table() {
            true => vec![by("address", Some("sockets_by_address"))],
            false if features::refuses_map_elements() => vec![by("namespace", None)],
            false if self.missing.socket_table != 0 => vec![in_storage],
            false => vec![by("slot", Some("socket_table")), in_storage],
        }
    }

    /// Attaches `scan_sockets`, for a tool that scans for owners again later.
    ///
    /// # Errors
    /// When the kernel has no such iterator.
    pub fn owners(&self, object: &mut Object) -> Result<Link> {
        let named = |p: &ProgramMut<'_>| is_scan(p) && p.autoload();
        let program = object.progs_mut().find(named);
        iter::attach(&program.context("no iterator")?, None)
    }

    /// Visits all tracked sockets with the iterator passed to [`Self::start`], and finds their owners; `None` without
    /// one.
    ///
    /// # Errors
    /// When the kernel has no such iterator (before 5.9).
    pub fn each_socket(&self, object: &mut Object) -> Result<Option<Holders>> {
        let Some(name) = self.iterator else {
            return Ok(None);
        };
        let files = self.scans().then(|| self.owners(object)).transpose()?;
        let mut at_once = Vec::new();
        for (program, map) in self.visiting(name) {
            let map = map.map(|name| {
                let map = object.maps().find(|m| m.name() == name);
                Ok::<_, anyhow::Error>(MapHandle::try_from(&map.context("no sockets")?)?)
            });
            let map = map.transpose()?;
            let mut programs = object.progs_mut();
            let program = programs.find(|p| p.name() == OsStr::new(&program));
            let link = iter::attach(
                &program.context("no iterator")?,
                map.as_ref().map(AsFd::as_fd),
            )?;
            if map.is_none() {
                let tool = self.tool;
                let report = move |n| message::unvisited(tool, "open sockets", n);
                let sockets = SocketIterator::by_namespace(&link, report)?;
                return Ok(Some(Holders::new(files, sockets)));
            }
            at_once.push(link);
        }
        let sockets = SocketIterator::AtOnce(at_once);
        Ok(Some(Holders::new(files, sockets)))
    }

    fn buffer_bytes(&self) -> u32 {
        buffer_bytes(self.run.buffer)
    }

    /// Loads the fallback programs.
    ///
    /// # Errors
    /// Why this host cannot run them, in a sentence.
    pub(crate) fn load<'o, O: OpenSkel<'o>>(&self, open: O) -> Result<O::Output> {
        self.interrupt.check()?;
        open.load().map_err(|e| self.explain(e.into()))
    }
}

/// The read-only data that holds a command's flags.
///
/// # Errors
/// When the object has none: the flags would be ignored.
pub fn constants<'m, T>(rodata: &'m mut Option<&mut T>) -> Result<&'m mut T> {
    rodata
        .as_deref_mut()
        .context("no constants in the programs")
}

/// The size of a ring buffer is a power of two of pages. `--buffer` starts at the largest page size, so a power of two
/// of bytes suffices.
fn buffer_bytes(kib: u32) -> u32 {
    (kib * 1024).next_power_of_two()
}

/// Raises the descriptor limit: a command that watches every network namespace needs one for each.
fn more_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn is_scan(program: &ProgramMut<'_>) -> bool {
    program.name().to_string_lossy().starts_with("scan_sockets")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::BUFFER_KIB;

    #[test]
    fn buffer_is_power_of_two_pages() {
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
