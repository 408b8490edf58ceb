// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `/proc/PID/fdinfo` says of a process's BPF programs, of the tracepoints that they are on, and of its maps.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use libbpf_rs::libbpf_sys;

/// Time and events.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    /// Of all programs.
    pub ns: u64,
    /// Occurrences at the tracepoints, however many programs saw each.
    pub events: u64,
}

/// A process's BPF objects, by their numbers.
#[derive(Default)]
pub struct Bpf {
    /// Run time in ns, and runs.
    programs: HashMap<u32, (u64, u64)>,
    /// The tracepoint of a program; empty where its link does not say.
    tracepoints: HashMap<u32, String>,
    /// Bytes of kernel memory.
    maps: HashMap<u32, u64>,
}

/// The kernel keeps run-time statistics while the descriptor lives. They read the clock twice per run.
pub fn enable_stats() -> Result<OwnedFd> {
    // SAFETY: takes a number and returns a descriptor or an error.
    let fd = unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) };
    ensure!(
        fd >= 0,
        "the kernel keeps no run-time statistics of BPF programs"
    );
    // SAFETY: the call has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

impl Bpf {
    pub fn of(pid: u32) -> Result<Self> {
        let mut bpf = Self::default();
        let folder = fs::read_dir(format!("/proc/{pid}/fdinfo")).context("fdinfo")?;
        for entry in folder.flatten() {
            // A descriptor that was closed in the meantime has nothing to say.
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            bpf.add(&text);
        }
        Ok(bpf)
    }

    fn add(&mut self, text: &str) {
        let lines = text.lines().filter_map(|line| line.split_once(":\t"));
        let fields: HashMap<_, _> = lines.collect();
        let number = |key: &str| fields.get(key).and_then(|v| v.trim().parse::<u64>().ok());
        let has = |key: &str| fields.contains_key(key);
        match (number("prog_id"), number("map_id")) {
            (Some(id), _) if has("link_id") => {
                let name = ["tp_name", "raw_tp_name"]
                    .iter()
                    .find_map(|k| fields.get(k));
                let name = name.copied().unwrap_or_default().to_owned();
                self.tracepoints.insert(id as u32, name);
            }
            (Some(id), _) => {
                let spent = number("run_time_ns").zip(number("run_cnt"));
                self.programs.insert(id as u32, spent.unwrap_or_default());
            }
            (None, Some(id)) => {
                self.maps
                    .insert(id as u32, number("memlock").unwrap_or_default());
            }
            (None, None) => {}
        }
    }

    pub fn map_kb(&self) -> u64 {
        self.maps.values().sum::<u64>() / 1024
    }

    /// A tracepoint's events are the runs of the program that ran most often there: backup programs see the same ones.
    pub fn since(&self, before: &Self) -> Spent {
        let (mut ns, mut events) = (0, HashMap::<String, u64>::new());
        for (id, (time, runs)) in &self.programs {
            let (time_before, runs_before) = before.programs.get(id).copied().unwrap_or_default();
            ns += time.saturating_sub(time_before);
            let tracepoint = match self.tracepoints.get(id) {
                Some(name) if !name.is_empty() => name.clone(),
                // Some peers have no link, or one without a name: a program for each of their events.
                Some(_) => id.to_string(),
                None if self.tracepoints.is_empty() => id.to_string(),
                // An iterator: what it visits is no event.
                None => continue,
            };
            let most = events.entry(tracepoint).or_default();
            *most = runs.saturating_sub(runs_before).max(*most);
        }
        let events = events.values().sum();
        Spent { ns, events }
    }
}
