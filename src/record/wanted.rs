// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shared filters, decided here where the kernel half has only a record: the same lists, with the same meaning, as
//! `src/bpf/filter.bpf.h` has them.

use anyhow::Result;

use crate::cli::Usage;
use crate::filter::Filter;
use crate::types::{
    cidr_list, comm_list, config, flow, id_list, owner, pid_source, port_set, range_list, seen,
};

/// The filters, as the kernel half would have them.
pub struct Wanted(Box<config>);

impl Wanted {
    /// `sockets`: records tell namespace, cgroup and user of a socket (`--btf`).
    ///
    /// # Errors
    /// A sentence, if a filter needs what no record has.
    pub fn new(flags: &Filter, sockets: bool) -> Result<Self> {
        let hidden = [
            ("--netns", flags.netns.is_some() && !sockets),
            ("--cgroup", flags.cgroup.is_some() && !sockets),
            ("--uid", flags.uid.is_some() && !sockets),
            ("an address with %", flags.has_zone() && !sockets),
        ];
        if let Some((flag, _)) = hidden.iter().find(|(_, given)| *given) {
            return Err(untold(flag));
        }
        let mut lists = Box::<config>::default();
        flags.fill(&mut lists);
        Ok(Self(lists))
    }

    /// # Errors
    /// A sentence, if a filter asks of sockets what records without their addresses do not tell.
    pub fn refuse_sockets(&self) -> Result<()> {
        let set = &self.0.set;
        let given = [
            ("--netns", set.netns),
            ("--cgroup", set.cgroup),
            ("--uid", set.uid),
            ("an address with %", set.zone),
        ];
        match given.iter().find(|(_, given)| *given != 0) {
            Some((flag, _)) => Err(Usage(format!(
                "{flag}: the records of tcp:tcp_probe do not name the socket on this kernel (before 6.10)"
            ))
            .into()),
            None => Ok(()),
        }
    }

    /// Whether the filters of namespace, cgroup and user let an event's socket pass. One that is not known passes none.
    pub fn socket(&self, event: &seen) -> bool {
        let f = &self.0.filter;
        (f.netns.n == 0 || event.netns != 0 && id(&f.netns, event.netns.into()))
            && (f.cgroup.n == 0 || event.in_cgroups != 0)
            && (f.uid.n == 0 || event.uid != u32::MAX && range(&f.uid, event.uid))
    }

    /// Whether ports at the local end, or at either end, decide.
    pub fn waits_for_port(&self) -> bool {
        self.0.set.lport != 0 || self.0.set.port != 0
    }

    /// Whether the local port, which is not known yet, could change what is wanted.
    pub fn lacks_port(&self, flow: &flow) -> bool {
        let (set, f) = (&self.0.set, &self.0.filter);
        let by_either = set.port != 0 && !has_port(&f.port, flow.rport);
        flow.lport == 0 && (set.lport != 0 || by_either)
    }

    /// Whether these filters let a flow with this owner pass.
    pub fn passes(&self, flow: &flow, owner: &owner) -> bool {
        self.flow(flow) && self.owner(owner)
    }

    /// The same for what has no ends: a filter on addresses or ports is a filter for sockets that have them.
    pub fn passes_endless(&self, flow: &flow, owner: &owner) -> bool {
        let set = &self.0.set;
        let by_end = [set.rport, set.port, set.laddr, set.raddr, set.addr];
        let by_lport = set.lport != 0 && flow.lport == 0;
        by_end == [0; 5] && !by_lport && self.passes(flow, owner)
    }

    fn flow(&self, flow: &flow) -> bool {
        let (set, f) = (&self.0.set, &self.0.filter);
        let ends = [&flow.laddr, &flow.raddr];
        [0, flow.family].contains(&set.family)
            && (set.lport == 0 || port(&f.lport, &[flow.lport]))
            && (set.rport == 0 || port(&f.rport, &[flow.rport]))
            && (set.port == 0 || port(&f.port, &[flow.lport, flow.rport]))
            && address(&f.laddr, &ends[..1], flow)
            && address(&f.raddr, &ends[1..], flow)
            && address(&f.addr, &ends, flow)
    }

    /// An unknown owner matches no pid and no comm, not even a negated one: nothing is claimed of it.
    fn owner(&self, owner: &owner) -> bool {
        let f = &self.0.filter;
        if owner.source == pid_source::UNKNOWN {
            return f.pid.n == 0 && f.comm.n == 0;
        }
        range(&f.pid, owner.pid) && comm(&f.comm, &owner.comm)
    }
}

fn untold(flag: &str) -> anyhow::Error {
    let why = "without which a socket's namespace, cgroup, user and link are not known";
    let kernel = super::this_kernel();
    Usage(format!("{flag}: {kernel}, {why}")).into()
}

fn id(list: &id_list, value: u64) -> bool {
    list.id[..list.n as usize].contains(&value) != (list.negate != 0)
}

fn has_port(set: &port_set, port: u16) -> bool {
    set.bits[usize::from(port >> 3)] >> (port & 7) & 1 != 0
}

fn port(set: &port_set, ports: &[u16]) -> bool {
    ports.iter().any(|&p| has_port(set, p)) != (set.negate != 0)
}

fn range(list: &range_list, value: u32) -> bool {
    let given = &list.range[..list.n as usize];
    let found = given.iter().any(|r| (r.lo..=r.hi).contains(&value));
    list.n == 0 || found != (list.negate != 0)
}

fn words(bytes: &[u8; 16]) -> [u64; 2] {
    let word = |half: &[u8]| u64::from_ne_bytes(half.try_into().unwrap_or_default());
    [word(&bytes[..8]), word(&bytes[8..])]
}

fn comm(list: &comm_list, comm: &[u8; 16]) -> bool {
    let found = list.comm[..list.n as usize].contains(&words(comm));
    list.n == 0 || found != (list.negate != 0)
}

fn address(list: &cidr_list, ends: &[&[u8; 16]], flow: &flow) -> bool {
    let within = |end: &&[u8; 16]| {
        let [hi, lo] = words(end);
        list.cidr[..list.n as usize].iter().any(|c| {
            c.family == u32::from(flow.family)
                && [hi & c.mask[0], lo & c.mask[1]] == c.addr
                && [0, flow.ifindex].contains(&c.ifindex)
        })
    };
    list.n == 0 || ends.iter().any(within) != (list.negate != 0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        filter: Filter,
    }

    fn wanted(args: &[&str]) -> Wanted {
        let flags = Flags::parse_from([&["tool"], args].concat());
        Wanted::new(&flags.filter, true).unwrap()
    }

    fn flow() -> flow {
        let mapped = |d| Ipv4Addr::new(10, 0, 0, d).to_ipv6_mapped().octets();
        flow {
            laddr: mapped(1),
            raddr: mapped(2),
            lport: 40_000,
            rport: 443,
            family: 4,
            ..flow::default()
        }
    }

    fn owner(pid: u32, name: &[u8]) -> owner {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        owner {
            pid,
            comm,
            source: pid_source::SOCKET,
            ..owner::default()
        }
    }

    #[test]
    fn filters_mean_what_they_mean_in_the_kernel() {
        let curl = owner(12, b"curl");
        let cases: [(&[&str], bool); 20] = [
            (&[], true),
            (&["-D", "443"], true),
            (&["-D", "!443"], false),
            (&["-L", "443"], false),
            (&["--port", "443"], true),
            (&["--port", "!443"], false),
            (&["-4"], true),
            (&["-6"], false),
            (&["--raddr", "10.0.0.2"], true),
            (&["--raddr", "10.0.0.1"], false),
            (&["--raddr", "!10.0.0.0/24"], false),
            (&["--addr", "10.0.0.1/32"], true),
            (&["--laddr", "::/0"], false),
            (&["-p", "10-12"], true),
            (&["-p", "!12"], false),
            (&["-p", "13"], false),
            (&["--comm", "curl"], true),
            (&["--comm", "cur"], false),
            (&["--comm", "!wget"], true),
            (&["-D", "443", "-p", "13"], false),
        ];
        for (args, expected) in cases {
            assert_eq!(wanted(args).passes(&flow(), &curl), expected, "{args:?}");
        }
    }

    #[test]
    fn nothing_is_claimed_of_an_unknown_owner() {
        let nobody = owner::default();
        for args in [&["-p", "!1"][..], &["--comm", "!x"], &["-p", "0"]] {
            assert!(!wanted(args).passes(&flow(), &nobody), "{args:?}");
        }
        assert!(wanted(&["-D", "443"]).passes(&flow(), &nobody));
    }

    #[test]
    fn a_socket_that_is_not_known_passes_no_filter() {
        let event = |netns, uid| seen {
            netns,
            uid,
            ..seen::default()
        };
        assert!(wanted(&[]).socket(&event(0, u32::MAX)));
        for (args, uid, passes) in [
            (["-u", "0-9"], 5, true),
            (["-u", "0-9"], 10, false),
            (["-u", "!7"], 5, true),
            (["-u", "!7"], u32::MAX, false),
            (["--netns", "!self"], 5, true),
        ] {
            assert_eq!(wanted(&args).socket(&event(1, uid)), passes, "{args:?}");
        }
        assert!(!wanted(&["--netns", "!self"]).socket(&event(0, 5)));
    }

    #[test]
    fn a_filter_that_no_record_can_answer_is_refused() {
        for args in [["--uid", "0"], ["--netns", "self"], ["--cgroup", "id:1"]] {
            let flags = Flags::parse_from([&["tool"], &args[..]].concat());
            let error = Wanted::new(&flags.filter, false).err().unwrap();
            assert!(error.is::<Usage>() && error.to_string().starts_with(args[0]));
        }
    }
}
