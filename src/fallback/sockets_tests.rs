// SPDX-License-Identifier: MIT OR Apache-2.0
//! Owners of sockets after made-up events. PIDs are known only in the initial PID namespace.

use super::*;
use crate::kernel::pids::{Namespace, namespace};

/// No process has it: ids end at 2^22.
const GONE: u32 = 1 << 30;
const SECOND: u64 = 1_000_000_000;

fn change(tgid: u32, old_state: u8, state: u8, at_ns: u64) -> trace_event {
    trace_event {
        kind: trace_kind::STATE,
        skaddr: 64,
        tgid,
        tid: tgid,
        old_state,
        state,
        at_ns,
        ..trace_event::default()
    }
}

/// A retransmission, with an unrelated task on the CPU.
fn retransmission(at_ns: u64) -> trace_event {
    trace_event {
        kind: trace_kind::RETRANSMIT,
        tgid: 0,
        ..change(0, 0, ESTABLISHED, at_ns)
    }
}

fn owner_at(sockets: &mut Sockets<()>, event: &trace_event) -> (u8, u32) {
    let owner = sockets.follow(event).map(|socket| socket.owner);
    let owner = owner.unwrap_or_default();
    (owner.source, owner.pid)
}

#[test]
fn last_actor_is_owner() {
    let (mut sockets, own) = (Sockets::<()>::new(false, 16), std::process::id());
    if namespace() != Namespace::Initial {
        return;
    }
    let opened = owner_at(&mut sockets, &change(own, CLOSE, SYN_SENT, 1));
    assert_eq!(opened, (pid_source::SOCKET, own));
    let closed = owner_at(&mut sockets, &change(1, ESTABLISHED, FIN_WAIT1, 2));
    assert_eq!(closed, (pid_source::SOCKET, 1));
}

#[test]
fn visitor_owns_nothing() {
    let (mut sockets, own) = (Sockets::<()>::new(false, 16), std::process::id());
    if namespace() != Namespace::Initial {
        return;
    }
    owner_at(&mut sockets, &change(own, CLOSE, SYN_SENT, 1));
    let mut close = change(1, ESTABLISHED, FIN_WAIT1, 2);
    close.comm = *b"tcptools-scan\0\0\0";
    close.tid = 77;
    assert_eq!(owner_at(&mut sockets, &close), (pid_source::SOCKET, own));
}

#[test]
fn exited_process_owns_no_open_socket() {
    if namespace() != Namespace::Initial {
        return;
    }
    let own = std::process::id();
    for (pid, later) in [(own, pid_source::SOCKET), (GONE, pid_source::UNKNOWN)] {
        let mut sockets = Sockets::<()>::new(false, 16);
        owner_at(&mut sockets, &change(pid, CLOSE, SYN_SENT, SECOND));
        let soon = owner_at(
            &mut sockets,
            &change(0, SYN_SENT, ESTABLISHED, SECOND + 1000),
        );
        assert_eq!(soon, (pid_source::SOCKET, pid), "it may have ended since");
        let (source, _) = owner_at(&mut sockets, &retransmission(3 * SECOND));
        assert_eq!(source, later, "{pid}");
    }
}

#[test]
fn owner_is_known_at_close() {
    if namespace() != Namespace::Initial {
        return;
    }
    let mut sockets = Sockets::<()>::new(false, 16);
    owner_at(&mut sockets, &change(GONE, ESTABLISHED, FIN_WAIT1, SECOND));
    let end = owner_at(&mut sockets, &change(0, FIN_WAIT1, CLOSE, 60 * SECOND));
    assert_eq!(end, (pid_source::SOCKET, GONE));
}

#[test]
fn loss_clears_known_addresses() {
    if namespace() != Namespace::Initial {
        return;
    }
    let (mut sockets, own) = (Sockets::<()>::new(true, 16), std::process::id());
    owner_at(&mut sockets, &change(own, CLOSE, SYN_SENT, 1));
    owner_at(&mut sockets, &change(own, SYN_SENT, ESTABLISHED, 2));
    owner_at(&mut sockets, &change(own, CLOSE, LISTEN, 3));
    sockets.forget();
    let event = change(0, ESTABLISHED, 8, 4);
    assert_eq!(owner_at(&mut sockets, &event).0, pid_source::UNKNOWN);
    let child = trace_event {
        skaddr: 128,
        ..change(0, LISTEN, SYN_RECV, 5)
    };
    assert_eq!(owner_at(&mut sockets, &child).0, pid_source::UNKNOWN);
    // Owners of later events are known.
    let closed = owner_at(&mut sockets, &change(own, 8, LAST_ACK, 6));
    assert_eq!(closed, (pid_source::SOCKET, own));
}
