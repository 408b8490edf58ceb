// SPDX-License-Identifier: MIT OR Apache-2.0
//! Listeners as inet_diag has them, on a kernel without type information: queue, limit and drops.
//!
//! A connection that waits for accept() has no file yet, and so is told from those that were accepted. Which listener's
//! it is shows its local end, if only one listens there.

use std::collections::HashMap;

use crate::abi::types::{Record, flow, owner};
use crate::cli::filter::Filter;
use crate::fallback::inet_diag::{self, Owners, head_of, passes};
use crate::kernel::holders::Holders;
use crate::kernel::sock_diag::{self, DiagSocket};
use anyhow::Result;

use super::bpf::types::{listener_key, listener_now, queues};
use super::listener::{TIME_UNKNOWN, UNKNOWN};

/// What its rows do not have.
pub(super) const BLANK: &str =
    "opens, SYN queues, SYN cookies, Fast Open queues and SO_REUSEPORT groups stay blank";

/// Visits the listeners of every network namespace.
///
/// # Errors
/// A sentence, if a filter asks what inet_diag does not tell.
pub(super) fn listeners(filter: &Filter, scan: bool) -> Result<Holders> {
    let (asked, owners) = (filter.clone(), Owners::new(scan));
    let look = move || look(&asked, &owners);
    let what = ("listener", "listeners");
    let sockets = inet_diag::sockets("tcpaccept", what, filter, look)?;
    Ok(Holders::new(None, sockets))
}

/// Those of this thread's network namespace that match.
fn look(filter: &Filter, owners: &Owners) -> Result<Vec<listener_now>> {
    let all = sock_diag::listeners()?;
    let busy = all.iter().any(|listener| listener.rqueue != 0);
    let waiting = if busy {
        sock_diag::waiting()?
    } else {
        Vec::new()
    };
    let firsts = firsts(&all, &waiting);
    let mut found = Vec::new();
    for listener in &all {
        let owner = owners.of(listener.inode);
        if passes(filter, listener, &owner) {
            found.push(now(listener, owner, firsts.get(&listener.cookie).copied()));
        }
    }
    Ok(found)
}

/// The connection that waits longest at each listener, by the listener's cookie, as far as it is known whose it is.
fn firsts<'s>(listeners: &[DiagSocket], waiting: &'s [DiagSocket]) -> HashMap<u64, &'s DiagSocket> {
    let mut ports = HashMap::<u16, Vec<&DiagSocket>>::new();
    for listener in listeners {
        ports.entry(listener.flow.lport).or_default().push(listener);
    }
    let mut firsts = HashMap::<u64, &DiagSocket>::new();
    for child in waiting.iter().filter(|child| child.info_bytes != 0) {
        let here = ports.get(&child.flow.lport).into_iter().flatten();
        let mut here = here.filter(|listener| accepts(&listener.flow, &child.flow));
        if let (Some(listener), None) = (here.next(), here.next()) {
            let first = firsts.entry(listener.cookie).or_insert(child);
            if is_before(child, first) {
                *first = child;
            }
        }
    }
    firsts
}

/// Whether a connection waits longer than another. The kernel tells times in jiffies, and looks at one after the other:
/// of those that came at about the same time, it is the same one at every look.
fn is_before(child: &DiagSocket, other: &DiagSocket) -> bool {
    const SAME_MS: u32 = 50;
    let [age, other_age] = [child, other].map(|socket| socket.info.last_data_sent);
    match age.abs_diff(other_age) > SAME_MS {
        true => age > other_age,
        false => child.cookie < other.cookie,
    }
}

/// Whether a listener is bound to the address of a connection, or to all.
fn accepts(listener: &flow, child: &flow) -> bool {
    /// 0.0.0.0, as flows have it.
    const ANY_V4: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0];
    let is_v4 = child.laddr.starts_with(&ANY_V4[..12]);
    listener.laddr == child.laddr || listener.laddr == [0; 16] || listener.laddr == ANY_V4 && is_v4
}

fn now(listener: &DiagSocket, owner: owner, first: Option<&DiagSocket>) -> listener_now {
    listener_now {
        head: super::bpf::types::head::default(),
        key: listener_key {
            cookie: listener.cookie,
            netns: listener.netns,
            lport: listener.flow.lport.into(),
        },
        address: 0,
        queues: queues {
            // A child's last data sent is its handshake: see listener.bpf.h.
            oldest_wait_us: first.map_or(TIME_UNKNOWN, |first| {
                u64::from(first.info.last_data_sent) * 1000
            }),
            syn_cookie_us: TIME_UNKNOWN,
            first: first.map_or(0, |first| first.cookie),
            group: 0,
            accept_queue: listener.rqueue,
            accept_queue_max: listener.wqueue,
            syn_queue: UNKNOWN,
            syn_queue_max: UNKNOWN,
            fastopen_queue: UNKNOWN,
            fastopen_queue_max: UNKNOWN,
            drops: listener.drops.unwrap_or(UNKNOWN),
            group_size: 0,
            syncookies: 0,
            pad: 0,
        },
    }
    .with_head(&head_of(listener, owner, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(addr: [u8; 16], port: u16, cookie: u64, waited: u32) -> DiagSocket {
        let mut socket = DiagSocket {
            cookie,
            info_bytes: 1,
            ..DiagSocket::default()
        };
        socket.flow.laddr = addr;
        socket.flow.lport = port;
        socket.info.last_data_sent = waited;
        socket
    }

    #[test]
    fn who_waits_is_known_if_one_listens_there() {
        let v4 = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, last];
        let any_v4 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 0, 0, 0, 0];
        let mut v6 = [0; 16];
        v6[0] = 0xfd;
        let listeners = [
            at([0; 16], 80, 1, 0),
            at(v4(1), 81, 2, 0),
            at(v4(2), 81, 3, 0),
            at(any_v4, 82, 4, 0),
            at(v4(1), 83, 5, 0),
            at(v4(1), 83, 6, 0),
        ];
        let waiting = [
            at(v4(1), 80, 11, 5),
            at(v6, 80, 12, 1007),
            at(v6, 80, 18, 1011),
            at(v4(2), 81, 13, 1),
            at(v4(9), 81, 14, 9),
            at(v6, 82, 15, 9),
            at(v4(1), 82, 16, 2),
            // Of a group.
            at(v4(1), 83, 17, 9),
        ];
        let mut found: Vec<_> = firsts(&listeners, &waiting)
            .into_iter()
            .map(|(listener, first)| (listener, first.cookie))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(1, 12), (3, 13), (4, 16)]);
    }
}
