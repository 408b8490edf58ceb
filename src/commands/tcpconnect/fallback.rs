// SPDX-License-Identifier: MIT OR Apache-2.0
//! Active opens from records alone, on a kernel without BTF: the counterpart of tcpconnect.bpf.c.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::abi::known::{KNOWN_CAUSE, KNOWN_SYN_SENT};
use crate::abi::names::state::{CLOSE, ESTABLISHED, SYN_RECV, SYN_SENT};
use crate::abi::types::{Record, flow, known, owner, trace_event, trace_kind};
use crate::enumerators;
use crate::fallback::{Event, FilterMatch, Out, Sockets, Translate, head, is_counted, refuse};
use crate::kernel::clock::boot_ns;
use anyhow::Result;
use nix::errno::Errno;

use super::bpf::types::{self, connect};
use super::columns::PENDING;
use super::{Args, shows_pending};

enumerators! { types::outcome as u8:
    OUTCOME_ESTABLISHED = OUTCOME_ESTABLISHED,
    OUTCOME_REFUSED = OUTCOME_REFUSED,
    OUTCOME_RESET = OUTCOME_RESET,
    OUTCOME_TIMEOUT = OUTCOME_TIMEOUT,
    OUTCOME_UNREACHABLE = OUTCOME_UNREACHABLE,
    OUTCOME_ABORTED = OUTCOME_ABORTED,
    OUTCOME_NO_PORT = OUTCOME_NO_PORT,
}

/// An open that is under way: `struct attempt` of tcpconnect.bpf.c.
#[derive(Clone, Copy, Default)]
pub struct ConnectAttempt {
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
    in_flight: VecDeque<(u64, u64)>,
}

impl Opens {
    /// # Errors
    /// A sentence, if the arguments need what records do not have.
    pub fn new(args: &Args, errors: bool) -> Result<Self> {
        refuse(&[("--print-uid", args.print_uid && !errors)])?;
        let pending_ns = args.pending.as_nanos() as u64;
        Ok(Self {
            errors,
            failed_only: args.failed,
            min_ns: args.min_ms.unwrap_or_default().as_nanos() as u64,
            pending_ns: shows_pending(args).then_some(pending_ns),
            in_flight: VecDeque::new(),
        })
    }

    fn passes(&self, row: &connect, flow: &flow, owner: &owner, filter: &FilterMatch) -> bool {
        let latency_ns = Some(row.latency_ns).filter(|&ns| ns != u64::MAX);
        (!self.failed_only || row.outcome != OUTCOME_ESTABLISHED)
            && (self.min_ns == 0 || latency_ns.is_some_and(|ns| ns >= self.min_ns))
            && filter.passes(flow, owner)
    }

    fn begin(&mut self, trace: &trace_event, attempt: &mut ConnectAttempt) {
        *attempt = ConnectAttempt {
            start_ns: Some(trace.at_ns),
            flow: trace.flow,
            cookie: trace.cookie,
            netns: trace.netns,
            uid: trace.uid,
            ..ConnectAttempt::default()
        };
        if self.pending_ns.is_some() {
            self.in_flight.push_back((trace.at_ns, trace.skaddr));
        }
    }
}

/// The outcome as far as records show, and its error.
///
/// An RST is one in answer to the SYN, or to the SYN/ACK of a simultaneous open. Without one it may be a timeout, an
/// ICMP error or a close(), which only the socket's own fields tell apart.
fn outcome(trace: &trace_event, attempt: &ConnectAttempt) -> (Option<u8>, Errno) {
    match (trace.state, trace.old_state) {
        (ESTABLISHED, _) => (Some(OUTCOME_ESTABLISHED), Errno::UnknownErrno),
        // No packet was sent: connect() found no port.
        _ if trace.flow.lport == 0 => NO_PORT,
        (_, SYN_SENT) if attempt.reset => (Some(OUTCOME_REFUSED), Errno::ECONNREFUSED),
        (_, SYN_RECV) if attempt.reset => (Some(OUTCOME_RESET), Errno::ECONNRESET),
        _ => (None, Errno::UnknownErrno),
    }
}

/// connect() found no port, which the socket's error does not say.
const NO_PORT: (Option<u8>, Errno) = (Some(OUTCOME_NO_PORT), Errno::EADDRNOTAVAIL);

/// `outcome_of_error()` of tcpconnect.bpf.c.
fn outcome_of_error(err: u8, lport: u16) -> (Option<u8>, Errno) {
    let errno = Errno::from_raw(err.into());
    let outcome = match errno {
        _ if err == 0 && lport == 0 => return NO_PORT,
        _ if err == 0 => OUTCOME_ABORTED,
        Errno::ECONNABORTED => OUTCOME_ABORTED,
        Errno::ECONNREFUSED => OUTCOME_REFUSED,
        Errno::ECONNRESET => OUTCOME_RESET,
        Errno::ETIMEDOUT => OUTCOME_TIMEOUT,
        _ => OUTCOME_UNREACHABLE,
    };
    (Some(outcome), errno)
}

/// The row, and what is known of it.
fn row(attempt: &ConnectAttempt, at_ns: u64, outcome: Option<u8>, errno: Errno) -> (connect, u16) {
    let since = |start: u64| at_ns.saturating_sub(start);
    let was_sent = attempt.syn_retrans > 0 || attempt.reset || outcome == Some(OUTCOME_ESTABLISHED);
    let no_syn = errno == Errno::EADDRNOTAVAIL;
    let syn = if was_sent || no_syn {
        KNOWN_SYN_SENT
    } else {
        0
    };
    let known = outcome.map_or(0, |_| KNOWN_CAUSE) | syn;
    let row = connect {
        latency_ns: attempt.start_ns.map_or(u64::MAX, since),
        syn_retrans: attempt.syn_retrans,
        // One that failed, even if no bit says how.
        outcome: outcome.unwrap_or(OUTCOME_ABORTED),
        errno_: errno as u8,
        partial: attempt.partial.into(),
        syn_sent: (!no_syn).into(),
        ..connect::default()
    };
    (row, known)
}

impl Translate for Opens {
    type Tool = ConnectAttempt;

    fn tracepoints(&self) -> Vec<&'static str> {
        vec!["tcp:tcp_receive_reset", "tcp:tcp_retransmit_skb"]
    }

    fn blank(&self) -> &'static str {
        match self.errors {
            true => "the cookies of most opens stay blank",
            false => "the cookie stays blank, as does OUTCOME if an open fails without an RST",
        }
    }

    fn event(&mut self, event: Event<'_, ConnectAttempt>, out: &mut Out<'_>) {
        let (trace, Some(socket)) = (event.trace, event.socket) else {
            return;
        };
        let attempt = &mut socket.tool;
        // An open that was under way at the start.
        if attempt.start_ns.is_none()
            && trace.old_state == SYN_SENT
            && let Some(scanned_ns) = socket.scanned_ns
        {
            attempt.start_ns = Some(scanned_ns);
            attempt.partial = true;
        }
        match (trace.kind, trace.old_state, trace.state) {
            (trace_kind::RECEIVE_RESET, ..) => attempt.reset = true,
            (trace_kind::RETRANSMIT, _, SYN_SENT) if is_counted(trace.err) => {
                attempt.syn_retrans += 1;
                attempt.flow = trace.flow;
            }
            (trace_kind::STATE, _, SYN_SENT) => self.begin(trace, attempt),
            (trace_kind::STATE, SYN_SENT, new) if new != SYN_RECV => {}
            (trace_kind::STATE, SYN_RECV, _) if attempt.start_ns.is_some() => {}
            _ => return,
        }
        let ends = matches!(trace.old_state, SYN_SENT | SYN_RECV) && trace.state != SYN_RECV;
        if trace.kind != trace_kind::STATE || !ends {
            return;
        }
        let end = event.end.filter(|end| end.known & known::ERROR != 0);
        let (outcome, errno) = match end.filter(|_| trace.state == CLOSE) {
            Some(end) => outcome_of_error(end.err, trace.flow.lport),
            None => outcome(trace, attempt),
        };
        let (mut row, mut known) = row(attempt, trace.at_ns, outcome, errno);
        if let Some(end) = event.end.filter(|end| end.known & known::TCP != 0) {
            row.syn_retrans = end.total_retrans;
            row.syn_sent = (end.segs_out != 0).into();
            known |= KNOWN_SYN_SENT;
        }
        row.partial = (attempt.start_ns.is_none() || attempt.partial).into();
        *attempt = ConnectAttempt::default();
        if self.passes(&row, &trace.flow, &socket.owner, out.filter) {
            out.record(&row.with_head(&head(trace, &socket.owner, 0, known)));
        }
    }

    /// The oldest may have been answered meanwhile. What has just become old is shown once the records of before have
    /// been handed over, with the tick after the next one.
    fn due(&self) -> Option<Instant> {
        let (start_ns, _) = self.in_flight.front()?;
        let left = (start_ns + self.pending_ns?).saturating_sub(boot_ns());
        Some(Instant::now() + Duration::from_nanos(left).max(Duration::from_millis(1)))
    }

    fn tick(&mut self, until_ns: u64, sockets: &mut Sockets<ConnectAttempt>, out: &mut Out<'_>) {
        let Some(pending_ns) = self.pending_ns else {
            return;
        };
        while let Some(&(start_ns, skaddr)) = self.in_flight.front() {
            if start_ns + pending_ns > until_ns {
                break;
            }
            self.in_flight.pop_front();
            let Some(socket) = sockets.get(skaddr) else {
                continue;
            };
            let attempt = &mut socket.tool;
            // Otherwise it has ended, and another one begun.
            if attempt.start_ns != Some(start_ns) || attempt.pending {
                continue;
            }
            attempt.pending = true;
            let (row, known) = row(attempt, until_ns, Some(PENDING), Errno::UnknownErrno);
            let ConnectAttempt {
                flow,
                cookie,
                netns,
                uid,
                ..
            } = *attempt;
            let owner = socket.owner;
            if !self.passes(&row, &flow, &owner, out.filter) {
                continue;
            }
            let trace = trace_event {
                at_ns: until_ns,
                flow,
                cookie,
                netns,
                uid,
                ..trace_event::default()
            };
            out.record(&row.with_head(&head(&trace, &owner, 0, known)));
        }
    }
}
