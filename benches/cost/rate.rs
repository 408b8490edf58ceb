// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rate with run-time statistics off: what tracing costs whoever makes the connections, in programs and out of them.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Plan;
use crate::load::Load;
use crate::report::{Spread, at_least, head, median, number, row};
use crate::rounds::{self, Series};
use crate::subject::Subject;

/// What a command leaves to be freed after its end is not to be paid by the run after it.
const SETTLE: Duration = Duration::from_millis(300);

pub fn measure(plan: &Plan, load: Load) -> Result<()> {
    let sysctl = fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")?;
    ensure!(
        sysctl.trim() == "0",
        "--rate needs kernel.bpf_stats_enabled=0"
    );
    let rounds = plan.rounds.unwrap_or(match load {
        Load::Flood => 3,
        _ => 10,
    });
    let connections = plan.connections.unwrap_or(20_000);
    let untraced = |kept: &mut Vec<f64>| -> Result<f64> {
        sleep(SETTLE);
        let rate = load.run(load.units(connections))?;
        kept.push(rate);
        Ok(rate)
    };
    let mut kept = vec![];
    let mut spoiled = 0;
    // The load's first run meets cold caches.
    load.run(load.units(connections))?;
    let first = Some(Subject::nothing());
    let all = rounds::run(plan, load, rounds, first, |subject| {
        let before = match kept.last() {
            Some(rate) => *rate,
            None => untraced(&mut kept)?,
        };
        sleep(SETTLE);
        let sample = subject.sample(load, connections);
        let after = untraced(&mut kept)?;
        let mut sample = sample?;
        sample.untraced = (before + after) / 2.0;
        // Somebody else had statistics on.
        if sample.spent.events > 0 {
            spoiled += 1;
            return Ok(None);
        }
        Ok(Some(sample))
    })?;
    print(load, rounds, load.units(connections), &kept, &all);
    if spoiled > 0 {
        println!(
            "\n{spoiled} runs were left out: another process had the kernel keep run-time statistics."
        );
    }
    rounds::print_errors(&all);
    Ok(())
}

fn print(load: Load, rounds: usize, units: usize, untraced: &[f64], all: &[Series]) {
    let title = format!(
        "Rate, {}: {rounds} pairs of {units} {}, {}; statistics off",
        load.name(),
        load.units_name(),
        load.describe()
    );
    head(
        &title,
        &[
            "command",
            "of the untraced rate",
            "quartiles",
            "target",
            "reader ns per row",
            "rows",
            "most lost",
        ],
    );
    for series in all.iter().filter(|s| s.samples.iter().any(Option::is_some)) {
        let share = Spread::of(series.of(|s| s.rate / s.untraced));
        let mut cells = vec![
            series.subject.name.clone(),
            number(share.median, 3),
            share.quartiles(3),
            at_least(share.median, series.subject.rate_target),
        ];
        cells.extend(match series.subject.is_command() {
            false => vec![String::new(); 3],
            true => vec![
                number(median(series.of(|s| s.cost.reader_ns_per_row())), 0),
                number(median(series.of(|s| s.cost.rows as f64)), 0),
                number(series.of(|s| s.cost.lost as f64).fold(0.0, f64::max), 0),
            ],
        });
        row(&cells);
    }
    let rate = Spread::of(untraced.iter().copied());
    println!(
        "\nUntraced: {} {} a second (quartiles {}; {} runs).",
        number(rate.median, 0),
        load.units_name(),
        rate.quartiles(0),
        untraced.len()
    );
}
