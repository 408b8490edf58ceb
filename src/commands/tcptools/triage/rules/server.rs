// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which end of a connection is the server's, for rows of segments, which do not say.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::commands::tcptools::feed::Row;
use crate::commands::tcptools::triage::subject::Subject;

/// How many listeners, connections and sums are kept.
const MOST: usize = 8192;

/// What is known of who listens, and who has opened what.
#[derive(Default)]
pub struct Servers {
    /// By network namespace and port.
    listeners: BTreeMap<(Option<u64>, u16), Subject>,
    /// The same, of servers on other hosts, and of this one's other namespaces.
    remote: BTreeSet<u16>,
    /// Whether this end has opened it, by cookie.
    opened: BTreeMap<u64, bool>,
}

impl Servers {
    pub fn see(&mut self, row: &Row) {
        match (row.tool(), row.event()) {
            ("tcpaccept", "listener") => {
                if let Some(port) = port(row, "lport").filter(|_| self.listeners.len() < MOST) {
                    self.remote.insert(port);
                    let at = (row.number("netns"), port);
                    self.listeners.insert(at, Subject::listener(row));
                }
            }
            ("tcpconnect", "connect") => self.note(row, true),
            ("tcptop", "connection" | "stalled") => {
                if let Some(active) = row.flag("active_open") {
                    self.note(row, active);
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, row: &Row, opened: bool) {
        if let Some(cookie) = row.number("cookie").filter(|_| self.opened.len() < MOST) {
            self.opened.insert(cookie, opened);
        }
    }

    /// Who listens there.
    pub fn listener(&self, netns: Option<u64>, port: u16) -> Option<&Subject> {
        self.listeners.get(&(netns, port))
    }

    /// Whether the server is on this end: who opened it, who listens, or else the lower port.
    fn is_here(&self, netns: Option<u64>, flow: Flow) -> bool {
        if let Some(opened) = flow.cookie.and_then(|cookie| self.opened.get(&cookie)) {
            return !opened;
        }
        let here = |port| self.listeners.contains_key(&(netns, port));
        match (here(flow.lport), here(flow.rport)) {
            (true, false) => true,
            (false, true) => false,
            (false, false) if self.remote.contains(&flow.rport) => false,
            _ => flow.lport < flow.rport,
        }
    }
}

fn port(row: &Row, key: &str) -> Option<u16> {
    u16::try_from(row.number(key)?).ok()
}

/// One of the connections of a sum.
#[derive(Clone, Copy, Debug)]
struct Flow {
    lport: u16,
    rport: u16,
    cookie: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<K> {
    what: K,
    netns: Option<u64>,
    here: bool,
    server: SocketAddr,
}

struct Slot<T> {
    sum: T,
    process: Subject,
    peer: IpAddr,
    flow: Flow,
    /// A row said that this is the server.
    sure: bool,
}

/// Sums per server, and by what else the rule tells apart.
///
/// A row that does not say which end the server is counts for both; which of the two sums is one of a server is decided
/// at the end, when all listeners are known.
pub struct ByServer<K, T> {
    pub servers: Servers,
    sums: BTreeMap<Key<K>, Slot<T>>,
}

impl<K, T> Default for ByServer<K, T> {
    fn default() -> Self {
        Self {
            servers: Servers::default(),
            sums: BTreeMap::new(),
        }
    }
}

/// A sum, and the server that it is of.
pub struct Of<'a, K, T> {
    pub what: &'a K,
    pub sum: &'a T,
    /// The process, and the server's end; of this host's end if `here`.
    pub subject: Subject,
    /// The server is on this end.
    pub here: bool,
    /// The other host, or one of them.
    pub peer: IpAddr,
}

impl<K: Ord + Clone, T: Default> ByServer<K, T> {
    /// Adds a row. `here`: whether the server is on this end, if the row says so.
    pub fn add(&mut self, row: &Row, what: &K, here: Option<bool>, change: impl Fn(&mut T)) {
        let (Some(laddr), Some(raddr)) = (row.addr("laddr"), row.addr("raddr")) else {
            return;
        };
        let (Some(lport), Some(rport)) = (port(row, "lport"), port(row, "rport")) else {
            return;
        };
        let cookie = row.number("cookie");
        let flow = Flow {
            lport,
            rport,
            cookie,
        };
        for side in [true, false] {
            if here.is_some_and(|here| here != side) {
                continue;
            }
            let (server, peer) = match side {
                true => (SocketAddr::new(laddr, lport), raddr),
                false => (SocketAddr::new(raddr, rport), laddr),
            };
            let key = Key {
                what: what.clone(),
                netns: row.number("netns"),
                here: side,
                server,
            };
            if self.sums.len() >= MOST && !self.sums.contains_key(&key) {
                continue;
            }
            let slot = self.sums.entry(key).or_insert_with(|| Slot {
                sum: T::default(),
                process: Subject::process(row),
                peer,
                flow,
                sure: false,
            });
            slot.sure |= here.is_some();
            slot.flow.cookie = slot.flow.cookie.or(cookie);
            let process = Subject::process(row);
            if slot.process.comm.is_none() {
                slot.process = process;
            } else if process.comm.is_some() && process.pid != slot.process.pid {
                slot.process.pid = None;
            }
            change(&mut slot.sum);
        }
    }

    /// The sums that are of a server.
    pub fn each(&self) -> impl Iterator<Item = Of<'_, K, T>> {
        let servers = self.sums.iter().filter(|(key, slot)| {
            slot.sure || self.servers.is_here(key.netns, slot.flow) == key.here
        });
        servers.map(|(key, slot)| {
            let mut subject = slot.process.clone();
            if key.here {
                let owner = self.servers.listener(key.netns, key.server.port());
                if let Some(owner) = owner.filter(|_| subject.comm.is_none()) {
                    subject = owner.clone();
                }
                subject.listener = Some(key.server);
            } else {
                subject.destination = Some(key.server);
            }
            Of {
                what: &key.what,
                sum: &slot.sum,
                subject,
                here: key.here,
                peer: slot.peer,
            }
        })
    }
}

/// The flag of a command that selects these connections.
pub fn flag(subject: &Subject) -> String {
    match (subject.listener, subject.destination) {
        (Some(at), _) => format!(" -L {}", at.port()),
        (_, Some(to)) => format!(" -D {}", to.port()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::tcptools::triage::rules::testing::row;

    fn segment(lport: u16, rport: u16) -> Row {
        let values = json!({ "netns": 1, "laddr": "10.0.0.1", "lport": lport,
            "raddr": "10.0.0.2", "rport": rport });
        row("tcpdrop", "drop", values)
    }

    fn found(rows: &[Row], hint: Option<bool>) -> Vec<(String, u32)> {
        let mut sums: ByServer<(), u32> = ByServer::default();
        for row in rows {
            sums.servers.see(row);
            if row.tool() == "tcpdrop" {
                sums.add(row, &(), hint, |sum| *sum += 1);
            }
        }
        let each = sums.each().map(|of| (of.subject.to_string(), *of.sum));
        each.collect()
    }

    #[test]
    fn the_listener_is_found_whichever_row_is_first() {
        let listener =
            json!({ "netns": 1, "laddr": "0.0.0.0", "lport": 50000, "comm": "web", "pid": 7 });
        let listener = row("tcpaccept", "listener", listener);
        let want = [("web (pid 7) on 10.0.0.1:50000".to_owned(), 2)];
        let segments = [segment(50000, 40000), segment(50000, 40001)];
        let [one, two] = &segments;
        for rows in [
            [listener.clone(), one.clone(), two.clone()],
            [one.clone(), two.clone(), listener],
        ] {
            assert_eq!(found(&rows, None), want);
        }
    }

    #[test]
    fn a_syn_or_the_lower_port_tells() {
        let rows = [segment(40000, 50000)];
        let to = "no process known to 10.0.0.2:50000".to_owned();
        assert_eq!(found(&rows, Some(false)), [(to, 1)]);
        let at = "no process known on 10.0.0.1:40000".to_owned();
        assert_eq!(found(&rows, None), [(at, 1)]);
    }
}
