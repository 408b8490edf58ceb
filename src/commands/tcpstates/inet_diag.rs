// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--active` as inet_diag has it, on a kernel without type information.

use std::time::Duration;

use anyhow::Result;

use crate::abi::names::state::{CLOSE_WAIT, CLOSING, ESTABLISHED, FIN_WAIT2, LISTEN, TIME_WAIT};
use crate::abi::types::{Record, owner};
use crate::cli::filter::Filter;
use crate::fallback::inet_diag::{Held, Listeners, Owners, head_of, held, passes};
use crate::kernel::holders::SocketIterator;
use crate::kernel::sock_diag::{self, DiagSocket};

use super::STATE_NOW;
use super::active::AGE_UNKNOWN;
use super::bpf::types;
use super::bpf::types::active;

crate::enumerators! { types::keeper as u8:
    PROCESS = KEPT_BY_PROCESS,
    ACCEPT_QUEUE = KEPT_IN_ACCEPT_QUEUE,
    ORPHAN = KEPT_AS_ORPHAN,
    REQUEST = KEPT_AS_REQUEST,
    REST = KEPT_IN_TIMEWAIT,
}

/// What its rows do not have.
pub(super) const BLANK: &str = "of half-open connections and of opens the time is unknown";

/// `TCP_TIMEWAIT_LEN` of include/net/tcp.h, in milliseconds.
const TIME_WAIT_MS: u32 = 60_000;

/// Visits the sockets of every network namespace that are in one of these states, for so many nanoseconds at least.
///
/// # Errors
/// A sentence, if a filter asks what inet_diag does not tell.
pub(super) fn sockets(
    filter: &Filter,
    (states, least_ns): (u32, u64),
    scan: bool,
) -> Result<SocketIterator> {
    let (asked, owners) = (filter.clone(), Owners::new(scan));
    let look = move || {
        let mut rows = here(&asked, &owners)?;
        let in_state = |row: &active| states >> (row.state & 31) & 1 != 0;
        rows.retain(|row| in_state(row) && row.in_state_ns >= least_ns);
        Ok(rows)
    };
    crate::fallback::inet_diag::sockets("tcpstates", ("socket", "sockets"), filter, look)
}

/// Those of this thread's network namespace that match.
fn here(filter: &Filter, owners: &Owners) -> Result<Vec<active>> {
    let all = sock_diag::all()?;
    let by_user = filter.given().any(|(flag, _)| flag == "--uid");
    let mut listeners = Listeners::default();
    let mut rows = Vec::new();
    for socket in &all {
        let held = held(socket);
        let keeper = keeper(held);
        let (owner, _) = listeners.owner(socket, held, owners.of(socket.inode));
        let socket = DiagSocket {
            uid: if keeper == REST { u32::MAX } else { socket.uid },
            ..*socket
        };
        // Whose it was is not known: it is not of another user, either.
        let nobodys = by_user && keeper == REST;
        if !nobodys && passes(filter, &socket, &owner) {
            rows.push(row(&socket, keeper, owner));
        }
    }
    Ok(rows)
}

fn keeper(held: Held) -> u8 {
    match held {
        Held::Process => PROCESS,
        Held::AcceptQueue => ACCEPT_QUEUE,
        Held::Orphan => ORPHAN,
        Held::Request => REQUEST,
        Held::Rest => REST,
    }
}

/// How long it has been in its state, and whether it may be longer: see active_since.bpf.h.
fn in_state(socket: &DiagSocket) -> (u32, bool) {
    let info = &socket.info;
    match socket.state {
        TIME_WAIT => (TIME_WAIT_MS.saturating_sub(socket.expires), false),
        _ if socket.info_bytes == 0 => (0, true),
        ESTABLISHED if info.data_segs_out == 0 => (info.last_data_sent, false),
        ESTABLISHED => (
            info.last_data_sent.max(info.last_data_recv),
            info.data_segs_in != 0,
        ),
        FIN_WAIT2 | CLOSING | CLOSE_WAIT => (info.last_ack_recv, true),
        _ => (0, true),
    }
}

fn row(socket: &DiagSocket, keeper: u8, owner: owner) -> active {
    let info = &socket.info;
    let (in_state_ms, at_least) = in_state(socket);
    let has_traffic = socket.info_bytes != 0 && socket.state != LISTEN;
    let age = |known: bool, age| {
        if has_traffic && known {
            age
        } else {
            AGE_UNKNOWN
        }
    };
    let row = active {
        in_state_ns: Duration::from_millis(in_state_ms.into()).as_nanos() as u64,
        rqueue: socket.rqueue,
        wqueue: socket.wqueue,
        last_data_sent_ms: age(info.data_segs_out != 0, info.last_data_sent),
        last_data_recv_ms: age(info.data_segs_in != 0, info.last_data_recv),
        last_ack_recv_ms: age(true, info.last_ack_recv),
        state: socket.state,
        at_least: at_least.into(),
        keeper,
        ..active::default()
    };
    row.with_head(&head_of(socket, owner, STATE_NOW))
}
