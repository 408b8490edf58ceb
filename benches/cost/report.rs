// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every table shares: the host, medians and quartiles, numbers, whether a target is met.

use std::fmt::Display;
use std::fs;
use std::io::IsTerminal;

use anyhow::Result;
use nix::sys::utsname::uname;

/// The middle of some values, and of its halves.
#[derive(Clone, Copy)]
pub struct Spread {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
}

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let [lower, median, upper] = [0.25, 0.5, 0.75].map(|part| {
            let at = (values.len().max(1) - 1) as f64 * part;
            let value = |at: f64| values.get(at as usize).copied().unwrap_or(f64::NAN);
            let (below, above) = (value(at.floor()), value(at.ceil()));
            below + (above - below) * at.fract()
        });
        Self {
            lower,
            median,
            upper,
        }
    }

    /// Lower and upper quartile, with so many decimals.
    pub fn quartiles(self, decimals: usize) -> String {
        match self.median.is_nan() {
            true => String::new(),
            false => format!("{:.decimals$} to {:.decimals$}", self.lower, self.upper),
        }
    }
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(values).median
}

/// Empty if there is none.
pub fn number(value: f64, decimals: usize) -> String {
    match value.is_finite() {
        true => format!("{value:.decimals$}"),
        false => String::new(),
    }
}

/// Whether a cost is within its target.
pub fn at_most(value: f64, target: Option<f64>) -> String {
    verdict("at most", target, |target| value <= target)
}

/// Whether a rate reaches its target.
pub fn at_least(value: f64, target: Option<f64>) -> String {
    verdict("at least", target, |target| value >= target)
}

fn verdict(bound: &str, target: Option<f64>, met: impl Fn(f64) -> bool) -> String {
    let say = |target| {
        let word = if met(target) { "met" } else { "**missed**" };
        format!("{bound} {target}: {word}")
    };
    target.map(say).unwrap_or_default()
}

/// A heading, and the head of a table.
pub fn head(title: &str, columns: &[&str]) {
    println!("### {title}\n");
    row(columns);
    row(&vec!["---"; columns.len()]);
}

pub fn row<T: Display>(cells: &[T]) {
    let cells: Vec<_> = cells.iter().map(ToString::to_string).collect();
    println!("| {} |", cells.join(" | "));
}

/// One line on the terminal, written over the last one.
pub fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r{what:<70}{}", if what.is_empty() { "\r" } else { "" });
    }
}

/// What the numbers were measured on.
pub fn host() -> Result<()> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model
        .unwrap_or_default()
        .trim_start_matches([' ', '\t', ':']);
    let cpus = std::thread::available_parallelism()?;
    let release = uname()?.release().to_string_lossy().into_owned();
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    println!(
        "Linux {release}, {cpus} CPUs ({model}), {}, load average before: {load}\n",
        chrono::Utc::now().format("%Y-%m-%d %H:%M UTC")
    );
    Ok(())
}
