// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the rules about opens have in common.

use std::collections::BTreeMap;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::Finding;
use crate::commands::tcptools::triage::subject::Subject;

/// Whom an open is about: the program and the server.
///
/// A program that is started for each request has a new pid each time.
pub fn client(row: &Row) -> Subject {
    Subject::destination(row).any_pid()
}

/// `tcpconnect FLAGS -P PORT`
pub fn tcpconnect(flags: &str, subject: &Subject) -> String {
    match subject.destination {
        Some(to) => format!("tcpconnect {flags} -P {}", to.port()),
        None => format!("tcpconnect {flags}"),
    }
}

/// A share in percent.
pub fn percent(part: u64, all: u64) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// `1 open`, `5 opens`
pub fn count(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// How many servers of one program have a finding each.
const EACH: usize = 3;

/// One finding for a program of which many servers are concerned: its own network is the trouble, or its list of servers.
pub fn merge(found: Vec<Finding>) -> Vec<Finding> {
    let mut programs: BTreeMap<Subject, Vec<Finding>> = BTreeMap::new();
    for finding in found {
        let program = Subject {
            destination: None,
            ..finding.subject.clone()
        };
        programs.entry(program).or_default().push(finding);
    }
    let one = |(program, mut all): (Subject, Vec<Finding>)| {
        if all.len() <= EACH {
            return all;
        }
        all.sort_by(Finding::order);
        let others = all.len() - 1;
        let weight = all.iter().map(|finding| finding.weight).sum();
        let mut first = all.swap_remove(0);
        if let Some(to) = first.subject.destination {
            first.text = format!(
                "to {to}: {}; {others} other destinations fare the same",
                first.text
            );
        }
        first.evidence.push(("destinations", (others + 1).into()));
        first.next = first
            .next
            .split(" -P ")
            .next()
            .unwrap_or_default()
            .to_owned();
        (first.subject, first.weight) = (program, weight);
        vec![first]
    };
    programs.into_iter().flat_map(one).collect()
}
