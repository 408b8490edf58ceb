// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shared filters: their flags, and how they reach the kernel half, which alone decides.

mod ids;
mod lists;
mod states;

pub use ids::{Cgroups, Namespaces, hierarchy as cgroup_mount};
pub use lists::{Cidrs, Comms, Numbers, Ports};
pub use states::States;

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::types;

/// A list of the command line, and its counterpart in the kernel half's configuration.
trait Fill {
    type To;
    fn fill(&self, to: &mut Self::To);
}

/// A filter that is not given leaves its counterpart zero: unset.
impl<L: Fill> Fill for Option<L> {
    type To = L::To;

    fn fill(&self, to: &mut L::To) {
        if let Some(list) = self {
            list.fill(to);
        }
    }
}

/// Only what matches all of these is shown. Every list may begin with `!`: then what it names is left out.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(
    next_help_heading = "Filters (decided in the kernel; a list may begin with '!' to exclude)"
)]
pub struct Filter {
    /// Owner's process id: a list with ranges
    #[arg(short, long, value_name = "LIST")]
    pub pid: Option<Numbers>,
    /// User id of the socket
    #[arg(short, long, value_name = "LIST")]
    pub uid: Option<Numbers>,
    /// Owner's name, as in /proc/PID/comm or a row
    #[arg(long, value_name = "LIST", value_parser = OsStringValueParser::new().try_map(|list| Comms::from_argument(&list)))]
    pub comm: Option<Comms>,
    /// Local port: a list with ranges, 80,8000-8080
    #[arg(short = 'L', long, visible_alias = "localport", value_name = "LIST")]
    pub lport: Option<Ports>,
    /// Remote port
    #[arg(short = 'D', long, visible_alias = "remoteport", value_name = "LIST")]
    pub rport: Option<Ports>,
    /// Port at either end
    #[arg(long, value_name = "LIST")]
    pub port: Option<Ports>,
    /// Local address or network: 10.0.0.0/8,fd00::/8
    #[arg(long, value_name = "CIDRS")]
    pub laddr: Option<Cidrs>,
    /// Remote address or network
    #[arg(long, value_name = "CIDRS")]
    pub raddr: Option<Cidrs>,
    /// Address at either end
    #[arg(long, value_name = "CIDRS")]
    pub addr: Option<Cidrs>,
    /// IPv4 only, IPv4-mapped addresses of dual-stack sockets included
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Network namespace: inode number, name of `ip netns`, path, pid:PID or self
    #[arg(long, value_name = "LIST")]
    pub netns: Option<Namespaces>,
    /// Cgroup (v2) that the socket was made in, or one below it: path, id:NUMBER, pid:PID or self
    #[arg(long, value_name = "LIST")]
    pub cgroup: Option<Cgroups>,
    /// Show MPTCP connections too, above the subflows that carry them
    #[arg(long)]
    pub mptcp: bool,
}

impl Filter {
    /// Whether any of them leaves something out.
    pub fn is_set(&self) -> bool {
        let owner = self.pid.is_some() || self.uid.is_some() || self.comm.is_some();
        let ports = self.lport.is_some() || self.rport.is_some() || self.port.is_some();
        let addresses = self.laddr.is_some() || self.raddr.is_some() || self.addr.is_some();
        let place = self.netns.is_some() || self.cgroup.is_some();
        owner || ports || addresses || place || self.ipv4 || self.ipv6
    }

    /// Whether an address among them is on a certain link.
    pub fn has_zone(&self) -> bool {
        let lists = [&self.laddr, &self.raddr, &self.addr];
        lists.into_iter().flatten().any(Cidrs::has_zone)
    }

    /// Writes the filter into the kernel half's configuration.
    pub fn fill(&self, config: &mut types::config) {
        let to = &mut config.filter;
        self.pid.fill(&mut to.pid);
        self.uid.fill(&mut to.uid);
        self.comm.fill(&mut to.comm);
        self.netns.fill(&mut to.netns);
        self.cgroup.fill(&mut to.cgroup);
        self.lport.fill(&mut to.lport);
        self.rport.fill(&mut to.rport);
        self.port.fill(&mut to.port);
        self.laddr.fill(&mut to.laddr);
        self.raddr.fill(&mut to.raddr);
        self.addr.fill(&mut to.addr);
        config.set = self.which();
    }

    /// Which of them the kernel half has to ask.
    fn which(&self) -> types::filter_set {
        let family = match (self.ipv4, self.ipv6) {
            (true, _) => 4,
            (_, true) => 6,
            _ => 0,
        };
        let ports = self.lport.is_some() || self.rport.is_some() || self.port.is_some();
        let addresses = self.laddr.is_some() || self.raddr.is_some() || self.addr.is_some();
        types::filter_set {
            pid: self.pid.is_some().into(),
            uid: self.uid.is_some().into(),
            comm: self.comm.is_some().into(),
            netns: self.netns.is_some().into(),
            cgroup: self.cgroup.is_some().into(),
            laddr: self.laddr.is_some().into(),
            raddr: self.raddr.is_some().into(),
            addr: self.addr.is_some().into(),
            lport: self.lport.is_some().into(),
            rport: self.rport.is_some().into(),
            port: self.port.is_some().into(),
            family,
            flow: (ports || addresses || family != 0).into(),
            mptcp: self.mptcp.into(),
            zone: self.has_zone().into(),
            ..types::filter_set::default()
        }
    }
}
