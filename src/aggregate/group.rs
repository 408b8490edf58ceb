// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the members of a group have in common: the kernel half counts by the same (`bpf/common/count.bpf.h`).

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use crate::abi::known::KNOWN_ALL;
use crate::abi::types::{group_bits, group_key, head, owner, pid_source};

/// What is grouped by, as bits.
#[allow(missing_docs)]
pub mod bits {
    crate::enumerators! { super::group_bits as u32:
        pub PID = GROUP_PID,
        pub COMM = GROUP_COMM,
        pub UID = GROUP_UID,
        pub CGROUP = GROUP_CGROUP,
        pub NETNS = GROUP_NETNS,
        pub LADDR = GROUP_LADDR,
        pub LPORT = GROUP_LPORT,
        pub RADDR = GROUP_RADDR,
        pub RPORT = GROUP_RPORT,
    }
    /// Both ends of a connection, and the namespace that they are in.
    pub const FLOW: u32 = NETNS | LADDR | LPORT | RADDR | RPORT;
}

/// A group: of a head, what is grouped by; the rest is zero, and so is what is not known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Group(group_key);

impl Group {
    /// group_fill() of count.bpf.h, on this side. `by`: [`bits`]; `kind`: what the command groups by besides.
    pub fn new(head: &head, by: u32, kind: u32) -> Self {
        let has = |bit| by & bit != 0;
        let mut key = group_key {
            kind,
            ..group_key::default()
        };
        if has(bits::LADDR | bits::RADDR) {
            key.flow.family = head.flow.family;
            key.flow.ifindex = head.flow.ifindex;
        }
        if has(bits::LADDR) {
            key.flow.laddr = head.flow.laddr;
        }
        if has(bits::RADDR) {
            key.flow.raddr = head.flow.raddr;
        }
        if has(bits::LPORT) {
            key.flow.lport = head.flow.lport;
        }
        if has(bits::RPORT) {
            key.flow.rport = head.flow.rport;
        }
        // A link belongs to its namespace.
        if has(bits::NETNS) || key.flow.ifindex != 0 {
            key.netns = head.netns;
        }
        if has(bits::UID) {
            key.uid = head.uid;
        }
        if has(bits::CGROUP) {
            key.cgroup = head.cgroup;
        }
        if has(bits::COMM)
            && let Some(comm) = head.comm()
        {
            // What older kernels leave behind the name is no part of it.
            let name = key.comm.iter_mut().zip(comm);
            name.for_each(|(to, from)| *to = *from);
        }
        // Where the socket does not tell its cgroup, its process may.
        if has(bits::PID) || has(bits::CGROUP) && key.cgroup == 0 {
            key.pid = head.pid().unwrap_or(0);
        }
        Self(key)
    }

    /// An entry of the kernel half's table; `None` if it has another layout.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = group_key::default();
        plain::copy_from_bytes(&mut key, bytes).ok()?;
        Some(Self(key))
    }

    /// As it lies in a table.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: integers only, with explicit padding, so all its bytes have values.
        unsafe { plain::as_bytes(&self.0) }
    }

    /// What the command groups by besides.
    pub fn kind(&self) -> u32 {
        self.0.kind
    }

    /// For rows: a head that has what is grouped by, and this time.
    pub fn head(&self, boot_ns: u64) -> head {
        let key = &self.0;
        let known = key.pid != 0 || key.comm[0] != 0;
        head {
            boot_ns,
            cgroup: key.cgroup,
            flow: key.flow,
            netns: key.netns,
            owner: owner {
                pid: key.pid,
                comm: key.comm,
                source: match known {
                    true => pid_source::SOCKET,
                    false => pid_source::UNKNOWN,
                },
                ..owner::default()
            },
            uid: key.uid,
            known: KNOWN_ALL,
            ..head::default()
        }
    }

    /// Without its cgroup, and without the process that may tell it.
    pub(super) fn without_cgroup(mut self, by: u32) -> Self {
        self.0.cgroup = 0;
        if by & bits::PID == 0 {
            self.0.pid = 0;
        }
        self
    }

    /// By addresses and ports first, those of the other end before one's own.
    fn order(&self) -> impl Ord + use<> {
        let (key, flow) = (self.0, self.0.flow);
        let remote = (flow.family, flow.raddr, flow.rport);
        let local = (flow.laddr, flow.lport, flow.ifindex);
        let owner = (key.comm, key.pid, key.uid, key.cgroup);
        (remote, local, owner, key.netns, key.kind)
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Group {}

impl Hash for Group {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.bytes());
    }
}

impl PartialOrd for Group {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Group {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::golden::heads;

    #[test]
    fn group_has_only_what_it_is_made_by() {
        let [nobody, curl, _] = heads();
        let of = |by| Group::new(&curl, by, 0).head(7);
        let comm = of(bits::COMM);
        assert_eq!((comm.comm(), comm.pid()), (Some(&b"curl"[..]), None));
        assert_eq!((comm.flow.rport, comm.netns, comm.boot_ns), (0, 0, 7));
        let pid = of(bits::PID);
        assert_eq!((pid.comm(), pid.pid()), (None, Some(4711)));
        let flow = of(bits::FLOW);
        assert_eq!(
            (
                flow.local(),
                flow.flow.lport,
                flow.remote(),
                flow.flow.rport
            ),
            (curl.local(), 49_152, curl.remote(), 443)
        );
        assert_eq!(flow.netns, curl.netns);
        let unknown = Group::new(&nobody, bits::PID | bits::COMM, 3);
        assert_eq!(unknown.head(0).pid_source(), None);
        assert_eq!(unknown.kind(), 3);
    }

    #[test]
    fn bytes_behind_a_name_make_no_group() {
        let [_, mut curl, _] = heads();
        let clean = Group::new(&curl, bits::COMM, 0);
        curl.owner.comm[9] = b'x';
        assert_eq!(Group::new(&curl, bits::COMM, 0), clean);
        assert_eq!(Group::from_bytes(clean.bytes()), Some(clean));
        assert_eq!(Group::from_bytes(&clean.bytes()[1..]), None);
    }

    #[test]
    fn process_stands_for_an_unknown_cgroup() {
        let [_, curl, server] = heads();
        let of = |head| Group::new(head, bits::CGROUP, 0);
        assert_eq!((curl.cgroup, of(&curl).head(0).pid()), (0, Some(4711)));
        assert_eq!(of(&server).head(0).pid(), None);
        assert_eq!(of(&curl).without_cgroup(bits::CGROUP), Group::default());
    }

    #[test]
    fn groups_are_in_the_order_of_their_other_ends() {
        let [_, curl, server] = heads();
        let of = |head| Group::new(head, bits::RADDR | bits::RPORT, 0);
        let mut later = curl;
        later.flow.rport = 5432;
        assert!(of(&curl) < of(&later) && of(&later) < of(&server));
    }
}
