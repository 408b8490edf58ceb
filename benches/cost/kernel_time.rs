// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kernel time: per connection and per event, as multiples of an empty program's in the same round.

use anyhow::Result;

use crate::Plan;
use crate::fdinfo::enable_stats;
use crate::load::Load;
use crate::report::{Spread, at_most, head, median, number, row};
use crate::rounds::{self, Series};
use crate::subject::Sample;

pub fn measure(plan: &Plan, load: Load) -> Result<()> {
    let _stats = enable_stats()?;
    let rounds = plan.rounds.unwrap_or(match load {
        Load::Flood => 1,
        _ => 5,
    });
    let connections = plan.connections.unwrap_or(20_000);
    let all = rounds::run(plan, load, rounds, None, |subject| {
        subject.sample(load, connections).map(Some)
    })?;
    print(load, rounds, load.units(connections), &all);
    rounds::print_errors(&all);
    Ok(())
}

fn print(load: Load, rounds: usize, units: usize, all: &[Series]) {
    let unit = load.unit();
    let title = format!(
        "Kernel time, {}: {rounds} rounds of {units} {}, {}",
        load.name(),
        load.units_name(),
        load.describe()
    );
    let (per_unit, events) = (format!("ns per {unit}"), format!("events per {unit}"));
    head(
        &title,
        &[
            "command",
            &per_unit,
            "of the empty program",
            "quartiles",
            "target",
            &events,
            "ns per event",
            "of the empty program",
            "reader ns per row",
            "rows",
            "most lost",
            "peak RSS KB",
        ],
    );
    let mut empty = None;
    for series in all.iter().filter(|s| s.samples.iter().any(Option::is_some)) {
        if series.is_empty_program() {
            empty = Some(series);
        }
        if let Some(empty) = empty {
            row(&cells(series, empty));
        }
    }
}

fn cells(series: &Series, empty: &Series) -> Vec<String> {
    let per_unit = |s: &Sample| s.spent.ns as f64 / s.units as f64;
    let per_event = |s: &Sample| s.spent.ns as f64 / s.spent.events as f64;
    let multiple = Spread::of(series.multiples(empty, per_unit));
    let mut cells = vec![
        series.subject.name.clone(),
        number(median(series.of(per_unit)), 0),
        number(multiple.median, 2),
        multiple.quartiles(2),
        at_most(multiple.median, series.subject.kernel_target),
        number(
            median(series.of(|s| s.spent.events as f64 / s.units as f64)),
            1,
        ),
        number(median(series.of(per_event)), 0),
        number(median(series.multiples(empty, per_event)), 2),
    ];
    cells.extend(match series.is_empty_program() {
        true => vec![String::new(); 4],
        false => {
            let lost = series.of(|s| s.cost.lost as f64).fold(0.0, f64::max);
            vec![
                number(median(series.of(|s| s.cost.reader_ns_per_row())), 0),
                number(median(series.of(|s| s.cost.rows as f64)), 0),
                number(lost, 0),
                number(median(series.of(|s| s.cost.rss_kb as f64)), 0),
            ]
        }
    });
    cells
}
