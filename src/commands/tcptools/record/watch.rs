// SPDX-License-Identifier: MIT OR Apache-2.0
//! Triage, over and over, of the rows that a flight recorder keeps: which findings are new.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::{Engine, Finding, Limits, Severity};

/// How many findings are remembered as known.
const KNOWN: usize = 256;

/// Two engines, one half a window behind the other, so that what lies across the end of one lies within the other.
pub struct Watch {
    least: Severity,
    half: Duration,
    engines: [Engine; 2],
    /// Since when the first of them looks: twice as long as the other.
    since: [Instant; 2],
    known: VecDeque<(Instant, String)>,
    forget: Duration,
}

impl Watch {
    /// `window`: how long an engine looks; `forget`: how long a finding is known, and no news.
    pub fn new(least: Severity, window: Duration, forget: Duration) -> Self {
        let now = Instant::now();
        Self {
            least,
            half: window / 2,
            engines: [(); 2].map(|()| Engine::new(Limits::default())),
            since: [now, now],
            known: VecDeque::new(),
            forget,
        }
    }

    pub fn see(&mut self, row: &Row) {
        for engine in &mut self.engines {
            engine.see(row);
        }
    }

    /// What was found since the last time, severe enough and not known: a sentence for each.
    pub fn look(&mut self, now: Instant) -> Vec<String> {
        let [_, since] = self.since;
        if now.saturating_duration_since(since) < self.half {
            return Vec::new();
        }
        let seconds = now.saturating_duration_since(self.since[0]).as_secs_f64();
        let found = self.engines[0].findings(seconds);
        self.engines.swap(0, 1);
        self.engines[1] = Engine::new(Limits::default());
        self.since = [since, now];
        let news = found.iter().filter(|one| one.severity <= self.least);
        let news: Vec<_> = news.map(|one| (key(one), sentence(one))).collect();
        let news = news.into_iter().filter(|(key, _)| self.is_new(now, key));
        news.map(|(_, sentence)| sentence).collect::<Vec<_>>()
    }

    fn is_new(&mut self, now: Instant, key: &str) -> bool {
        let old = |(then, _): &(Instant, String)| now.duration_since(*then) >= self.forget;
        while self.known.front().is_some_and(old) || self.known.len() >= KNOWN {
            self.known.pop_front();
        }
        let is_new = !self.known.iter().any(|(_, known)| known == key);
        if is_new {
            self.known.push_back((now, key.to_owned()));
        }
        is_new
    }
}

fn key(finding: &Finding) -> String {
    format!("{} {}", finding.kind.name, finding.subject)
}

fn sentence(finding: &Finding) -> String {
    let severity = finding.severity.name();
    format!(
        "{severity} {}: {}: {}",
        finding.kind.name, finding.subject, finding.text
    )
}
