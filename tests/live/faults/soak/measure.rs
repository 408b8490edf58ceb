// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a command takes while it runs, and whether that grows.

use std::{fs, path::Path, time::Duration};

use anyhow::Result;

use super::watcher::Watcher;
use crate::{
    faults::objects::{Objects, family},
    procfs,
};

/// Of what [`Usage::line`] makes.
pub const HEADER: &str = "command                                  rows  RSS KiB: first    last   slope per minute (95 % within)  files  objects";

/// Memory that grows by no more than this over a whole run is some buffer that has come to its size, as tcptop's for all
/// rows of a look. tcpreset remembers more, up to a bound: 4096 connections in each of three lists.
fn bound_kib(tool: &str) -> f64 {
    match tool {
        "tcpreset" => 4096.0,
        _ => 1024.0,
    }
}

pub struct Usage {
    name: String,
    bound_kib: f64,
    /// Minutes since the start, and KiB.
    memory: Vec<(f64, f64)>,
    /// At the first look, and now.
    files: Option<(u64, u64)>,
    rows: u64,
}

/// Of a process and all that it has started.
fn resident_kib(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for pid in family(pid)? {
        // One that has just ended has none.
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        sum += kib.unwrap_or(0);
    }
    Ok(sum)
}

fn open_files(pid: u32) -> Result<u64> {
    let link = |fd: &Path| fs::read_link(fd);
    Ok(procfs::each(&format!("/proc/{pid}/fd"), link)?.len() as u64)
}

impl Usage {
    pub fn new(watcher: &Watcher) -> Self {
        Self {
            name: format!("{} {}", watcher.tool, watcher.args.join(" ")),
            bound_kib: bound_kib(watcher.tool),
            memory: Vec::new(),
            files: None,
            rows: 0,
        }
    }

    pub fn look(&mut self, at: Duration, watcher: &Watcher) -> Result<()> {
        let kib = resident_kib(watcher.pid())?;
        self.memory.push((at.as_secs_f64() / 60.0, kib as f64));
        let now = open_files(watcher.pid())?;
        self.files = Some(self.files.map_or((now, now), |(first, _)| (first, now)));
        self.rows = watcher.rows();
        Ok(())
    }

    /// A line of a table, and whether nothing has grown.
    pub fn line(&self, before: &Objects, now: &Objects) -> (String, bool) {
        // The first fifth is not counted: what is bounded comes to its bound.
        let settled = self.memory.split_at(self.memory.len() / 5).1;
        let (slope, error) = slope(settled);
        let kib = |look: Option<&(f64, f64)>| look.map_or(0.0, |(_, kib)| *kib);
        let (first, last) = (kib(settled.first()), kib(settled.last()));
        let (files, open) = self.files.unwrap_or_default();
        let grows = slope > 2.0 * error && last - first > self.bound_kib;
        let same = before.numbers() == now.numbers();
        let fine = !grows && open <= files && same;
        let objects = now.numbers();
        let line = format!(
            "{:36} {:8} {first:14.0} {last:7.0} {slope:18.2} ({:8.2})       {files} {open}  {objects:?}{}",
            self.name,
            self.rows,
            2.0 * error,
            if fine { "" } else { "  GROWS" }
        );
        (line, fine)
    }
}

/// Least squares, and the standard error of the slope.
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    if points.len() < 3 {
        return (0.0, 0.0);
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let together: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let slope = together / spread;
    let rest = |p: &(f64, f64)| (p.1 - y - slope * (p.0 - x)).powi(2);
    let rest: f64 = points.iter().map(rest).sum();
    (slope, (rest / (n - 2.0) / spread).sqrt())
}
