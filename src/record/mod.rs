// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running on kernels without type information (BTF): from the records of the classic tracepoints alone.
//!
//! The kernel half (`src/bpf/record.bpf.c`) hands over what the records have. A command translates that into the
//! records that its own kernel half would send, so that everything behind them is the same.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod attempt;
mod external;
mod format;
mod owners;
mod sockets;
mod wanted;

use std::mem::MaybeUninit;
use std::path::Path;

use anyhow::Result;
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};

pub use self::attempt::is_counted;
pub use self::sockets::{Socket, Sockets};
pub use self::wanted::Wanted;
use crate::cli::{Run, Usage};
use crate::clock::{boot_ns, monotonic_ns};
use crate::filter::Filter;
use crate::preflight::{self, KERNEL_BTF, Trouble};
use crate::session::{Figures, Handler, Printer, Session, Shows, Unseen};
use crate::types::{decode, head, owner, seen, seen_end, seen_kind};
use crate::{lacks, namespaces, source};

crate::skeleton!("record");

/// Whether `TCPTOOLS_WITHOUT` names something that the kernel has: `btf`, `ringbuf`, `mmap`, `map_elements`. For tests,
/// and to compare. Not there with rights that the user does not have: see [`crate::trust::clean_environment`].
pub fn done_without(feature: &str) -> bool {
    let list = std::env::var("TCPTOOLS_WITHOUT").unwrap_or_default();
    list.split(',').any(|word| word == feature)
}

/// Whether the kernel has type information of its own.
pub(crate) fn has_types() -> bool {
    !done_without("btf") && Path::new(KERNEL_BTF).exists()
}

/// The type information by which sockets are read besides records: the kernel's own, if it only lacks what came with
/// the ring buffer, or the user's file.
pub fn types(run: &Run) -> Option<&Path> {
    match has_types() {
        true => Some(Path::new(KERNEL_BTF)),
        false => run.btf.as_deref(),
    }
}

/// What the kernel lacks, without which nothing but tracepoints' records can be read.
pub fn lacking() -> Option<&'static str> {
    if !has_types() {
        return Some("no type information (BTF)");
    }
    // Such a kernel (before 5.8) lacks more of what the commands' own programs need.
    let no_ring_buffer = done_without("ringbuf") || lacks::known().ring_buffer != 0;
    no_ring_buffer.then_some("no ring buffer")
}

/// Whether commands have only the records of tracepoints.
pub fn is_needed() -> bool {
    lacking().is_some()
}

/// The beginning of a sentence that says so.
pub(crate) fn this_kernel() -> String {
    format!("this kernel has {}", lacking().unwrap_or("little to read"))
}

/// A command's own part: makes its records of what the tracepoints' records have.
pub trait Translate {
    /// What it remembers of each socket.
    type Tool: Copy + Default;

    /// The tracepoints it needs besides those that follow sockets.
    fn tracepoints(&self) -> Vec<&'static str>;

    /// What its rows will not have: a sentence's end.
    fn blank(&self) -> &'static str;

    /// After every batch: all that came about until `until_ns` (of boot time) has been handed over.
    fn tick(
        &mut self,
        _until_ns: u64,
        _sockets: &mut Sockets<Self::Tool>,
        _wanted: &Wanted,
        _out: &mut dyn FnMut(&[u8]),
    ) {
    }

    /// Whether sockets are to be followed from their first use to their end: the command's records have sockets.
    fn follows(&self) -> bool {
        true
    }

    /// What [`Self::blank`] does not name, as it is known where sockets are read ([`types`]).
    fn blank_of_sockets(&self) -> &'static str {
        "netns and uid"
    }

    /// Whether records are to have [`seen_end::calls`].
    fn notes_calls(&self) -> bool {
        false
    }

    /// When every probe is attached, and there still are privileges.
    fn attached(&mut self) {}

    /// See [`Handler::unseen`].
    fn unseen(&self) -> Unseen {
        Unseen::default()
    }

    /// Events were lost: what it remembers by the address of a socket may be another socket's.
    fn forget(&mut self) {}

    /// One event. `out` takes records of the command's own.
    fn event(&mut self, event: Event<'_, Self::Tool>, wanted: &Wanted, out: &mut dyn FnMut(&[u8]));

    /// Once, when no event will follow.
    fn finish(&mut self, _wanted: &Wanted, _out: &mut dyn FnMut(&[u8])) {}
}

/// A record of a tracepoint, and whose it is.
pub struct Event<'a, T> {
    /// The record.
    pub seen: &'a seen,
    /// The same with what only its kind has, as it came.
    pub record: &'a [u8],
    /// The socket's owner, as far as it is known.
    pub owner: owner,
    /// What only the kinds STATE and DESTROY have.
    pub end: Option<&'a seen_end>,
    /// What is remembered of the socket; `None` if that could be several, or there was no room.
    pub socket: Option<&'a mut Socket<T>>,
}

/// A flag that needs what no record has: the sentence that refuses it, for the first one that is given.
///
/// # Errors
/// That sentence.
pub fn refuse(flags: &[(&str, bool)]) -> Result<()> {
    let Some((flag, _)) = flags.iter().find(|(_, given)| *given) else {
        return Ok(());
    };
    let (kernel, why) = (
        this_kernel(),
        "and the records of its tracepoints are not enough for that",
    );
    Err(Usage(format!("{flag}: {kernel}, {why}")).into())
}

/// The head of a command's record: what no tracepoint's record has is unknown.
pub fn head(event: &seen, owner: &owner, kind: u32) -> head {
    head {
        boot_ns: event.at_ns,
        cookie: event.cookie,
        flow: event.flow,
        owner: *owner,
        netns: event.netns,
        uid: event.uid,
        event: kind,
    }
}

/// Follow sockets from their first use to their end.
const FOLLOW: [&str; 2] = ["sock:inet_sock_set_state", "tcp:tcp_destroy_sock"];

/// Runs a command on the records of tracepoints.
///
/// # Errors
/// A sentence, when this host or these arguments do not allow it; see also [`Session::run`].
pub fn run(
    session: &Session<'_>,
    filter: &Filter,
    translate: impl Translate,
    handler: &mut impl Handler,
) -> Result<()> {
    if let Some(trouble) = preflight::sys().or_else(preflight::proc) {
        anyhow::bail!("{trouble}");
    }
    let file = session.types();
    let wanted = Wanted::new(filter, file.is_some() && translate.follows())?;
    refuse_lockdown()?;
    let mut tracepoints = translate.tracepoints();
    if translate.follows() {
        tracepoints.extend(FOLLOW);
    }
    let described = format::Described::new(&tracepoints, file)?;
    let probes = tracepoints.contains(&"tcp:tcp_probe");
    let by_flow = probes && !described.has("tcp_probe", "skaddr");
    if by_flow {
        wanted.refuse_sockets()?;
    }
    let ring = !source::lacks_ring_buffer();
    let mut builder = bpf::RecordSkelBuilder::default();
    builder
        .object_builder_mut()
        .btf_custom_path(described.path())?;
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(builder, &mut storage, filter)?;
    if let Some(rodata) = open.maps.rodata_data.as_deref_mut() {
        rodata.calls = translate.notes_calls();
    }
    if !ring {
        source::use_perf(open.open_object_mut())?;
    }
    for mut program in open.open_object_mut().progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        let event = name.strip_suffix(if ring { "_ring" } else { "_perf" });
        let chosen = |t: &&str| event.is_some() && t.split(':').nth(1) == event;
        program.set_autoload(tracepoints.iter().any(chosen));
    }
    let mut skel = session.load(open)?;
    let blank = match (file, translate.follows()) {
        (None, true) => format!(
            "{}; {} too",
            translate.blank(),
            translate.blank_of_sockets()
        ),
        _ => translate.blank().to_owned(),
    };
    let mut translated = Translated {
        tool: session.tool(),
        sockets: Sockets::new(by_flow),
        seeds: session.seeds(),
        wanted,
        monotonic: !ring,
        behind_ns: 0,
        looked_ns: [0; 2],
        lost: 0,
        translate,
        handler,
        say: Some(&|| session.say(&blank)),
    };
    translated.measure();
    session.run(skel.object_mut(), &mut translated)
}

/// Looks at the user's type information where the kernel's own serves.
///
/// # Errors
/// A sentence: it is no BTF, or not this kernel's.
pub(crate) fn check_unused(file: &Path) -> Result<()> {
    let events = format::tracefs().ok();
    external::checked(file, events.as_deref()).map(drop)
}

/// Before 5.15 such a kernel loads programs, but hides what they read.
fn refuse_lockdown() -> Result<()> {
    let trouble: Option<Trouble> = crate::preflight::lockdown();
    trouble.map_or(Ok(()), |t| anyhow::bail!("{t}"))
}

/// A handler of tracepoints' records, in front of the command's.
struct Translated<'h, T: Translate, H> {
    tool: &'static str,
    sockets: Sockets<T::Tool>,
    seeds: bool,
    wanted: Wanted,
    /// Records have the monotonic time.
    monotonic: bool,
    /// How far the monotonic clock is behind that of boot time.
    behind_ns: u64,
    /// When the reader looked last, and before that.
    looked_ns: [u64; 2],
    /// Events that were lost up to now.
    lost: u32,
    translate: T,
    handler: &'h mut H,
    /// Says what stays blank.
    say: Option<&'h dyn Fn()>,
}

impl<T: Translate, H> Translated<'_, T, H> {
    fn measure(&mut self) {
        self.behind_ns = match self.monotonic {
            true => boot_ns().saturating_sub(monotonic_ns()),
            false => 0,
        };
    }
}

impl<T: Translate, H: Handler> Handler for Translated<'_, T, H> {
    fn attached(&mut self) {
        if self.seeds && self.translate.follows() {
            self.sockets.seed();
        }
        self.translate.attached();
        let unvisited = self.translate.unseen().unvisited;
        if unvisited > 0 {
            namespaces::say_unvisited(self.tool, "what is asked of their sockets", unvisited);
        }
        self.handler.attached();
    }

    fn header(&mut self, out: &mut Vec<u8>) {
        // Only now: where the command cannot run, why is all that is to be said.
        if let Some(say) = self.say.take() {
            say();
        }
        self.handler.header(out);
    }

    fn record(&mut self, record: &[u8], out: &mut Printer) {
        let Some(&(mut event)) = decode::<seen>(record) else {
            return;
        };
        event.at_ns = event.at_ns.saturating_add(self.behind_ns);
        if event.lost.wrapping_sub(self.lost) as i32 > 0 {
            self.lost = event.lost;
            self.sockets.forget();
            self.translate.forget();
        }
        let handler = &mut *self.handler;
        let mut tell = |record: &[u8]| handler.record(record, out);
        let owner = self.sockets.owner_by_ends(&event);
        let socket = self.sockets.follow(&event);
        let owner = socket.as_ref().map_or(owner, |socket| socket.owner);
        let seen = &event;
        let whose = Event {
            seen,
            record,
            end: matches!(seen.kind, seen_kind::STATE | seen_kind::DESTROY)
                .then(|| decode(record))
                .flatten(),
            owner,
            socket,
        };
        if self.wanted.socket(seen) {
            self.translate.event(whose, &self.wanted, &mut tell);
        }
        if event.kind == seen_kind::DESTROY {
            self.sockets.destroy(event.skaddr);
        }
    }

    fn tick(&mut self, out: &mut Printer) {
        self.sockets.tick();
        self.measure();
        // A perf buffer's records are handed over one turn later.
        let [last, before] = self.looked_ns;
        self.looked_ns = [boot_ns(), last];
        let handler = &mut *self.handler;
        let mut tell = |record: &[u8]| handler.record(record, out);
        let sockets = &mut self.sockets;
        self.translate
            .tick(before, sockets, &self.wanted, &mut tell);
        self.handler.tick(out);
    }

    fn finish(&mut self, out: &mut Printer) {
        let handler = &mut *self.handler;
        let mut tell = |record: &[u8]| handler.record(record, out);
        self.translate.finish(&self.wanted, &mut tell);
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

    fn figures(&self) -> Vec<(&'static str, Option<u64>)> {
        self.handler.figures()
    }

    fn unseen(&self) -> Unseen {
        self.translate.unseen()
    }

    fn summary(&mut self, out: &mut Vec<u8>, fields: &Figures) {
        self.handler.summary(out, fields);
    }
}
