// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kinds of findings, and the figures from which on something is one.

use std::collections::BTreeMap;

/// What a rule finds.
#[derive(Debug)]
pub struct Kind {
    /// `listener_overflow`
    pub name: &'static str,
    /// What is wrong, in a line.
    pub what: &'static str,
    /// For `--explain`: what it means, how it is told from what looks like it, what to do. Paragraphs.
    pub explain: &'static str,
    /// From where on it is found.
    pub limits: &'static [Limit],
    /// Kinds whose finding about the same server explains this one, which is then left out: the cause is shown, not
    /// the effect.
    pub effect_of: &'static [&'static str],
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A figure that can be changed by `--set NAME=VALUE`.
#[derive(Debug)]
pub struct Limit {
    /// Begins with the kind's name: `listener_overflow_drops`
    pub name: &'static str,
    pub default: f64,
    pub unit: &'static str,
    /// What the figure is, and why it is this one.
    pub why: &'static str,
}

/// The limits of this run.
#[derive(Clone, Debug, Default)]
pub struct Limits(BTreeMap<&'static str, f64>);

impl Limits {
    pub fn of(&self, limit: &Limit) -> f64 {
        self.0.get(limit.name).copied().unwrap_or(limit.default)
    }

    /// `NAME=VALUE`, for one of these kinds.
    ///
    /// # Errors
    /// A sentence: no such name, or no number.
    pub fn set(
        &mut self,
        text: &str,
        kinds: impl Iterator<Item = &'static Kind>,
    ) -> Result<(), String> {
        let (name, value) = text
            .split_once('=')
            .ok_or(format!("'{text}' is not NAME=VALUE"))?;
        let mut all = kinds.flat_map(|kind| kind.limits);
        let limit = all.find(|limit| limit.name == name);
        let limit = limit.ok_or(format!("there is no limit '{name}' (see triage --list)"))?;
        let number = value
            .parse::<f64>()
            .ok()
            .filter(|n| n.is_finite() && *n >= 0.0);
        let number = number.ok_or(format!("'{value}' is not a number of {}", limit.unit))?;
        self.0.insert(limit.name, number);
        Ok(())
    }
}
