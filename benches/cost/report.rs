// SPDX-License-Identifier: MIT OR Apache-2.0
//! Medians and ratios, as a Markdown table.

use std::fs;

use anyhow::Result;
use nix::sys::utsname::uname;

use crate::load::Load;
use crate::subject::{Cost, Subject};

/// One subject in one round.
pub struct Sample {
    pub rate: f64,
    /// The rate with nothing attached, right before and after.
    pub untraced: f64,
    /// Connections made, or blocks of 10 KB sent.
    pub units: usize,
    pub events: u64,
    pub ns: u64,
    pub cost: Cost,
}

/// What the numbers were measured on.
pub fn host() -> Result<()> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let cpus = std::thread::available_parallelism()?;
    let release = uname()?.release().to_string_lossy().into_owned();
    let model = model
        .unwrap_or_default()
        .trim_start_matches([' ', '\t', ':']);
    println!(
        "Linux {release}, {cpus} CPUs ({model}), {}\n",
        chrono::Utc::now().format("%Y-%m-%d")
    );
    Ok(())
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The table of one load.
pub fn print(load: Load, untraced: &[f64], subjects: &[Subject], samples: &[Vec<Sample>]) {
    println!("## {} ({})\n", load.name(), load.unit());
    println!(
        "| subject | rate | of untraced | ns per event | net of empty | kernel ns per connection or 10 KB | reader ns per row | rows | most lost | ready ms | peak KB | binary KB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let empty = " |".repeat(11);
    let rate = median(untraced.iter().copied());
    println!("| nothing attached | {}{empty}", number(rate));
    let per_event =
        |samples: &[Sample]| median(samples.iter().map(|s| s.ns as f64 / s.events as f64));
    let floor = samples.first().map_or(f64::NAN, |s| per_event(s));
    for (subject, samples) in subjects.iter().zip(samples) {
        if samples.is_empty() {
            println!("| {} | does not run here{empty}", subject.name);
            continue;
        }
        let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
        let event = per_event(samples);
        let cells = [
            number(of(|s| s.rate)),
            format!("{:.0} %", of(|s| s.rate / s.untraced) * 100.0),
            number(event),
            number(event - floor),
            number(of(|s| s.ns as f64 / s.units as f64)),
            number(of(|s| s.cost.reader_ns as f64 / s.cost.rows as f64)),
            number(of(|s| s.cost.rows as f64)),
            samples
                .iter()
                .map(|s| s.cost.lost)
                .max()
                .unwrap_or(0)
                .to_string(),
            number(of(|s| s.cost.startup_ms)),
            number(of(|s| s.cost.rss_kb as f64)),
            number(of(|s| s.cost.binary_kb as f64)),
        ];
        println!("| {} | {} |", subject.name, cells.join(" | "));
    }
    println!();
}

pub fn number(value: f64) -> String {
    match value {
        v if !v.is_finite() || v == 0.0 => String::new(),
        v if v.abs() < 10.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}
