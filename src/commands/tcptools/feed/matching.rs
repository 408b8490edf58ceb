// SPDX-License-Identifier: MIT OR Apache-2.0
//! The filters of the command line, for rows of a recording: the commands that printed them had other filters, or none.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::Result;

use super::{Forwarded, Row};
use crate::abi::types::{PID_SOURCES, flow, owner, trace_event};
use crate::cli::filter::{Filter, Parts, split};
use crate::error::Usage;
use crate::output::escape;

/// What rows are shown.
pub struct Matching {
    filter: Filter,
    units: Option<Names>,
    containers: Option<Names>,
}

/// A list of names, as the user wrote it.
struct Names {
    negate: bool,
    names: Vec<String>,
}

impl Names {
    fn of(filters: &Forwarded, flag: &str) -> Option<Self> {
        let mut words = filters.words().iter().filter_map(|word| word.to_str());
        let list = words.find_map(|word| word.strip_prefix(flag)?.strip_prefix('='))?;
        let (negate, names) = split(list).ok()?;
        let names = names.into_iter().map(str::to_owned).collect();
        Some(Self { negate, names })
    }

    fn passes(&self, is: impl Fn(&str) -> bool) -> bool {
        self.names.iter().any(|name| is(name)) != self.negate
    }
}

impl Matching {
    /// # Errors
    /// A sentence: a filter asks what no row tells.
    pub fn new(filters: &Forwarded) -> Result<Self> {
        let mut this = Self::of(filters.filter())?;
        this.units = Names::of(filters, "--unit");
        this.containers = Names::of(filters, "--container");
        Ok(this)
    }

    /// The same, but for the names of units and containers: all pass.
    ///
    /// # Errors
    /// As above.
    pub fn of(filter: &Filter) -> Result<Self> {
        let mut filter = filter.clone();
        if filter.cgroup.is_some() {
            let reason = "--cgroup: a recording has no cgroups to ask; use --unit or --container";
            return Err(Usage(reason.into()).into());
        }
        (filter.unit, filter.container) = (None, None);
        Ok(Self {
            filter,
            units: None,
            containers: None,
        })
    }

    /// Whether the row, which is about a socket, passes.
    pub fn passes(&self, row: &Row) -> bool {
        let (flow, owner, socket) = (flow_of(row), owner_of(row), socket_of(row));
        let parts = Parts {
            flow: Some(&flow),
            owner: Some(&owner),
            socket: Some(&socket),
        };
        let unit = |names: &Names| {
            let unit = row.text("unit");
            let is = |name: &str| unit == Some(name) || unit == Some(&format!("{name}.service"));
            names.passes(is)
        };
        let container = |names: &Names| {
            let (id, name) = (row.text("container"), row.text("container_name"));
            names.passes(|given| id.is_some_and(|id| id.starts_with(given)) || name == Some(given))
        };
        self.filter.passes(parts)
            && self.units.as_ref().is_none_or(unit)
            && self.containers.as_ref().is_none_or(container)
    }
}

/// As it lies in a record.
fn octets(addr: Option<IpAddr>) -> [u8; 16] {
    match addr {
        Some(IpAddr::V4(addr)) => addr.to_ipv6_mapped().octets(),
        Some(IpAddr::V6(addr)) => addr.octets(),
        None => Ipv6Addr::UNSPECIFIED.octets(),
    }
}

/// Its ends, as a record has them.
pub fn flow_of(row: &Row) -> flow {
    let port = |key| row.number(key).and_then(|port| u16::try_from(port).ok());
    let family = match row.addr("laddr").or(row.addr("raddr")) {
        Some(IpAddr::V4(_)) => 4,
        Some(IpAddr::V6(_)) => 6,
        None => 0,
    };
    flow {
        laddr: octets(row.addr("laddr")),
        raddr: octets(row.addr("raddr")),
        lport: port("lport").unwrap_or_default(),
        rport: port("rport").unwrap_or_default(),
        family,
        ifindex: row.number("ifindex").unwrap_or_default() as u32,
        ..flow::default()
    }
}

/// Its owner, as a record has it.
pub fn owner_of(row: &Row) -> owner {
    let source = row.text("pid_source");
    let source = PID_SOURCES.iter().position(|name| *name == source);
    let mut owner = owner {
        pid: row.number("pid").unwrap_or_default() as u32,
        source: source.unwrap_or_default() as u8,
        ..owner::default()
    };
    // A row has the name in the form that the flag takes.
    let names = row
        .text("comm")
        .map(|comm| escape::parse_names(comm.as_bytes()));
    if let Some(Ok([name])) = names.as_ref().map(|names| names.as_deref()) {
        for (to, byte) in owner.comm.iter_mut().zip(name) {
            *to = *byte;
        }
    }
    owner
}

fn socket_of(row: &Row) -> trace_event {
    trace_event {
        netns: row.number("netns").unwrap_or_default() as u32,
        uid: row.number("uid").map_or(u32::MAX, |uid| uid as u32),
        ..trace_event::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn passes(args: &[&str]) -> bool {
        let command = Forwarded::augment_args(Command::new("x"));
        let line = [&["x"], args].concat();
        let matches = command.try_get_matches_from(line).unwrap();
        let filters = Forwarded::from_arg_matches(&matches).unwrap();
        let row = r#"{"tool":"t","event":"e","netns":7,"uid":0,"family":4,"laddr":"10.0.0.1","lport":40000,
            "raddr":"10.0.0.2","rport":443,"pid":12,"comm":"a b","pid_source":"socket","unit":"web.service",
            "container":"0123456789ab","container_name":"shop"}"#;
        let row = Row::parse(row.replace('\n', ""), 0).unwrap();
        Matching::new(&filters).unwrap().passes(&row)
    }

    #[test]
    fn rows_are_filtered_as_events_are() {
        for (args, expected) in [
            (&["--port", "443"][..], true),
            (&["-L", "443"], false),
            (&["-D", "!443"], false),
            (&["-p", "10-12", "--comm", "a b"], true),
            (&["-p", "!12"], false),
            (&["-u", "0", "-4"], true),
            (&["-6"], false),
            (&["--addr", "10.0.0.0/31"], true),
            (&["--laddr", "10.0.0.2"], false),
            (&["--unit", "web"], true),
            (&["--unit", "!web.service"], false),
            (&["--container", "0123,x"], true),
            (&["--container", "shop"], true),
            (&["--container", "other"], false),
        ] {
            assert_eq!(passes(args), expected, "{args:?}");
        }
    }

    #[test]
    fn an_unknown_owner_passes_no_filter_of_owners() {
        let row = Row::parse(r#"{"tool":"t","event":"e","pid":null}"#.into(), 0).unwrap();
        assert_eq!(owner_of(&row).source, 0);
        assert_eq!(socket_of(&row).uid, u32::MAX);
    }
}
