// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a process has in the kernel: programs, maps, links and type information, by the ids that the kernel gives each
//! once and to nobody else.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use libbpf_rs::{libbpf_sys as sys, query::BtfInfoIter};

use crate::{
    procfs,
    wait::{self, PATIENCE},
};

/// A kind of object, as a line of `/proc/PID/fdinfo` names its id.
const KINDS: [(&str, Next); 4] = [
    ("prog_id:", sys::bpf_prog_get_next_id),
    ("map_id:", sys::bpf_map_get_next_id),
    ("link_id:", sys::bpf_link_get_next_id),
    ("btf_id:", sys::bpf_btf_get_next_id),
];

type Next = unsafe extern "C" fn(u32, *mut u32) -> i32;

/// Objects, and the processes that had them.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    ids: BTreeSet<(&'static str, u32)>,
    processes: BTreeSet<u32>,
}

impl Objects {
    /// Those of a process and of all that it has started.
    pub fn of(pid: u32) -> Result<Self> {
        let mut all = Self::default();
        all.add(pid)?;
        Ok(all)
    }

    /// Adds what it has now, besides what it had.
    pub fn add(&mut self, pid: u32) -> Result<()> {
        for pid in family(pid)? {
            self.processes.insert(pid);
            let read = |entry: &Path| fs::read_to_string(entry);
            for text in procfs::each(&format!("/proc/{pid}/fdinfo"), read)? {
                self.ids.extend(ids(&text));
            }
        }
        Ok(())
    }

    /// How many of a kind: `prog_id:`, `map_id:`, `link_id:`.
    pub fn count(&self, kind: &str) -> usize {
        self.ids.iter().filter(|(of, _)| *of == kind).count()
    }

    /// How many of each kind, which has a name.
    pub fn numbers(&self) -> [usize; 4] {
        KINDS.map(|(kind, _)| self.count(kind))
    }

    /// Waits until none of them is there: the kernel frees some a moment after the last user has gone.
    pub fn gone(&self) -> Result<()> {
        ensure!(!self.ids.is_empty(), "it had nothing in the kernel");
        let mut left = Vec::new();
        let outcome = wait::until("an empty kernel", PATIENCE, || {
            let now = in_kernel();
            left = self.ids.intersection(&now).copied().collect();
            if left.iter().any(|(kind, _)| *kind == "btf_id:") {
                let kernels = types_of_kernel();
                left.retain(|(kind, id)| *kind != "btf_id:" || !kernels.contains(id));
            }
            let alive = |pid: &&u32| runs(**pid);
            let processes = self.processes.iter().find(alive);
            Ok((left.is_empty() && processes.is_none()).then_some(()))
        });
        outcome.with_context(|| format!("left behind: {left:?}, of {:?}", self.processes))
    }
}

/// Type information of the kernel and its modules, which has names. A command that looks into it holds it, too: libbpf
/// does while it searches for a type.
fn types_of_kernel() -> BTreeSet<u32> {
    let named = BtfInfoIter::default().filter(|info| !info.name.is_empty());
    named.map(|info| info.id).collect()
}

/// It is there, and no zombie that its parent is slow to collect.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

/// A process and all below it.
pub fn family(pid: u32) -> Result<Vec<u32>> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        let read = |task: &Path| fs::read_to_string(task.join("children"));
        // Gone meanwhile, perhaps.
        let lists = procfs::each(&format!("/proc/{parent}/task"), read).unwrap_or_default();
        let children = lists.iter().flat_map(|list| list.split_whitespace());
        all.extend(children.filter_map(|pid| pid.parse::<u32>().ok()));
        at += 1;
    }
    Ok(all)
}

/// The ids that a descriptor's description has.
fn ids(text: &str) -> impl Iterator<Item = (&'static str, u32)> {
    let id = |(kind, _): &(&'static str, Next)| {
        let value = text.lines().find_map(|line| line.strip_prefix(*kind))?;
        Some((*kind, value.trim().parse().ok()?))
    };
    KINDS.iter().filter_map(id)
}

/// All that are in the kernel, of whomever.
pub fn in_kernel() -> BTreeSet<(&'static str, u32)> {
    let mut all = BTreeSet::new();
    for (kind, next) in KINDS {
        let mut id = 0;
        // SAFETY: writes an id to an integer that lives.
        while unsafe { next(id, &raw mut id) } == 0 {
            all.insert((kind, id));
        }
    }
    all
}
