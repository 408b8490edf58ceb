// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is so at a look of `tcptop --stalled`: of how many connections, for how long, and whether it still is.

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::subject::Subject;

/// Whether this is one of the reasons why the connection does not move.
pub fn why(row: &Row, reason: &str) -> bool {
    let mut words = row.text("why").unwrap_or_default().split(' ');
    words.any(|word| word == reason)
}

/// Whether this end is the server's.
pub fn is_served(row: &Row) -> bool {
    row.flag("active_open") == Some(false)
}

/// The processes of one name at one end of the connections with one server.
pub fn group(row: &Row) -> Subject {
    let end = match is_served(row) {
        true => Subject::listener(row),
        false => Subject::destination(row),
    };
    end.any_pid()
}

/// A value that all have, or not.
#[derive(Clone, Debug, Default)]
pub enum Same<T> {
    #[default]
    Unknown,
    One(T),
    Several,
}

impl<T: PartialEq + Clone> Same<T> {
    /// One more; `None` says nothing.
    pub fn see(&mut self, value: Option<T>) {
        *self = match (&*self, value) {
            (Self::Unknown, Some(value)) => Self::One(value),
            (Self::One(one), Some(value)) if *one != value => Self::Several,
            _ => return,
        };
    }

    pub fn one(&self) -> Option<T> {
        match self {
            Self::One(one) => Some(one.clone()),
            _ => None,
        }
    }
}

/// Connections of a group that something is true of, look by look. The rows of one look have one time.
#[derive(Debug, Default)]
pub struct Looks {
    /// The time of the last look that had any.
    look_ns: u64,
    /// How many connections it had.
    pub now: u64,
    /// How many looks had any.
    pub looks: u64,
    /// In the last one, for how long it has been true of the first of them.
    pub longest_us: u64,
    longest: Subject,
    pid: Same<u64>,
}

impl Looks {
    /// Whether the row is of another look than the one before: what is kept of the last look begins anew.
    pub fn is_next(&self, row: &Row) -> bool {
        self.look_ns != row.boot_ns()
    }

    /// A connection of which it has been true for so long.
    pub fn see(&mut self, row: &Row, us: u64) {
        if self.is_next(row) {
            self.look_ns = row.boot_ns();
            (self.now, self.longest_us) = (0, 0);
            self.looks += 1;
        }
        self.now += 1;
        self.pid.see(row.number("pid"));
        if us >= self.longest_us {
            self.longest_us = us;
            self.longest = Subject::connection(row, is_served(row));
        }
    }

    /// The one connection, or the group.
    pub fn subject(&self, group: &Subject) -> Subject {
        if self.now == 1 {
            return self.longest.clone();
        }
        Subject {
            pid: self.pid.one(),
            ..group.clone()
        }
    }

    /// `-L PORT` or `-D PORT`, and for one connection its other port.
    pub fn filter(&self, group: &Subject) -> String {
        let client = self.longest.client.filter(|_| self.now == 1);
        match (group.listener, group.destination, client) {
            (Some(at), _, Some(client)) => format!(" -L {} -D {}", at.port(), client.port()),
            (Some(at), _, None) => format!(" -L {}", at.port()),
            (_, Some(to), Some(client)) => format!(" -L {} -D {}", client.port(), to.port()),
            (_, Some(to), None) => format!(" -D {}", to.port()),
            _ => String::new(),
        }
    }
}

/// The newest look of tcptop.
#[derive(Default)]
pub struct Newest(u64);

/// Looks are a second apart, and the last one of each command is at the end.
const ONE_LOOK_NS: u64 = 900_000_000;

impl Newest {
    /// Every row: its last ones may be about other connections, or say only that it has ended.
    pub fn see(&mut self, row: &Row) {
        if row.tool() == "tcptop" {
            self.0 = self.0.max(row.boot_ns());
        }
    }

    /// Whether it was so to the end; otherwise it is over.
    pub fn has(&self, looks: &Looks) -> bool {
        looks.now > 0 && looks.look_ns + ONE_LOOK_NS >= self.0
    }
}

/// `1 connection`, `2 connections`.
pub fn connections(number: u64) -> String {
    count(number, "connection")
}

/// `1 reset`, `2 resets`.
pub fn count(number: u64, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

/// Whole seconds, as rows have microseconds.
pub fn seconds(us: u64) -> String {
    format!("{:.0} s", us as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::at;

    fn stalled(second: f64, lport: u64, pid: u64) -> Row {
        let values = json!({
            "comm": "app", "pid": pid, "laddr": "10.0.0.1", "lport": lport, "raddr": "10.0.0.2",
            "rport": 80, "active_open": true, "why": "zero_window unread",
        });
        at(second, "tcptop", "stalled", values)
    }

    #[test]
    fn reasons_are_whole_words() {
        let row = stalled(1.0, 1, 1);
        assert!(why(&row, "unread") && why(&row, "zero_window"));
        assert!(!why(&row, "zero"));
    }

    #[test]
    fn each_look_is_counted_anew() {
        let mut looks = Looks::default();
        for (second, lport) in [(1.0, 1), (1.0, 2), (2.0, 2)] {
            looks.see(&stalled(second, lport, 7), 100 * lport);
        }
        assert_eq!((looks.now, looks.looks, looks.longest_us), (1, 2, 200));
        let group = group(&stalled(1.0, 1, 7));
        let subject = looks.subject(&group).to_string();
        assert_eq!(subject, "app (pid 7) from 10.0.0.1:2 to 10.0.0.2:80");
        assert_eq!(looks.filter(&group), " -L 2 -D 80");
        let row = stalled(2.0, 3, 8);
        looks.see(&row, 0);
        assert_eq!(looks.subject(&group).to_string(), "app to 10.0.0.2:80");
        assert_eq!(looks.filter(&group), " -D 80");
    }

    #[test]
    fn what_the_newest_look_lacks_is_over() {
        let (mut looks, mut newest) = (Looks::default(), Newest::default());
        looks.see(&stalled(1.0, 1, 7), 0);
        newest.see(&stalled(1.5, 2, 7));
        assert!(newest.has(&looks));
        newest.see(&stalled(2.0, 2, 7));
        assert!(!newest.has(&looks));
    }
}
