// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this service itself costs, and what it misses.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use libbpf_rs::{MapCore, MapFlags, MapHandle, Object};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{SysconfVar, sysconf};

use super::model::{Is, Page};
use super::text::label;
use crate::abi::types::counters;
use crate::session::skipped::Skipped;
use crate::session::stats::{info, is_loaded};

/// Descriptors of what is asked.
pub(super) struct Own {
    skipped: Skipped,
    programs: Vec<(String, OwnedFd)>,
    counters: Option<MapHandle>,
    start: u64,
}

impl Own {
    pub(super) fn new(object: &Object) -> Self {
        let descriptor = |program: libbpf_rs::Program<'_>| {
            let mut own = String::new();
            label(&mut own, "program", &program.name().to_string_lossy());
            Some((own, program.as_fd().try_clone_to_owned().ok()?))
        };
        let programs = object.progs().filter(is_loaded);
        let counters = object.maps().find(|map| map.name() == ".data.counters");
        let start = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            skipped: Skipped::new(object),
            programs: programs.filter_map(descriptor).collect(),
            counters: counters.and_then(|map| MapHandle::try_from(&map).ok()),
            start: start.map_or(0, |start| start.as_nanos() as u64),
        }
    }

    /// Writes them.
    pub(super) fn write(&self, page: &mut Page) {
        page.add(Is::Skipped, String::new(), self.skipped.read());
        page.add(Is::Untracked, String::new(), self.untracked());
        for (name, program) in &self.programs {
            let info = info(program);
            if info.run_cnt > 0 {
                page.add(Is::ProgramRuns, name.clone(), info.run_cnt);
                page.add_ns(Is::ProgramTime, name.clone(), info.run_time_ns);
            }
        }
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let time = usage.user_time() + usage.system_time();
            page.add_ns(
                Is::Cpu,
                String::new(),
                time.num_microseconds() as u64 * 1000,
            );
        }
        if let Some(bytes) = resident() {
            page.add(Is::Memory, String::new(), bytes);
        }
        page.add_ns(Is::Start, String::new(), self.start);
        let mut version = String::new();
        label(&mut version, "version", env!("CARGO_PKG_VERSION"));
        page.add(Is::Build, version, 1);
    }

    fn untracked(&self) -> u64 {
        let mut now = counters::default();
        let read = |map: &MapHandle| map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY);
        let bytes = self
            .counters
            .as_ref()
            .and_then(|map| read(map).ok().flatten());
        let _ = plain::copy_from_bytes(&mut now, &bytes.unwrap_or_default());
        now.untracked
    }
}

/// The second number of /proc/self/statm, which is in pages.
fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten()?;
    Some(pages * page as u64)
}
