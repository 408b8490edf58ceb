// SPDX-License-Identifier: MIT OR Apache-2.0
//! One connection: what the kernel keeps of it now, and how it went.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Sparkline, Widget};

use super::super::columns::timer_name;
use super::super::flag;
use super::super::traffic::Connection;
use super::paint::{Look, lines, split, value};
use super::state::Opened;
use super::text::{peer, shown};
use crate::abi::known::{KNOWN_RCV_WND, KNOWN_SOCKET};
use crate::abi::names::{ca_state_name, tcp_state};
use crate::output::Row;
use crate::output::column::{comm, local_end, pid, remote_end};
use crate::output::units::{Number, bytes, kernel_name, micros, micros_since, per_second, unless};

/// A label and what it is of.
type Fact = (&'static str, String);

pub(super) fn facts(one: &Connection) -> Vec<Fact> {
    let mut all = identity(one);
    all.extend(progress(one));
    all.extend(kept(one));
    all
}

fn ms(us: impl Number) -> String {
    value(&micros(us), "ms")
}

fn kib(n: impl Number) -> String {
    value(&bytes(n), "KiB")
}

fn identity(one: &Connection) -> Vec<Fact> {
    let (row, c) = (Row::from(one), &one.conn);
    let opened_before = c.flags & flag::OPENED_BEFORE != 0;
    let age = c.head.boot_ns.saturating_sub(c.start_ns) / 1000;
    let age = value(&micros_since(age, opened_before), "ms");
    let why = one.why();
    let reason = match why.text() {
        Some(text) => {
            let time = value(&micros_since(why.us, why.at_least), "ms");
            format!("{text}, for {time}")
        }
        None => "-".into(),
    };
    let ended = if one.is_closed() { ", ended" } else { "" };
    let (pid, comm) = (shown(&pid(&row)), shown(&comm(&row)));
    let owner = format!("{pid} {comm}, uid {}, netns {}", c.head.uid, c.head.netns);
    let mut all = vec![("owner", owner)];
    all.extend(peer(one).map(|peer| ("peer", peer)));
    all.extend([
        ("local", shown(&local_end(&row))),
        ("remote", shown(&remote_end(&row))),
        (
            "state",
            format!("{}{ended}, open for {age}", tcp_state(c.state)),
        ),
        ("why", reason),
    ]);
    all
}

#[rustfmt::skip] // one fact per line
fn progress(one: &Connection) -> Vec<Fact> {
    let c = &one.conn;
    let rate = |bytes| shown(&per_second(bytes, one.interval_us));
    let (tx, rx) = (rate(one.tx), rate(one.rx));
    let ago = |count: u32, at: u32| match count {
        0 => "never".into(),
        _ => format!("{} ago", ms(u64::from(at) * 1000)),
    };
    let sent = ago(c.data_segs_out, c.last_data_sent_ms);
    let received = ago(c.data_segs_in, c.last_data_recv_ms);
    let timer = match c.timer {
        0 => "off".into(),
        timer => {
            let name = timer_name(timer).unwrap_or("?");
            format!("{name}, due in {}", ms(c.timer_us))
        }
    };
    let (retransmits, backoff, probes) = (c.retransmits, c.backoff, c.probes);
    let (unacked, lost, again) = (c.unacked, c.lost_out, c.retrans_out);
    vec![
        ("rates", format!("sent {tx}, received {rx} Mbit/s")),
        ("send queue", format!("{}, not sent {}", kib(c.wqueue), kib(c.notsent))),
        ("receive queue", kib(c.rqueue)),
        ("in flight", format!("{unacked} segments, {lost} lost, {again} sent again")),
        ("timer", format!("{timer}; {retransmits} timeouts, {backoff} backoffs, {probes} probes")),
        ("last", format!("sent {sent}, received {received}, ACK {}", ago(1, c.last_ack_recv_ms))),
    ]
}

#[rustfmt::skip] // one fact per line
fn kept(one: &Connection) -> Vec<Fact> {
    let c = &one.conn;
    let yes = |bit: u8| if c.flags & bit != 0 { "yes" } else { "no" };
    let (keepalive, nodelay, cork) = (yes(flag::KEEPALIVE), yes(flag::NODELAY), yes(flag::CORK));
    let algorithm = kernel_name(&c.ca_name).unwrap_or("-");
    let phase = ca_state_name(c.ca_state).unwrap_or("-");
    let (rtt, least) = (unless(c.rtt_us, 0), unless(c.min_rtt_us, u32::MAX));
    let (rwnd, sndbuf) = (ms(c.rwnd_limited_us), ms(c.sndbuf_limited_us));
    let (sent, again) = (kib(c.bytes_sent), kib(c.bytes_retrans));
    let (acked, received) = (kib(c.bytes_acked), kib(c.bytes_received));
    let ours = if c.head.known & KNOWN_RCV_WND == 0 { "-".into() } else { kib(c.rcv_wnd) };
    let mut all = vec![
        ("windows", format!("theirs {}, ours {ours}", kib(c.snd_wnd))),
        ("cwnd", format!("{} segments of {} bytes, {algorithm}, {phase}", c.snd_cwnd, c.snd_mss)),
        ("rtt", format!("{}, least {}, RTO {}", ms(rtt), ms(least), ms(c.rto_us))),
        ("busy", format!("{}, limited by their window {rwnd}, by the send buffer {sndbuf}", ms(c.busy_us))),
        ("bytes", format!("sent {sent} (again {again}), acknowledged {acked}, received {received}")),
    ];
    let only_of_the_socket = [
        ("buffers", format!("received {} of {}, to send {} of {}", kib(c.rmem_alloc), kib(c.rcvbuf), kib(c.wmem_queued), kib(c.sndbuf))),
        ("options", format!("keepalive {keepalive}, nodelay {nodelay}, cork {cork}; cgroup {}", c.cgroup)),
    ];
    if c.head.known & KNOWN_SOCKET != 0 {
        all.extend(only_of_the_socket);
    }
    all
}

const LABEL: usize = 15;

/// In two columns where there is room; the history below, if lines are left.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, opened: &Opened, look: Look) {
    let facts = facts(&opened.last);
    let double = area.width >= 150;
    let columns: u16 = if double { 2 } else { 1 };
    let per_column = facts.len().div_ceil(columns.into());
    let charts = area.height.saturating_sub(per_column as u16);
    let (text, rest) = split(area, area.height - charts.min(area.height));
    for (n, part) in facts.chunks(per_column).enumerate() {
        let width = text.width / columns;
        let at = Rect {
            x: text.x + width * n as u16,
            width,
            ..text
        };
        let fact = |(label, fact): &Fact| {
            let why = *label == "why" && fact != "-";
            let style = if why {
                look.wrong()
            } else {
                Default::default()
            };
            let label = Span::styled(format!("{label:LABEL$} "), look.strong());
            Text::from(vec![label, Span::styled(fact.clone(), style)])
        };
        lines(frame, at, &part.iter().map(fact).collect::<Vec<_>>());
    }
    history(frame, rest, opened, look);
}

/// A line per history, the newest point at the right.
fn history(frame: &mut Frame<'_>, area: Rect, opened: &Opened, look: Look) {
    let names = ["sent", "received", "cwnd", "rtt"];
    let mut rest = area;
    for (name, points) in names.into_iter().zip(&opened.history) {
        let (line, below) = split(rest, 1);
        rest = below;
        if line.height == 0 {
            return;
        }
        let label = Text::styled(format!("{name:LABEL$} "), look.strong());
        lines(frame, line, &[label]);
        let at = LABEL as u16 + 1;
        let chart = Rect {
            x: line.x + at,
            width: line.width.saturating_sub(at),
            ..line
        };
        let skip = points.len().saturating_sub(chart.width.into());
        let points: Vec<u64> = points.iter().skip(skip).copied().collect();
        Sparkline::default()
            .data(points)
            .render(chart, frame.buffer_mut());
    }
}
