// SPDX-License-Identifier: MIT OR Apache-2.0
//! Active opens from records alone, on a kernel without type information: what tcpconnect.bpf.c does, done here.

use std::collections::VecDeque;

use anyhow::Result;
use nix::errno::Errno;
use tcptools::names::state::{CLOSE, ESTABLISHED, SYN_RECV, SYN_SENT};
use tcptools::record::{Event, Sockets, Translate, Wanted, head, is_counted, refuse, types};
use tcptools::types::{Record, bytes_of, flow, known, owner, seen, seen_kind};

use super::bpf::types::connect;
use super::{Args, PENDING, SYN_UNTOLD, UNTOLD, shows_pending};

/// `enum outcome` of tcpconnect.bpf.c.
const OUTCOME_ESTABLISHED: u8 = 0;
const OUTCOME_REFUSED: u8 = 1;
const OUTCOME_RESET: u8 = 2;
const OUTCOME_TIMEOUT: u8 = 3;
const OUTCOME_UNREACHABLE: u8 = 4;
const OUTCOME_ABORTED: u8 = 5;

/// An open that is under way: `struct opening` of tcpconnect.bpf.c.
#[derive(Clone, Copy, Default)]
pub struct Opening {
    start_ns: Option<u64>,
    /// It began before the trace, and `start_ns` is when it was first seen.
    partial: bool,
    reset: bool,
    pending: bool,
    syn_retrans: u32,
    flow: flow,
    cookie: u64,
    netns: u32,
    uid: u32,
}

/// Makes the rows.
pub struct Opens {
    /// The sockets' errors are known (`--btf`).
    errors: bool,
    failed_only: bool,
    min_ns: u64,
    pending_ns: Option<u64>,
    /// Opens in the order in which they began, with their sockets: those that may become pending.
    waiting: VecDeque<(u64, u64)>,
}

impl Opens {
    /// # Errors
    /// A sentence, if the arguments ask for what records do not have.
    pub fn new(args: &Args) -> Result<Self> {
        let errors = types(&args.common.run).is_some();
        refuse(&[("--print-uid", args.print_uid && !errors)])?;
        let pending_ns = args.pending.as_nanos() as u64;
        Ok(Self {
            errors,
            failed_only: args.failed,
            min_ns: args.min_ms.unwrap_or_default().as_nanos() as u64,
            pending_ns: shows_pending(args).then_some(pending_ns),
            waiting: VecDeque::new(),
        })
    }

    fn wanted(&self, row: &connect, flow: &flow, owner: &owner, wanted: &Wanted) -> bool {
        let latency_ns = Some(row.latency_ns).filter(|&ns| ns != u64::MAX);
        (!self.failed_only || row.outcome != OUTCOME_ESTABLISHED)
            && (self.min_ns == 0 || latency_ns.is_some_and(|ns| ns >= self.min_ns))
            && wanted.passes(flow, owner)
    }

    fn begin(&mut self, seen: &seen, opening: &mut Opening) {
        *opening = Opening {
            start_ns: Some(seen.at_ns),
            flow: seen.flow,
            cookie: seen.cookie,
            netns: seen.netns,
            uid: seen.uid,
            ..Opening::default()
        };
        if self.pending_ns.is_some() {
            self.waiting.push_back((seen.at_ns, seen.skaddr));
        }
    }
}

/// How it ended, as far as records tell, and the error of it.
///
/// An RST is one in answer to the SYN, or to the SYN/ACK of a simultaneous open. Without one it may be a timeout, an
/// ICMP error or a close(), which only the socket's own fields tell apart.
fn outcome(seen: &seen, opening: &Opening) -> (u8, Errno) {
    match (seen.state, seen.old_state) {
        (ESTABLISHED, _) => (OUTCOME_ESTABLISHED, Errno::UnknownErrno),
        // No packet was sent: connect() found no port.
        _ if seen.flow.lport == 0 => (OUTCOME_ABORTED, Errno::EADDRNOTAVAIL),
        (_, SYN_SENT) if opening.reset => (OUTCOME_REFUSED, Errno::ECONNREFUSED),
        (_, SYN_RECV) if opening.reset => (OUTCOME_RESET, Errno::ECONNRESET),
        _ => (UNTOLD, Errno::UnknownErrno),
    }
}

/// `outcome_of_error()` of tcpconnect.bpf.c.
fn outcome_of_error(err: u8) -> (u8, Errno) {
    let errno = Errno::from_raw(err.into());
    let outcome = match errno {
        _ if err == 0 => OUTCOME_ABORTED,
        Errno::ECONNABORTED => OUTCOME_ABORTED,
        Errno::ECONNREFUSED => OUTCOME_REFUSED,
        Errno::ECONNRESET => OUTCOME_RESET,
        Errno::ETIMEDOUT => OUTCOME_TIMEOUT,
        _ => OUTCOME_UNREACHABLE,
    };
    (outcome, errno)
}

fn row(opening: &Opening, at_ns: u64, outcome: u8, errno: Errno) -> connect {
    let since = |start: u64| at_ns.saturating_sub(start);
    let told = opening.syn_retrans > 0 || opening.reset || outcome == OUTCOME_ESTABLISHED;
    connect {
        latency_ns: opening.start_ns.map_or(u64::MAX, since),
        syn_retrans: opening.syn_retrans,
        outcome,
        errno_: errno as u8,
        partial: opening.partial.into(),
        syn_sent: match errno {
            Errno::EADDRNOTAVAIL => 0,
            _ if told => 1,
            _ => SYN_UNTOLD,
        },
        ..connect::default()
    }
}

impl Translate for Opens {
    type Tool = Opening;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_receive_reset", "tcp:tcp_retransmit_skb"]
    }

    fn blank(&self) -> &'static str {
        match self.errors {
            true => "the cookies of most opens stay blank",
            false => "OUTCOME, for an open that fails without an RST, and the cookie stay blank",
        }
    }

    fn event(&mut self, event: Event<'_, Opening>, wanted: &Wanted, out: &mut dyn FnMut(&[u8])) {
        let (seen, Some(socket)) = (event.seen, event.socket) else {
            return;
        };
        let opening = &mut socket.tool;
        // An open that was under way at the start.
        if opening.start_ns.is_none()
            && seen.old_state == SYN_SENT
            && let Some(seeded_ns) = socket.seeded_ns
        {
            opening.start_ns = Some(seeded_ns);
            opening.partial = true;
        }
        match (seen.kind, seen.old_state, seen.state) {
            (seen_kind::RECEIVE_RESET, ..) => opening.reset = true,
            (seen_kind::RETRANSMIT, _, SYN_SENT) if is_counted(seen.err) => {
                opening.syn_retrans += 1;
                opening.flow = seen.flow;
            }
            (seen_kind::STATE, _, SYN_SENT) => self.begin(seen, opening),
            (seen_kind::STATE, SYN_SENT, new) if new != SYN_RECV => {}
            (seen_kind::STATE, SYN_RECV, _) if opening.start_ns.is_some() => {}
            _ => return,
        }
        let ends = matches!(seen.old_state, SYN_SENT | SYN_RECV) && seen.state != SYN_RECV;
        if seen.kind != seen_kind::STATE || !ends {
            return;
        }
        let end = event.end.filter(|end| end.known & known::ERROR != 0);
        let (outcome, errno) = match end.filter(|_| seen.state == CLOSE) {
            Some(end) => outcome_of_error(end.err),
            None => outcome(seen, opening),
        };
        let mut row = row(opening, seen.at_ns, outcome, errno);
        if let Some(end) = event.end.filter(|end| end.known & known::TCP != 0) {
            row.syn_retrans = end.total_retrans;
            row.syn_sent = (end.segs_out != 0).into();
        }
        row.partial = (opening.start_ns.is_none() || opening.partial).into();
        *opening = Opening::default();
        if self.wanted(&row, &seen.flow, &socket.owner, wanted) {
            out(bytes_of(&row.with_head(&head(seen, &socket.owner, 0))));
        }
    }

    fn tick(
        &mut self,
        until_ns: u64,
        sockets: &mut Sockets<Opening>,
        wanted: &Wanted,
        out: &mut dyn FnMut(&[u8]),
    ) {
        let Some(pending_ns) = self.pending_ns else {
            return;
        };
        while let Some(&(start_ns, skaddr)) = self.waiting.front() {
            if start_ns + pending_ns > until_ns {
                break;
            }
            self.waiting.pop_front();
            let Some(socket) = sockets.get(skaddr) else {
                continue;
            };
            let opening = &mut socket.tool;
            // Otherwise it has ended, and another one begun.
            if opening.start_ns != Some(start_ns) || opening.pending {
                continue;
            }
            opening.pending = true;
            let row = row(opening, until_ns, PENDING, Errno::UnknownErrno);
            let Opening {
                flow,
                cookie,
                netns,
                uid,
                ..
            } = *opening;
            let owner = socket.owner;
            if !self.wanted(&row, &flow, &owner, wanted) {
                continue;
            }
            let seen = seen {
                at_ns: until_ns,
                flow,
                cookie,
                netns,
                uid,
                ..seen::default()
            };
            out(bytes_of(&row.with_head(&head(&seen, &owner, 0))));
        }
    }
}
