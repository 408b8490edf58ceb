// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which end of a connection is the server's, where the row does not say it.

use std::collections::BTreeMap;

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::finding::Finding;
use crate::commands::tcptools::triage::subject::Subject;

/// How many listeners are remembered.
const MOST: usize = 4096;

/// The listeners of this host, and who they are.
#[derive(Default)]
pub struct Listening(BTreeMap<(u64, u64), Subject>);

impl Listening {
    pub fn see(&mut self, row: &Row) {
        if !row.is("tcpaccept", "listener") {
            return;
        }
        let (Some(netns), Some(port)) = (row.number("netns"), row.number("lport")) else {
            return;
        };
        if self.0.len() < MOST {
            self.0.insert((netns, port), Subject::process(row));
        }
    }

    /// Whether the row's own end is the server's: it is listened on, or has the lower port. Ports that connect() takes
    /// are high ones.
    pub fn is_served(&self, row: &Row) -> bool {
        let (local, remote) = (row.number("lport"), row.number("rport"));
        let listens = |port: Option<u64>| {
            let netns = row.number("netns");
            netns.zip(port).is_some_and(|key| self.0.contains_key(&key))
        };
        listens(local) || !listens(remote) && local < remote
    }

    /// The server's end of the row, without a process.
    pub fn server(&self, row: &Row) -> Subject {
        let end = match self.is_served(row) {
            true => Subject::listener(row),
            false => Subject::destination(row),
        };
        Subject {
            comm: None,
            pid: None,
            place: None,
            ..end
        }
    }

    /// Who listens there: its process, beside what is known of the subject.
    pub fn with_process(&self, subject: Subject) -> Subject {
        let port = subject.listener.map(|at| u64::from(at.port()));
        let known = subject.netns.zip(port).and_then(|key| self.0.get(&key));
        let Some(known) = known else {
            return subject;
        };
        Subject {
            comm: subject.comm.or_else(|| known.comm.clone()),
            pid: subject.pid.or(known.pid),
            place: subject.place.or_else(|| known.place.clone()),
            netns_name: subject.netns_name.or_else(|| known.netns_name.clone()),
            ..subject
        }
    }
}

/// Without what clients of this host see of a server of this host, which is found itself.
pub fn servers_first(found: Vec<Finding>) -> Vec<Finding> {
    let listeners: Vec<_> = found
        .iter()
        .filter_map(|one| one.subject.listener)
        .collect();
    let is_there = |one: &Finding| {
        let to = one.subject.destination;
        to.is_some_and(|to| listeners.contains(&to))
    };
    found.into_iter().filter(|one| !is_there(one)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::row;

    fn ends(lport: u64, rport: u64) -> Row {
        let values = json!({
            "netns": 1, "laddr": "10.0.0.1", "lport": lport, "raddr": "10.0.0.2", "rport": rport,
        });
        row("tcpreset", "reset", values)
    }

    #[test]
    fn server_is_who_listens_or_has_the_lower_port() {
        let mut listening = Listening::default();
        assert!(listening.is_served(&ends(80, 40_000)));
        assert!(!listening.is_served(&ends(40_000, 80)));
        let values = json!({ "netns": 1, "lport": 50_000, "comm": "web", "pid": 7 });
        listening.see(&row("tcpaccept", "listener", values));
        assert!(listening.is_served(&ends(50_000, 40_000)));
        assert!(!listening.is_served(&ends(40_000, 50_000)));
        let server = listening.server(&ends(50_000, 40_000));
        let known = listening.with_process(server);
        assert_eq!(known.to_string(), "web (pid 7) on 10.0.0.1:50000");
    }
}
