// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rounds of a load: every subject once in each, so that the host's other work meets all of them alike.

use anyhow::Result;

use crate::Plan;
use crate::catalog;
use crate::load::Load;
use crate::report::progress;
use crate::subject::{Kind, Sample, Subject};

/// What the rounds have shown of a subject.
pub struct Series {
    pub subject: Subject,
    /// One per round.
    pub samples: Vec<Option<Sample>>,
    /// Why it could not be measured.
    pub error: Option<String>,
}

impl Series {
    /// A value of each round in which it was measured.
    pub fn of<'a>(&'a self, value: impl Fn(&Sample) -> f64 + 'a) -> impl Iterator<Item = f64> + 'a {
        self.samples.iter().flatten().map(value)
    }

    /// The value of each round as a multiple of another subject's in the same round.
    pub fn multiples<'a>(
        &'a self,
        empty: &'a Self,
        value: impl Fn(&Sample) -> f64 + 'a,
    ) -> impl Iterator<Item = f64> + 'a {
        let pairs = self.samples.iter().zip(&empty.samples);
        pairs.filter_map(move |(own, empty)| Some(value(own.as_ref()?) / value(empty.as_ref()?)))
    }

    pub fn is_empty_program(&self) -> bool {
        matches!(self.subject.kind, Kind::Empty(_))
    }
}

/// Runs them; `measure` measures a subject once.
pub fn run(
    plan: &Plan,
    load: Load,
    rounds: usize,
    first: Option<Subject>,
    mut measure: impl FnMut(&Subject) -> Result<Option<Sample>>,
) -> Result<Vec<Series>> {
    let listed = catalog::subjects(load, plan.only.as_deref(), plan.against.as_deref());
    let series = |subject| Series {
        subject,
        samples: vec![],
        error: None,
    };
    let mut all: Vec<_> = first.into_iter().chain(listed).map(series).collect();
    load.prepare()?;
    for round in 1..=rounds {
        for series in all.iter_mut().filter(|s| s.error.is_none()) {
            let name = &series.subject.name;
            progress(&format!("{} {round}/{rounds}: {name}", load.name()));
            match measure(&series.subject) {
                Ok(sample) => series.samples.push(sample),
                Err(error) => series.error = Some(format!("{error:#}")),
            }
        }
    }
    progress("");
    load.clean_up()?;
    Ok(all)
}

/// Tells, under the table, what could not be measured.
pub fn print_errors(all: &[Series]) {
    println!();
    for series in all {
        if let Some(error) = &series.error {
            println!("- {} was not measured: {error}", series.subject.name);
        }
    }
    println!();
}
