// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a connection does not move, from what the kernel keeps of it now and what changed in an interval.

use std::sync::LazyLock;

use crate::abi::names::{
    ca_state::{LOSS, RECOVERY},
    state::{CLOSE_WAIT, ESTABLISHED, SYN_RECV, SYN_SENT},
};

use super::bpf::types::conn;
use super::{flag, timer};

/// What keeps this end from sending, or its data from arriving: at most one.
pub(super) mod send {
    pub(in super::super) const NOTHING: u8 = 0;
    /// The other end's receive window has no room for the next segment: its application does not read.
    pub(in super::super) const ZERO_WINDOW: u8 = 1;
    /// What was sent is not acknowledged.
    pub(in super::super) const NO_ACK: u8 = 2;
    /// Segments are lost and sent again, and some arrive.
    pub(in super::super) const RETRANSMITTING: u8 = 3;
    /// Less than a segment waits for the acknowledgement of the one before (RFC 9293, 3.7.4).
    pub(in super::super) const NAGLE: u8 = 4;
    /// The application holds it back, with TCP_CORK or MSG_MORE.
    pub(in super::super) const CORK: u8 = 5;
    /// The send buffer is too small for what the network would take.
    pub(in super::super) const SNDBUF: u8 = 6;
    /// The other end's window is too small for that.
    pub(in super::super) const RWND: u8 = 7;
}

/// What this end's application leaves undone: at most one.
pub(super) mod receive {
    pub(in super::super) const NOTHING: u8 = 0;
    /// No process has accepted the connection.
    pub(in super::super) const UNACCEPTED: u8 = 1;
    /// It does not read what has come.
    pub(in super::super) const UNREAD: u8 = 2;
    /// The other end has closed, it has not.
    pub(in super::super) const CLOSE_WAIT: u8 = 3;
}

/// Why nothing happens though nothing is in the way: at most one, and only then.
pub(super) mod quiet {
    pub(in super::super) const NOTHING: u8 = 0;
    /// This end opened the connection, and has had no answer to what it sent last.
    pub(in super::super) const NO_ANSWER: u8 = 1;
    /// The other end opened it, and what it sent last was read and not answered.
    pub(in super::super) const UNANSWERED: u8 = 2;
    /// Neither end sends, and without keepalive nobody would notice that the other one is gone.
    pub(in super::super) const IDLE: u8 = 3;
}

const SEND: [&str; 8] = [
    "",
    "zero_window",
    "no_ack",
    "retransmitting",
    "nagle",
    "cork",
    "sndbuf",
    "rwnd",
];
const RECEIVE: [&str; 4] = ["", "unaccepted", "unread", "close_wait"];
const QUIET: [&str; 4] = ["", "no_answer", "unanswered", "idle"];

/// Every reason, in the order in which they are decided and shown.
#[cfg(test)]
pub(super) fn words() -> impl Iterator<Item = &'static str> {
    let all = SEND.into_iter().chain(RECEIVE).chain(QUIET);
    all.chain(["orphan"]).filter(|word| !word.is_empty())
}

/// The reasons, and for how long the first of them has been one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Why {
    pub(super) send: u8,
    pub(super) receive: u8,
    pub(super) quiet: u8,
    /// The process has closed it; the kernel still sends, or waits for the other end.
    pub(super) orphan: u8,
    /// Microseconds.
    pub(super) us: u64,
    /// It may be longer.
    pub(super) at_least: bool,
}

impl Why {
    /// What [`text`](Self::text) says.
    pub(super) fn parse(text: &str) -> Self {
        let mut why = Self::default();
        for word in text.split(' ').filter(|word| !word.is_empty()) {
            let of = |words: &[&str]| words.iter().position(|one| *one == word);
            let place = |words| of(words).unwrap_or_default() as u8;
            why.send |= place(&SEND);
            why.receive |= place(&RECEIVE);
            why.quiet |= place(&QUIET);
            why.orphan |= u8::from(word == "orphan");
        }
        why
    }

    /// The reasons in words; `None`: there is none.
    pub(super) fn text(&self) -> Option<&'static str> {
        static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
            let text = |index: usize| {
                let words = [
                    SEND[index >> 5 & 7],
                    RECEIVE[index >> 3 & 3],
                    QUIET[index >> 1 & 3],
                    if index & 1 == 1 { "orphan" } else { "" },
                ];
                let words = words.into_iter().filter(|word| !word.is_empty());
                words.collect::<Vec<_>>().join(" ")
            };
            (0..256).map(text).collect()
        });
        let index = usize::from(self.send & 7) << 5
            | usize::from(self.receive & 3) << 3
            | usize::from(self.quiet & 3) << 1
            | usize::from(self.orphan & 1);
        TEXTS
            .get(index)
            .map(String::as_str)
            .filter(|t| !t.is_empty())
    }

    /// Whether something is in the way; not if it is only quiet.
    pub(super) fn is_stuck(&self) -> bool {
        self.send != send::NOTHING || self.receive != receive::NOTHING || self.orphan != 0
    }

    /// Whether there is a reason at all.
    pub(super) fn is_any(&self) -> bool {
        self.is_stuck() || self.quiet != quiet::NOTHING
    }
}

/// What was seen of a connection besides its present state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Course {
    /// The time since it was looked at before; 0: it was not.
    pub(super) interval_us: u64,
    /// In this time: limited by the other end's window, by the send buffer; segments sent again.
    pub(super) rwnd_limited_us: u64,
    pub(super) sndbuf_limited_us: u64,
    pub(super) retrans: u32,
    /// For how long it has been seen with data to be acknowledged, and nothing was.
    pub(super) unacked_us: u64,
    /// For how long it has been seen with bytes to read, and none were read.
    pub(super) unread_us: u64,
}

/// A round trip and a delayed ACK are no stall, nor is a process that waits for its turn.
const LEAST_US: u64 = 200_000;
/// Nobody waits for an answer for long, but a second of silence is none yet.
const IDLE_US: u64 = 1_000_000;
const NO_ACK_US: u64 = 1_000_000;

fn micros(ms: u32) -> u64 {
    u64::from(ms) * 1000
}

fn has(now: &conn, bit: u8) -> bool {
    now.flags & bit != 0
}

/// How long ago data was sent or received; `None`: never.
fn sent_us(now: &conn) -> Option<u64> {
    (now.data_segs_out != 0).then(|| micros(now.last_data_sent_ms))
}

fn received_us(now: &conn) -> Option<u64> {
    (now.data_segs_in != 0).then(|| micros(now.last_data_recv_ms))
}

fn age_us(now: &conn) -> u64 {
    now.head.boot_ns.saturating_sub(now.start_ns) / 1000
}

/// For how long nothing was acknowledged: not longer than since the last ACK, nor than there was something to acknowledge.
fn no_ack_us(now: &conn, course: &Course) -> u64 {
    let ack = match now.state {
        SYN_SENT => age_us(now),
        _ => micros(now.last_ack_recv_ms),
    };
    let busy = if now.chrono == 0 { ack } else { now.chrono_us };
    ack.min(busy).max(course.unacked_us)
}

fn is_zero_window(now: &conn) -> bool {
    let next = now.notsent.min(now.snd_mss);
    now.notsent != 0 && now.unacked == 0 && now.snd_wnd < next
}

fn is_retransmitting(now: &conn, course: &Course) -> bool {
    let recovers = matches!(now.ca_state, RECOVERY | LOSS);
    let lost = now.lost_out | now.retrans_out | u32::from(now.retransmits);
    now.unacked != 0 && (recovers || lost != 0) || course.retrans != 0 && now.wqueue != 0
}

/// Of which the rest waits: less than a segment, though window and congestion window have room.
fn holds_back(now: &conn) -> bool {
    now.notsent != 0
        && now.notsent < now.snd_mss
        && now.wqueue <= now.snd_wnd
        && now.unacked < now.snd_cwnd
}

fn sending(now: &conn, course: &Course) -> (u8, u64, bool) {
    let no_ack = no_ack_us(now, course);
    let answers = u64::from(now.rtt_us).saturating_mul(2);
    let probing = now.timer == timer::KEEPALIVE && now.probes != 0;
    let half = course.interval_us / 2;
    let limited = |us: u64| course.interval_us != 0 && us > half;
    if is_zero_window(now) {
        let us = match now.chrono {
            2 => now.chrono_us,
            _ => course.unacked_us,
        };
        return (send::ZERO_WINDOW, us, now.chrono != 2);
    }
    if now.unacked != 0 && no_ack >= NO_ACK_US && (now.retransmits != 0 || no_ack > answers) {
        return (send::NO_ACK, no_ack, now.chrono > 1);
    }
    if probing {
        let heard = micros(now.last_ack_recv_ms).min(received_us(now).unwrap_or(u64::MAX));
        return (send::NO_ACK, heard, false);
    }
    if is_retransmitting(now, course) {
        return (send::RETRANSMITTING, no_ack, true);
    }
    if holds_back(now) && has(now, flag::CORK) {
        return (send::CORK, now.chrono_us, true);
    }
    if holds_back(now)
        && now.unacked != 0
        && now.wqueue.saturating_sub(now.notsent) < now.snd_mss
        && !has(now, flag::NODELAY)
    {
        return (send::NAGLE, micros(now.last_data_sent_ms), false);
    }
    if limited(course.sndbuf_limited_us) {
        return (send::SNDBUF, course.sndbuf_limited_us, true);
    }
    if limited(course.rwnd_limited_us) {
        return (send::RWND, course.rwnd_limited_us, true);
    }
    (send::NOTHING, 0, false)
}

fn receiving(now: &conn, course: &Course) -> (u8, u64, bool) {
    // A FIN counts as one byte to read.
    let fin = u32::from(now.state == CLOSE_WAIT);
    let waits = age_us(now).min(micros(now.last_ack_recv_ms));
    if has(now, flag::UNACCEPTED) && waits >= LEAST_US && now.state != SYN_RECV {
        return (receive::UNACCEPTED, waits, true);
    }
    let unread = received_us(now).unwrap_or_default().max(course.unread_us);
    if now.rqueue > fin && unread >= LEAST_US && !has(now, flag::ORPHAN) {
        return (receive::UNREAD, unread, true);
    }
    let closed = micros(now.last_ack_recv_ms);
    if now.state == CLOSE_WAIT && closed >= LEAST_US {
        return (receive::CLOSE_WAIT, closed, true);
    }
    (receive::NOTHING, 0, false)
}

fn resting(now: &conn) -> (u8, u64) {
    let (sent, received) = (sent_us(now), received_us(now));
    let quiet = [sent, received].into_iter().flatten().min();
    let quiet_us = quiet.unwrap_or_else(|| age_us(now));
    if now.state != ESTABLISHED || now.wqueue != 0 || quiet_us < LEAST_US {
        return (quiet::NOTHING, 0);
    }
    let later = |a: Option<u64>, b: Option<u64>| a.is_some_and(|a| b.is_none_or(|b| a < b));
    if has(now, flag::ACTIVE_OPEN) && later(sent, received) {
        return (quiet::NO_ANSWER, quiet_us);
    }
    if !has(now, flag::ACTIVE_OPEN) && later(received, sent) {
        return (quiet::UNANSWERED, quiet_us);
    }
    if !has(now, flag::KEEPALIVE) && quiet_us >= IDLE_US {
        return (quiet::IDLE, quiet_us);
    }
    (quiet::NOTHING, 0)
}

/// The reasons why it does not move.
pub(super) fn why(now: &conn, course: &Course) -> Why {
    let (send, send_us, send_more) = sending(now, course);
    let (receive, receive_us, receive_more) = receiving(now, course);
    let orphan = has(now, flag::ORPHAN);
    let stuck = send != send::NOTHING || receive != receive::NOTHING || orphan;
    let (quiet, quiet_us) = if stuck {
        (quiet::NOTHING, 0)
    } else {
        resting(now)
    };
    let (us, at_least) = match () {
        () if send != send::NOTHING => (send_us, send_more),
        () if receive != receive::NOTHING => (receive_us, receive_more),
        () if orphan => (micros(now.last_ack_recv_ms), true),
        () => (quiet_us, false),
    };
    Why {
        send,
        receive,
        quiet,
        orphan: orphan.into(),
        us,
        at_least,
    }
}
