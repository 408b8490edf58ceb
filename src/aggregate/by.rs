// SPDX-License-Identifier: MIT OR Apache-2.0
//! What sums and counts can be made by: the same choice for every command.

use clap::ValueEnum;

use crate::aggregate::group::bits;
use crate::output::Column;
use crate::output::column::*;
use crate::output::whose::Field;

/// A key that every command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Process id of the owner.
    Pid,
    /// Name of the owner.
    Comm,
    /// User of the socket.
    Uid,
    /// Cgroup that the socket was created in, by its path.
    Cgroup,
    /// The systemd unit that it belongs to.
    Unit,
    /// The container that it belongs to.
    Container,
    /// Network namespace.
    Netns,
    /// Local address.
    Laddr,
    /// Local port.
    Lport,
    /// Remote address.
    Raddr,
    /// Remote port.
    Rport,
    /// Connection: both addresses and ports, and the network namespace.
    Flow,
}

/// The names of all, in their order.
pub(super) const NAMES: [&str; 12] = [
    "pid",
    "comm",
    "uid",
    "cgroup",
    "unit",
    "container",
    "netns",
    "laddr",
    "lport",
    "raddr",
    "rport",
    "flow",
];

impl By {
    /// As users write it.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// What of a head it is ([`bits`]).
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Pid => bits::PID,
            Self::Comm => bits::COMM,
            Self::Uid => bits::UID,
            Self::Cgroup | Self::Unit | Self::Container => bits::CGROUP,
            Self::Netns => bits::NETNS,
            Self::Laddr => bits::LADDR,
            Self::Lport => bits::LPORT,
            Self::Raddr => bits::RADDR,
            Self::Rport => bits::RPORT,
            Self::Flow => bits::FLOW,
        }
    }

    /// What is told apart of a cgroup.
    pub(super) fn field(self) -> Option<Field> {
        match self {
            Self::Cgroup => Some(Field::Cgroup),
            Self::Unit => Some(Field::Unit),
            Self::Container => Some(Field::Container),
            _ => None,
        }
    }

    /// Its columns: of the head of a group.
    #[rustfmt::skip] // one line per column
    pub(super) fn columns<E: 'static>(self) -> Vec<Column<E>> {
        match self {
            Self::Pid => columns! { |row, e: E| "pid" ALL "PID" (7, 7) => pid(row); },
            Self::Comm => columns! { |row, e: E| "comm" ALL "COMM" (16, 16) => comm(row); },
            Self::Uid => columns! { |row, e: E| "uid" ALL "UID" (7, 7) => uid(row); },
            Self::Cgroup => columns! { |row, e: E| "cgroup" ALL "CGROUP" (24, 40) => whose(row, Field::Cgroup); },
            Self::Unit => columns! { |row, e: E| "unit" ALL "UNIT" (24, 32) => whose(row, Field::Unit); },
            Self::Container => columns! { |row, e: E|
                ""               TEXT "CONTAINER" (20, 20) => whose(row, Field::ContainerShort);
                "container"      JSON => whose(row, Field::Container);
                "container_name" JSON => whose(row, Field::ContainerName);
                "runtime"        JSON => whose(row, Field::Runtime);
                "pod"            JSON => whose(row, Field::Pod);
            },
            Self::Netns => columns! { |row, e: E|
                "netns"      ALL "NETNS" (10, 10)   => netns(row);
                "netns_name" DETAIL "NAME" (16, 16) => netns_name(row);
            },
            Self::Laddr => columns! { |row, e: E| "laddr" ALL "LADDR" (15, 39) => laddr(row); },
            Self::Lport => columns! { |row, e: E| "lport" ALL "LPORT" (5, 5) => lport(row); },
            Self::Raddr => columns! { |row, e: E| "raddr" ALL "RADDR" (15, 39) => raddr(row); },
            Self::Rport => columns! { |row, e: E| "rport" ALL "RPORT" (5, 5) => row.head.flow.rport; },
            Self::Flow => columns! { |row, e: E|
                "netns" JSON                         => netns(row);
                "laddr" JSON                         => laddr(row);
                "lport" JSON                         => lport(row);
                "raddr" JSON                         => raddr(row);
                "rport" JSON                         => rport(row);
                ""      TEXT "LADDR:LPORT" (20, 47)  => local_end(row);
                ""      TEXT "RADDR:RPORT" (20, 47)  => remote_end(row);
            },
        }
    }
}

/// One of the keys of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// One that every command has.
    Shared(By),
    /// One of the command's own, by its name.
    Own(&'static str),
}

impl Key {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared(by) => by.name(),
            Self::Own(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_keys() {
        for (by, name) in By::value_variants().iter().zip(NAMES) {
            let value = by.to_possible_value().unwrap();
            assert_eq!((value.get_name(), by.name()), (name, name));
        }
    }
}
