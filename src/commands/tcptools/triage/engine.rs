// SPDX-License-Identifier: MIT OR Apache-2.0
//! From rows to findings.

use super::finding::Finding;
use super::kind::Limits;
use super::rules::{RULES, Rule, place};
use super::seen::Seen;
use crate::commands::tcptools::feed::Row;

/// All rules, and how much they have seen.
pub struct Engine {
    limits: Limits,
    rules: Vec<Box<dyn Rule>>,
    pub seen: Seen,
}

impl Engine {
    pub fn new(limits: Limits) -> Self {
        let rules = RULES.iter().map(|entry| (entry.make)()).collect();
        Self {
            limits,
            rules,
            seen: Seen::default(),
        }
    }

    pub fn see(&mut self, row: &Row) {
        self.seen.see(row);
        for rule in &mut self.rules {
            rule.see(row, &self.limits);
        }
    }

    /// The worst first, effects of others left out.
    pub fn findings(&self, seconds: f64) -> Vec<Finding> {
        let all = self
            .rules
            .iter()
            .flat_map(|rule| rule.find(&self.limits, seconds));
        let mut all: Vec<_> = all.collect();
        // Among those of one severity, in the order of the table, which has causes before their effects.
        let place = |finding: &Finding| (finding.severity, place(finding.kind));
        all.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.order(b)));
        let is_effect = |one: &Finding| {
            let causes = all
                .iter()
                .filter(|other| one.kind.effect_of.contains(&other.kind.name));
            causes
                .into_iter()
                .any(|cause| cause.subject.concerns(&one.subject))
        };
        let effects: Vec<_> = all.iter().map(is_effect).collect();
        let mut effects = effects.into_iter();
        all.retain(|_| !effects.next().unwrap_or_default());
        all
    }
}
