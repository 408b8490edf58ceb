// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--peer`: the programs that note both ends of each connection, beside the command's own.

use std::mem::MaybeUninit;
use std::time::Duration;

use anyhow::{Context, Result};
use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{Object, OpenObject};

use super::Session;
use super::handler::Handler;
use super::loss::Counters;
use super::skipped::Skipped;
use super::variant::connect_backups;
use crate::error::Usage;
use crate::kernel::btf::subset::Subset;
use crate::kernel::conntrack::Conntrack;
use crate::kernel::peers::Peers;
use crate::output::whose::peer;

crate::skeleton!("peer");

/// How late rows are: the end that opens a connection is established before the other one exists, by the time that an
/// ACK takes to get there.
pub(super) const LATE: Duration = Duration::from_millis(10);

/// The loaded programs, and who asks connection tracking.
pub(super) struct OtherEnds<'o> {
    skel: bpf::PeerSkel<'o>,
    conntrack: Option<Conntrack>,
}

impl OtherEnds<'_> {
    pub(super) fn object(&mut self) -> &mut Object {
        self.skel.object_mut()
    }

    /// Rows know the other ends from now on. Call it with the privileges of loading.
    ///
    /// # Errors
    /// When descriptors are short.
    pub(super) fn open(&mut self) -> Result<Missed> {
        let object = self.skel.object();
        peer::open(Peers::new(object)?, self.conntrack.take());
        Ok(Missed {
            counters: Counters::from_object(object).context("no counters")?,
            skipped: Skipped::new(object),
        })
    }
}

/// What counts the ends that were not noted.
pub(super) struct Missed {
    counters: Counters,
    skipped: Skipped,
}

impl Missed {
    /// Reports, at the end, how many peers may be blank for no other reason; the same for the summary.
    pub(super) fn report(&self, tool: &str) -> (&'static str, Option<u64>) {
        let counters = self.counters.read();
        let missed = counters.untracked + counters.uncounted + self.skipped.read();
        if missed > 0 {
            crate::message!(
                "{tool}: up to {missed} ends of connections were not noted, so peers may be blank: more sockets were open than --sockets has room for, or the kernel had no memory"
            );
        }
        let late = peer::late();
        if late > 0 {
            crate::message!(
                "{tool}: connection tracking was asked too late for {late} rows, whose peers may be blank"
            );
        }
        let missed = missed + late;
        ("peers_missed", Some(missed))
    }
}

impl Session<'_> {
    /// Loads the programs if `--peer` is given; `None`, and a message, on a kernel that cannot run them.
    ///
    /// # Errors
    /// When no row has another end; or why this host cannot run them.
    pub(super) fn other_ends<'o>(
        &self,
        handler: &impl Handler,
        storage: &'o mut MaybeUninit<OpenObject>,
    ) -> Result<Option<OtherEnds<'o>>> {
        if !peer::is_asked() {
            return Ok(None);
        }
        if self.has_only_records() {
            self.note("the other ends of connections stay blank (--peer)");
            return Ok(None);
        }
        if !peer::is_shown() || !handler.has_ends() {
            let why = "--peer: sums and pictures are of many connections, which have no other end";
            return Err(Usage(why.into()).into());
        }
        let mut builder = bpf::PeerSkelBuilder::default();
        let mut subset = Subset::new(builder.object_builder_mut());
        let mut open = builder.open(storage)?;
        let object = open.open_object_mut();
        self.configure(object, None)?;
        for mut map in object.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            match name.as_str() {
                // Allocated one by one: room costs little.
                "ends" | "places" => {
                    let ends = self.room().slots().saturating_mul(4);
                    map.set_max_entries(ends.min(MAX_ENDS))?;
                }
                // No record is sent.
                "events" => map.set_max_entries(EVENTS)?,
                // Only records name a cgroup.
                _ if name.starts_with("cgroup_") => map.set_autocreate(false)?,
                _ => {}
            }
        }
        if let Some(subset) = &mut subset {
            subset.fill(object)?;
        }
        let skel = self.load(open)?;
        connect_backups(skel.object())?;
        // Without it only what is translated to other hosts stays blank.
        let conntrack = Conntrack::start().unwrap_or_default();
        Ok(Some(OtherEnds { skel, conntrack }))
    }
}

/// Ends that are noted at the most.
const MAX_ENDS: u32 = 1 << 24;

/// The smallest buffer: a page, whatever its size.
const EVENTS: u32 = 64 * 1024;
