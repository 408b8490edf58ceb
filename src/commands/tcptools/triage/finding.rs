// SPDX-License-Identifier: MIT OR Apache-2.0
//! What triage says: a finding, whom it is about, and the figures that prove it.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::kind::Kind;
use super::subject::Subject;

/// The worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Connections fail, or data are lost to the application.
    Critical,
    /// It is slow, or will fail if it goes on.
    Warning,
    /// Worth knowing; explains another finding, or is normal in places.
    Note,
}

impl Severity {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub struct Finding {
    pub kind: &'static Kind,
    pub severity: Severity,
    pub subject: Subject,
    /// What is wrong, with figures: the rest of a sentence that begins with the subject and a colon.
    pub text: String,
    /// The figures, by the keys of the rows they come from.
    pub evidence: Vec<(&'static str, Value)>,
    /// The command that shows more, and its flags.
    pub next: String,
    /// Among findings of one kind, the largest comes first: how many events, bytes or connections it is about.
    pub weight: f64,
}

impl Finding {
    /// Of findings of one kind: the worst first.
    pub fn order(&self, other: &Self) -> Ordering {
        self.severity
            .cmp(&other.severity)
            .then(other.weight.total_cmp(&self.weight))
            .then_with(|| self.subject.cmp(&other.subject))
    }

    pub fn to_json(&self) -> Value {
        let evidence: Map<String, Value> = self
            .evidence
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        json!({
            "tool": "tcptools",
            "event": "finding",
            "kind": self.kind.name,
            "severity": self.severity.name(),
            "subject": self.subject.to_json(),
            "text": self.text,
            "evidence": evidence,
            "next": self.next,
        })
    }
}
