// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom a finding is about: a listener, a destination, a connection, a process, a network namespace.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value};

use crate::commands::tcptools::feed::Row;
use crate::output::escape;

/// As much as is known of it. What is compared are all parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub comm: Option<String>,
    pub pid: Option<u64>,
    /// A container's name or id, else the systemd unit, or else the innermost cgroup.
    pub place: Option<String>,
    /// The name of the network namespace, if it has one.
    pub netns_name: Option<String>,
    pub netns: Option<u64>,
    /// The address that a server listens on, on this host.
    pub listener: Option<SocketAddr>,
    /// The server that a client of this host talks to.
    pub destination: Option<SocketAddr>,
    /// The client's end, where the finding is about one connection.
    pub client: Option<SocketAddr>,
    pub cookie: Option<u64>,
}

/// `laddr` and `lport`, or `raddr` and `rport`.
fn end(row: &Row, addr: &str, port: &str) -> Option<SocketAddr> {
    let port = u16::try_from(row.number(port)?).ok()?;
    Some(SocketAddr::new(row.addr(addr)?, port))
}

/// Of `/kubepods/pod-aaaa`: `pod-aaaa`; the root has no name.
fn innermost(cgroup: Option<&str>) -> Option<&str> {
    let name = cgroup?.rsplit('/').next()?;
    (!name.is_empty()).then_some(name)
}

impl Subject {
    /// The namespace of a row.
    pub fn netns(row: &Row) -> Self {
        Self {
            netns: row.number("netns"),
            netns_name: row.text("netns_name").map(str::to_owned),
            ..Self::default()
        }
    }

    /// The process that owns the row's socket.
    pub fn process(row: &Row) -> Self {
        let place = row
            .text("container_name")
            .or(row.text("container"))
            .or(row.text("unit"))
            .or(innermost(row.text("cgroup")));
        Self {
            comm: row.text("comm").map(str::to_owned),
            pid: row.number("pid"),
            place: place.map(str::to_owned),
            ..Self::netns(row)
        }
    }

    /// The process, and the local end of the row as a server's.
    pub fn listener(row: &Row) -> Self {
        Self {
            listener: end(row, "laddr", "lport"),
            ..Self::process(row)
        }
    }

    /// The process, and the remote end of the row as a server's.
    pub fn destination(row: &Row) -> Self {
        Self {
            destination: end(row, "raddr", "rport"),
            ..Self::process(row)
        }
    }

    /// A connection; `served`: this end is the server's.
    pub fn connection(row: &Row, served: bool) -> Self {
        let (local, remote) = (end(row, "laddr", "lport"), end(row, "raddr", "rport"));
        let cookie = row.number("cookie");
        let process = Self::process(row);
        if served {
            Self {
                listener: local,
                client: remote,
                cookie,
                ..process
            }
        } else {
            Self {
                destination: remote,
                client: local,
                cookie,
                ..process
            }
        }
    }

    /// Without pid: for the sum of all processes of a name, as of a program that is started for each request.
    pub fn any_pid(self) -> Self {
        Self { pid: None, ..self }
    }

    /// The server's end, on this host or another.
    pub fn server(&self) -> Option<SocketAddr> {
        self.listener.or(self.destination)
    }

    /// Whether a finding about one of the two may be the cause of one about the other: the same server, or the same
    /// process or namespace where the server of one is not known.
    pub fn concerns(&self, other: &Self) -> bool {
        let any = |ip: IpAddr| ip.is_unspecified();
        match (self.server(), other.server()) {
            (Some(a), Some(b)) => {
                a.port() == b.port() && (a.ip() == b.ip() || any(a.ip()) || any(b.ip()))
            }
            _ => match (self.pid, other.pid) {
                (Some(a), Some(b)) => a == b,
                _ => self.netns == other.netns || self.netns.is_none() || other.netns.is_none(),
            },
        }
    }

    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                object.insert(key.into(), value);
            }
        };
        put("comm", self.comm.clone().map(Value::from));
        put("pid", self.pid.map(Value::from));
        put("place", self.place.clone().map(Value::from));
        put("netns", self.netns.map(Value::from));
        put("netns_name", self.netns_name.clone().map(Value::from));
        for (name, end) in [
            ("listener", self.listener),
            ("destination", self.destination),
            ("client", self.client),
        ] {
            put(name, end.map(|end| end.to_string().into()));
        }
        put("cookie", self.cookie.map(Value::from));
        Value::Object(object)
    }
}

/// For a person: `nginx (pid 812, container web) on 0.0.0.0:80`.
impl Display for Subject {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let known =
            |name: &Option<String>| name.as_deref().map(|name| escape::text(name).into_owned());
        let mut inside = Vec::new();
        inside.extend(self.pid.map(|pid| format!("pid {pid}")));
        inside.extend(known(&self.place));
        inside.extend(known(&self.netns_name).map(|name| format!("netns {name}")));
        match (known(&self.comm), self.netns) {
            (Some(comm), _) => f.write_str(&comm)?,
            (None, Some(netns)) if inside.is_empty() && self.server().is_none() => {
                write!(f, "network namespace {netns}")?;
            }
            (None, _) if self.server().is_none() && self.pid.is_none() => f.write_str("host")?,
            (None, _) => f.write_str("no process known")?,
        }
        if !inside.is_empty() {
            write!(f, " ({})", inside.join(", "))?;
        }
        match (self.listener, self.destination, self.client) {
            (Some(at), _, None) => write!(f, " on {at}"),
            (Some(at), _, Some(client)) => write!(f, " on {at} from {client}"),
            (_, Some(to), None) => write!(f, " to {to}"),
            (_, Some(to), Some(client)) => write!(f, " from {client} to {to}"),
            _ => Ok(()),
        }
    }
}

/// How many subjects a rule remembers. What comes after them is left out, and counted.
const MOST: usize = 4096;

/// What a rule remembers of each subject, bounded, in one order on every run.
#[derive(Debug)]
pub struct Subjects<T> {
    of: BTreeMap<Subject, T>,
    /// Rows about subjects for which there was no room.
    pub left_out: u64,
}

impl<T> Default for Subjects<T> {
    fn default() -> Self {
        Self {
            of: BTreeMap::new(),
            left_out: 0,
        }
    }
}

impl<T: Default> Subjects<T> {
    /// What is remembered of it; made if there is room.
    pub fn of(&mut self, subject: Subject) -> Option<&mut T> {
        if self.of.len() >= MOST && !self.of.contains_key(&subject) {
            self.left_out += 1;
            return None;
        }
        Some(self.of.entry(subject).or_default())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Subject, &T)> {
        self.of.iter()
    }
}
