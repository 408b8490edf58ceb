// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shared filters: their flags, how they reach the kernel half, and the same decision for records (`fallback/`).

mod ca_states;
mod ids;
mod lists;
mod names;
#[cfg(test)]
mod properties;
mod states;

pub use ca_states::{CLOSED, CaStates, NextCaStates};
pub use ids::{Cgroups, Namespaces, hierarchy as cgroup_mount};
pub use lists::{Cidrs, Comms, Numbers, Ports, split};
pub use names::{Containers, Units};
pub use states::{States, StatesNow};

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::abi::types::{self, flow, owner, pid_source, trace_event};

/// A list of the command line, and its counterpart in the kernel half's configuration.
trait Fill {
    type To;
    fn fill(&self, to: &mut Self::To);
}

/// The part of an event that a filter asks: its ends, its socket, or the process that owns it.
#[allow(missing_docs, non_camel_case_types)] // as the fields of `Parts`
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    flow,
    socket,
    owner,
}

/// The parts of an event. One that is `None` is not asked: every filter of it passes.
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct Parts<'a> {
    pub flow: Option<&'a flow>,
    pub socket: Option<&'a trace_event>,
    pub owner: Option<&'a owner>,
}

/// Makes [`Filter`] of lines `flag: list = part |list, part| whether it passes`.
macro_rules! filters {
    ($($(#[$meta:meta])* $name:ident: $list:ty = $part:ident $passes:expr;)*) => {
        /// Only what matches all of these is shown. Every list may begin with `!`: then what it names is left out.
        #[derive(clap::Args, Clone, Debug, Default)]
        #[command(
            next_help_heading = "Filters (all must match; start a LIST with '!' to negate it)"
        )]
        pub struct Filter {
            $($(#[$meta])* pub $name: Option<$list>,)*
            /// Show only IPv4, including IPv4-mapped addresses of dual-stack sockets
            #[arg(short = '4', long, conflicts_with = "ipv6")]
            pub ipv4: bool,
            /// Show only IPv6
            #[arg(short = '6', long)]
            pub ipv6: bool,
            /// Also show MPTCP connections, above the subflows that carry them
            #[arg(long)]
            pub mptcp: bool,
        }

        impl Filter {
            /// The lists that are given, each with its flag and with what it asks.
            pub fn given(&self) -> impl Iterator<Item = (&'static str, Part)> {
                let all = [$((concat!("--", stringify!($name)), Part::$part, self.$name.is_some())),*];
                let given = all.into_iter().filter(|(_, _, given)| *given);
                given.map(|(flag, part, _)| (flag, part))
            }

            /// Writes the filter into the kernel half's configuration.
            pub fn fill(&self, config: &mut types::config) {
                let (lists, set) = (&mut config.filter, &mut config.set);
                $(if let Some(list) = &self.$name {
                    list.fill(&mut lists.$name);
                    set.$name = 1;
                })*
                set.family = self.family();
                let flow = self.given().any(|(_, part)| part == Part::flow);
                set.flow = (flow || set.family != 0).into();
                set.mptcp = self.mptcp.into();
                set.zone = self.has_zone().into();
            }

            /// Whether these parts of an event pass, decided as `src/bpf/common/filter.bpf.h` does.
            pub fn passes(&self, event: Parts<'_>) -> bool {
                let family = event.flow.map_or(0, |flow| flow.family);
                let family = event.flow.is_none() || [0, family].contains(&self.family());
                family $(&& ask(&self.$name, event.$part, $passes))*
            }
        }
    };
}

fn ask<L, P>(list: &Option<L>, part: Option<&P>, passes: impl Fn(&L, &P) -> bool) -> bool {
    let asked = list.as_ref().zip(part);
    asked.is_none_or(|(list, part)| passes(list, part))
}

/// An unknown owner matches no PID and no COMM filter, not even a negated one.
fn is_known(owner: &owner) -> bool {
    owner.source != pid_source::UNKNOWN
}

filters! {
    /// Match the owner's process id: a list with ranges, 1,100-200
    #[arg(short, long, value_name = "LIST")]
    pid: Numbers = owner |list, owner| is_known(owner) && list.passes(owner.pid);
    /// Match the user id of the socket
    #[arg(short, long, value_name = "LIST")]
    uid: Numbers = socket |list, event| event.uid != u32::MAX && list.passes(event.uid);
    /// Match the owner's name, as in /proc/PID/comm or in a row
    #[arg(long, value_name = "LIST", value_parser = OsStringValueParser::new().try_map(|list| Comms::from_argument(&list)))]
    comm: Comms = owner |list, owner| is_known(owner) && list.passes(&owner.comm);
    /// Match the local port: a list with ranges, 80,8000-8080
    #[arg(short = 'L', long, visible_alias = "localport", value_name = "LIST")]
    lport: Ports = flow |list, flow| list.passes(&[flow.lport]);
    /// Match the remote port
    #[arg(short = 'D', long, visible_alias = "remoteport", value_name = "LIST")]
    rport: Ports = flow |list, flow| list.passes(&[flow.rport]);
    /// Match the port of either end
    #[arg(long, value_name = "LIST")]
    port: Ports = flow |list, flow| list.passes(&[flow.lport, flow.rport]);
    /// Match the local address: a list with networks, 10.0.0.0/8,fd00::/8
    #[arg(long, value_name = "CIDRS")]
    laddr: Cidrs = flow |list, flow| list.passes(&[flow.laddr], flow);
    /// Match the remote address
    #[arg(long, value_name = "CIDRS")]
    raddr: Cidrs = flow |list, flow| list.passes(&[flow.raddr], flow);
    /// Match the address of either end
    #[arg(long, value_name = "CIDRS")]
    addr: Cidrs = flow |list, flow| list.passes(&[flow.laddr, flow.raddr], flow);
    /// Match the network namespace: inode number, name of `ip netns`, path, pid:PID or self
    #[arg(long, value_name = "LIST")]
    netns: Namespaces = socket |list, event| event.netns != 0 && list.passes(event.netns.into());
    /// Match sockets created in this v2 cgroup or below it: path, id:NUMBER, pid:PID or self
    #[arg(long, value_name = "LIST")]
    cgroup: Cgroups = socket |_, event| event.in_cgroups != 0; // decided where the cgroup can be read
    /// Match sockets created in this systemd unit, or below it: NAME of a service, or with its kind, as user.slice
    #[arg(long, value_name = "LIST")]
    unit: Units = socket |_, _| false; // refused without programs that read the names
    /// Match sockets created in this container: the beginning of its id, or its name
    #[arg(long, value_name = "LIST")]
    container: Containers = socket |_, _| false; // as above
}

impl Filter {
    /// Whether any of them leaves something out.
    pub fn is_set(&self) -> bool {
        self.given().next().is_some() || self.family() != 0
    }

    /// 4, 6, or 0 for both.
    fn family(&self) -> u8 {
        match (self.ipv4, self.ipv6) {
            (true, _) => 4,
            (_, true) => 6,
            _ => 0,
        }
    }

    /// Whether an address among them is on a certain link.
    pub fn has_zone(&self) -> bool {
        let lists = [&self.laddr, &self.raddr, &self.addr];
        lists.into_iter().flatten().any(Cidrs::has_zone)
    }
}
