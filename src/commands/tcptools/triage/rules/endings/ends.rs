// SPDX-License-Identifier: MIT OR Apache-2.0
//! Resets, and how many connections ended, by the server's end of the connection.

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::rules::listening::Listening;
use crate::commands::tcptools::triage::rules::looks::Same;
use crate::commands::tcptools::triage::subject::{Subject, Subjects};

/// Of a server, as seen from one end: what is counted, and how many connections ended.
#[derive(Default)]
pub struct Ended<T> {
    pub seen: T,
    sessions: u64,
    comm: Same<String>,
    pid: Same<u64>,
    place: Same<String>,
}

impl<T> Ended<T> {
    /// How many of the connections that ended this is, in percent. A reset may have no connection here.
    pub fn percent(&self, resets: u64) -> f64 {
        100.0 * resets as f64 / self.total(resets).max(1) as f64
    }

    /// Connections that ended, of which these were reset.
    pub fn total(&self, resets: u64) -> u64 {
        self.sessions.max(resets)
    }

    /// With the process, if it is one.
    pub fn subject(&self, server: &Subject) -> Subject {
        Subject {
            comm: self.comm.one(),
            pid: self.pid.one(),
            place: self.place.one(),
            ..server.clone()
        }
    }
}

/// A reset, and at which end it was seen.
pub struct Reset<'a, T> {
    pub seen: &'a mut T,
    /// This end is the server's.
    pub served: bool,
    pub sent: bool,
}

/// All servers.
#[derive(Default)]
pub struct Ends<T> {
    of: Subjects<Ended<T>>,
    listening: Listening,
}

impl<T: Default> Ends<T> {
    /// Every row. What is counted of its server, if it is a reset.
    pub fn see(&mut self, row: &Row) -> Option<Reset<'_, T>> {
        self.listening.see(row);
        let is_reset = row.is("tcpreset", "reset");
        let is_end = row.is("tcplife", "session") && row.text("state") != Some("SYN_SENT");
        if !is_reset && !is_end {
            return None;
        }
        let served = self.listening.is_served(row);
        let ended = self.of.of(self.listening.server(row))?;
        if is_end {
            ended.sessions += 1;
            return None;
        }
        ended.comm.see(row.text("comm").map(str::to_owned));
        ended.pid.see(row.number("pid"));
        ended.place.see(Subject::process(row).place);
        Some(Reset {
            seen: &mut ended.seen,
            served,
            sent: row.text("direction") == Some("sent"),
        })
    }

    /// Each server, with its process if that is known.
    pub fn iter(&self) -> impl Iterator<Item = (Subject, &Ended<T>)> {
        let known = |subject| self.listening.with_process(subject);
        self.of
            .iter()
            .map(move |(server, ended)| (known(ended.subject(server)), ended))
    }
}

/// `-L PORT` or `-D PORT`.
pub fn filter(subject: &Subject) -> String {
    match (subject.listener, subject.destination) {
        (Some(at), _) => format!(" -L {}", at.port()),
        (_, Some(to)) => format!(" -D {}", to.port()),
        _ => String::new(),
    }
}
