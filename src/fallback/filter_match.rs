// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shared filters, applied in user space where the kernel half has only a record.

use anyhow::Result;

use crate::abi::types::{flow, owner, trace_event};
use crate::cli::filter::{Filter, Part, Parts};
use crate::error::Usage;
use crate::kernel::features;

/// The filters, as far as records can answer them.
pub struct FilterMatch {
    filter: Filter,
    /// A list needs an address or port that a record without a flow does not have.
    needs_ends: bool,
}

impl FilterMatch {
    /// `sockets`: records tell namespace, cgroup and user of a socket (`--btf`).
    ///
    /// # Errors
    /// A sentence, if a filter needs what no record has.
    pub fn new(filter: &Filter, sockets: bool) -> Result<Self> {
        let mut given = filter.given();
        let this = Self {
            filter: filter.clone(),
            needs_ends: given.any(|(flag, part)| part == Part::flow && flag != "--lport"),
        };
        let mut given = filter.given();
        if let Some((flag, _)) = given.find(|(flag, _)| NAMES.contains(flag)) {
            return Err(unknown(flag));
        }
        match this.asks_socket() {
            Some(flag) if !sockets => Err(unknown(flag)),
            _ => Ok(this),
        }
    }

    /// A filter that needs the socket.
    fn asks_socket(&self) -> Option<&'static str> {
        let mut given = self.filter.given();
        let list = given.find(|(_, part)| *part == Part::socket);
        let zone = self.filter.has_zone().then_some("an address with %");
        list.map(|(flag, _)| flag).or(zone)
    }

    /// # Errors
    /// A sentence, if a filter asks of sockets what records without their addresses do not tell.
    pub fn refuse_sockets(&self) -> Result<()> {
        match self.asks_socket() {
            Some(flag) => Err(Usage(format!(
                "{flag}: the records of tcp:tcp_probe do not identify the socket on this kernel (before 6.10)"
            ))
            .into()),
            None => Ok(()),
        }
    }

    /// Whether the socket passes the namespace, cgroup and user filters. An unknown value passes none.
    pub fn socket(&self, event: &trace_event) -> bool {
        self.filter.passes(Parts {
            socket: Some(event),
            ..Parts::default()
        })
    }

    /// Whether the still unknown local port could change the decision.
    pub fn has_no_port(&self, flow: &flow) -> bool {
        let Filter { lport, port, .. } = &self.filter;
        let by_either = port.as_ref().is_some_and(|port| !port.names(flow.rport));
        flow.lport == 0 && (lport.is_some() || by_either)
    }

    /// Whether a flow with this owner passes the filters.
    pub fn passes(&self, flow: &flow, owner: &owner) -> bool {
        self.filter.passes(Parts {
            flow: Some(flow),
            owner: Some(owner),
            socket: None,
        })
    }

    /// The same for what has no ends: a filter on addresses or ports is a filter for sockets that have them.
    pub fn passes_endless(&self, flow: &flow, owner: &owner) -> bool {
        let by_lport = self.filter.lport.is_some() && flow.lport == 0;
        !self.needs_ends && !by_lport && self.passes(flow, owner)
    }
}

/// What only programs can compare that read the socket's cgroup, and those above it.
const NAMES: [&str; 2] = ["--unit", "--container"];

fn unknown(flag: &str) -> anyhow::Error {
    let why = "so the namespace, cgroup, user and interface of a socket are unknown";
    let kernel = features::this_kernel();
    Usage(format!("{flag}: {kernel}, {why}")).into()
}

#[cfg(test)]
use crate::abi::types::pid_source; // for the vectors
#[cfg(test)]
#[path = "filter_vectors.rs"]
mod filter_vectors;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        filter: Filter,
    }

    fn matching(args: &[&str]) -> FilterMatch {
        let flags = Flags::parse_from([&["tool"], args].concat());
        FilterMatch::new(&flags.filter, true).unwrap()
    }

    #[test]
    fn filters_agree_with_kernel() {
        for (args, expected) in filter_vectors::cases() {
            let filter = matching(&args);
            let passed: Vec<bool> = filter_vectors::subjects()
                .map(|(flow, owner)| filter.passes(&flow, &owner))
                .collect();
            assert_eq!(passed, expected, "{args:?}");
        }
    }

    #[test]
    fn unknown_socket_matches_no_filter() {
        let event = |netns, uid| trace_event {
            netns,
            uid,
            ..trace_event::default()
        };
        assert!(matching(&[]).socket(&event(0, u32::MAX)));
        for (args, uid, passes) in [
            (["-u", "0-9"], 5, true),
            (["-u", "0-9"], 10, false),
            (["-u", "!7"], 5, true),
            (["-u", "!7"], u32::MAX, false),
            (["--netns", "!self"], 5, true),
        ] {
            assert_eq!(matching(&args).socket(&event(1, uid)), passes, "{args:?}");
        }
        assert!(!matching(&["--netns", "!self"]).socket(&event(0, 5)));
    }

    #[test]
    fn unanswerable_filter_is_rejected() {
        for args in [["--uid", "0"], ["--netns", "self"], ["--cgroup", "id:1"]] {
            let flags = Flags::parse_from([&["tool"], &args[..]].concat());
            let error = FilterMatch::new(&flags.filter, false).err().unwrap();
            assert!(error.is::<Usage>() && error.to_string().starts_with(args[0]));
        }
    }
}
