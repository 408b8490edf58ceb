// SPDX-License-Identifier: MIT OR Apache-2.0
//! Running on kernels without type information (BTF): from the records of the classic tracepoints alone.
//!
//! The kernel half (`src/bpf/support/fallback.bpf.c`) hands over what the records have. A command translates that into the
//! records that its own kernel half would send, so that everything behind them is the same.

#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod attempt;
mod filter_match;
pub(crate) mod format;
pub mod inet_diag;
pub(crate) mod owners;
mod pending_rows;
mod refusal;
mod sockets;
mod translated;

use std::mem::MaybeUninit;
use std::time::Instant;

use anyhow::Result;
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};

pub use self::attempt::is_counted;
pub use self::filter_match::FilterMatch;
pub use self::owners::{holders, scanned};
pub use self::pending_rows::PendingRows;
pub use self::refusal::refusal;
pub use self::sockets::{Socket, Sockets};
use self::translated::Translated;
use crate::abi::known::{KNOWN_NETNS, KNOWN_UID};
use crate::abi::types::{Record, bytes_of, close_event, head, owner, trace_event};
use crate::cli::filter::Filter;
use crate::error::Usage;
use crate::kernel::problem::Problem;
use crate::kernel::sock_diag::DestroyMonitor;
use crate::kernel::{features, mounts};
use crate::session::{Handler, Session, buffer, constants};

crate::skeleton!("fallback");

/// The part of a command: makes its records from those of the tracepoints.
pub trait Translate {
    /// What it remembers of each socket.
    type Tool: Copy + Default;

    /// The tracepoints it needs besides those that follow sockets.
    fn tracepoints(&self) -> Vec<&'static str>;

    /// What its rows do not have: the end of a sentence.
    fn blank(&self) -> &'static str;

    /// After every batch: all events until `until_ns` (boot time) have been handed over.
    fn tick(&mut self, _until_ns: u64, _sockets: &mut Sockets<Self::Tool>, _out: &mut Out<'_>) {}

    /// See [`Handler::due`].
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Whether to follow sockets from first use to destruction.
    fn follows(&self) -> bool {
        true
    }

    /// Whether records are to have [`close_event::calls`].
    fn notes_calls(&self) -> bool {
        false
    }

    /// When every probe is attached, and there still are privileges.
    fn attached(&mut self) {}

    /// Where it gets the final statistics of sockets, if its rows have such.
    fn accounts(&self) -> Option<&DestroyMonitor> {
        None
    }

    /// See [`Handler::unvisited`].
    fn unvisited(&self) -> u64 {
        self.accounts().map_or(0, DestroyMonitor::unvisited)
    }

    /// Events were lost: state kept by socket address may belong to another socket now.
    fn forget(&mut self) {}

    /// One event.
    fn event(&mut self, event: Event<'_, Self::Tool>, out: &mut Out<'_>);

    /// Once, when no event will follow.
    fn finish(&mut self, _out: &mut Out<'_>) {}
}

/// Where a command's own records go, and the filters that decide which.
pub struct Out<'o> {
    /// The filters.
    pub filter: &'o FilterMatch,
    take: &'o mut dyn FnMut(&[u8]),
}

impl Out<'_> {
    /// Hands over a record that the filters let pass.
    pub fn record(&mut self, record: &impl Record) {
        (self.take)(bytes_of(record));
    }
}

/// A tracepoint's record and its owner.
pub struct Event<'a, T> {
    /// The record.
    pub trace: &'a trace_event,
    /// The same with what only its kind has, as it came.
    pub record: &'a [u8],
    /// The socket's owner, as far as it is known.
    pub owner: owner,
    /// What only the kinds STATE and DESTROY have.
    pub end: Option<&'a close_event>,
    /// The socket's state; `None` if the socket is ambiguous, or there was no room.
    pub socket: Option<&'a mut Socket<T>>,
}

/// Rejects the first given flag that needs what no record has.
///
/// # Errors
/// That sentence.
pub fn refuse(flags: &[(&str, bool)]) -> Result<()> {
    let Some((flag, _)) = flags.iter().find(|(_, given)| *given) else {
        return Ok(());
    };
    let (kernel, why) = (
        features::this_kernel(),
        "and its tracepoint records are not sufficient",
    );
    Err(Usage(format!("{flag}: {kernel}, {why}")).into())
}

/// The head of a command's record: what no tracepoint's record has is unknown.
pub fn head(event: &trace_event, owner: &owner, kind: u16, known: u16) -> head {
    let netns = if event.netns == 0 { 0 } else { KNOWN_NETNS };
    let uid = if event.uid == u32::MAX { 0 } else { KNOWN_UID };
    head {
        boot_ns: event.at_ns,
        cookie: event.cookie,
        cgroup: 0, // /proc tells that of the owner
        flow: event.flow,
        owner: *owner,
        netns: event.netns,
        uid: event.uid,
        event: kind,
        known: known | netns | uid,
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
    if let Some(problem) = mounts::sys().or_else(mounts::proc) {
        anyhow::bail!("{problem}");
    }
    let file = session.sockets();
    let matching = FilterMatch::new(filter, file.is_some() && translate.follows())?;
    refuse_lockdown()?;
    let mut tracepoints = translate.tracepoints();
    if translate.follows() {
        tracepoints.extend(FOLLOW);
    }
    let custom_btf = format::CustomBtf::new(&tracepoints, file)?;
    let probes = tracepoints.contains(&"tcp:tcp_probe");
    let by_flow = probes && !custom_btf.has("tcp_probe", "skaddr");
    if by_flow {
        matching.refuse_sockets()?;
    }
    let ring = !features::lacks_ring_buffer();
    let mut builder = bpf::FallbackSkelBuilder::default();
    builder
        .object_builder_mut()
        .btf_custom_path(custom_btf.path())?;
    let mut storage = MaybeUninit::uninit();
    let mut open = session.open(builder, &mut storage, filter)?;
    constants(&mut open.maps.rodata_data)?.calls = translate.notes_calls();
    if !ring {
        buffer::use_perf(open.open_object_mut())?;
    }
    for mut program in open.open_object_mut().progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        let event = name.strip_suffix(if ring { "_ring" } else { "_perf" });
        let chosen = |t: &&str| event.is_some() && t.split(':').nth(1) == event;
        program.set_autoload(tracepoints.iter().any(chosen));
    }
    let mut skel = session.load(open)?;
    let blank = translate.blank();
    let told = translate
        .accounts()
        .is_some_and(DestroyMonitor::is_available);
    let blank = match (file, translate.follows()) {
        (None, true) if told => format!("{blank}; uid too"),
        (None, true) => format!("{blank}; netns and uid too"),
        _ => blank.to_owned(),
    };
    let note = || session.note(&blank);
    let mut translated = Translated {
        tool: session.tool(),
        sockets: Sockets::new(by_flow, session.room().most()),
        scan: session.scans(),
        filter: matching,
        monotonic: !ring,
        behind_ns: 0,
        looked_ns: [0; 2],
        lost: 0,
        translate,
        handler,
        note: Some(&note),
    };
    translated.measure();
    session.run(skel.object_mut(), &mut translated)
}

/// Before 5.15 such a kernel loads programs, but hides what they read.
fn refuse_lockdown() -> Result<()> {
    let problem: Option<Problem> = crate::kernel::diagnose::lockdown();
    problem.map_or(Ok(()), |t| anyhow::bail!("{t}"))
}
