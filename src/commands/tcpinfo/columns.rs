// SPDX-License-Identifier: MIT OR Apache-2.0
//! The columns of a socket's final statistics.

use std::mem::offset_of;
use std::sync::LazyLock;

use crate::abi::known::*;
use crate::abi::names::{INFINITE_SSTHRESH, ca_state_name, errno, tcp_state};
use crate::kernel::sock_diag::TcpInfo;
use crate::output::Column;
use crate::output::column::*;
use crate::output::schema::Kind;
use crate::output::units::*;
use crate::output::value::Value;
use crate::{by_number, enumerators};

use super::bpf::types::{info, usage};

/// The row's `event` in JSON.
const EVENTS: [&str; 4] = by_number! { usage:
    USE_NONE => "unused",
    USE_LISTENER => "listener",
    USE_ATTEMPT => "attempt",
    USE_CONNECTION => "connection",
};
enumerators! { usage as u16:
    pub(super) UNUSED = USE_NONE,
    pub(super) LISTENER = USE_LISTENER,
    pub(super) ATTEMPT = USE_ATTEMPT,
    pub(super) CONNECTION = USE_CONNECTION,
}

/// `TCPI_OPT_*` of include/uapi/linux/tcp.h by bit, in the words of ss.
const OPTIONS: [Option<&str>; 8] = [
    Some("ts"),
    Some("sack"),
    Some("wscale"),
    Some("ecn"),
    Some("ecnseen"),
    Some("fastopen"),
    None,
    Some("fastopen_child"),
];

pub(super) fn columns() -> Vec<Column<info>> {
    columns! { |row, s: info|
        "pid"               TEXT   "PID"      (5, 7)    => pid(row);
        "comm"              TEXT   "COMM"     (7, 16)   => comm(row);
        "laddr"             TEXT   "LADDR"    (15, 39)  => laddr(row);
        "lport"             TEXT   "LPORT"    (5, 5)    => lport(row);
        "raddr"             TEXT   "RADDR"    (15, 39)  => raddr(row);
        "rport"             TEXT   "RPORT"    (5, 5)    => rport(row);
        "state"             JSON   "STATE"    (11, 11)  => tcp_state(s.state);
        "errno"             JSON  if KNOWN_SOCKET       => unless(s.error.unsigned_abs(), 0);
        "error"             JSON  if KNOWN_SOCKET       => u8::try_from(s.error.unsigned_abs()).ok().and_then(errno);
        "duration_us"       DETAIL "MS"       (8, 8).right  => micros(unless(s.duration_ns / 1000, 0));
        "closed_us"         JSON                            => micros(row.head.boot_ns.saturating_sub(s.close_ns) / 1000);
        "uses"              JSON.right                      => unless(s.uses, u32::MAX);

        "bytes_sent"        JSON   "SENT_KB"  (7, 7).right  if KNOWN_BYTES_SENT => bytes(s.bytes_sent);
        "bytes_acked"       ALL    "ACKED"    (5, 7).right  if KNOWN_INET_DIAG  => bytes(s.bytes_acked);
        "bytes_received"    ALL    "RECVD"    (5, 7).right  if KNOWN_INET_DIAG  => bytes(s.bytes_received);
        "bytes_retrans"     JSON   "RETR_KB"  (7, 7).right  if KNOWN_BYTES_SENT => bytes(s.bytes_retrans);
        "segs_out"          JSON.right                      if KNOWN_INET_DIAG  => s.segs_out;
        "segs_in"           JSON.right                      if KNOWN_INET_DIAG  => s.segs_in;
        "data_segs_out"     JSON.right                      if KNOWN_INET_DIAG  => s.data_segs_out;
        "data_segs_in"      JSON.right                      if KNOWN_INET_DIAG  => s.data_segs_in;
        "total_retrans"     ALL    "RETR"     (4, 5).right  if KNOWN_INET_DIAG  => s.total_retrans;
        "total_rto"         JSON.right                      if KNOWN_TOTAL_RTO  => unless(s.total_rto, u32::MAX);
        "retransmits"       JSON.right                      if KNOWN_INET_DIAG  => s.retransmits;
        "backoff"           JSON.right                      if KNOWN_SOCKET     => s.backoff;
        "packets_out"       JSON.right                      if KNOWN_SOCKET     => s.unacked;
        "sacked_out"        JSON.right                      if KNOWN_INET_DIAG  => s.sacked;
        "lost_out"          JSON.right                      if KNOWN_INET_DIAG  => s.lost;
        "retrans_out"       JSON.right                      if KNOWN_INET_DIAG  => s.retrans;
        "notsent_bytes"     JSON.right                      if KNOWN_INET_DIAG  => bytes(s.notsent);
        "delivered"         JSON.right                      if KNOWN_DELIVERED  => s.delivered;
        "delivered_ce"      JSON.right                      if KNOWN_DELIVERED  => s.delivered_ce;
        "dsack_dups"        JSON   "DSACK"    (5, 5).right  if KNOWN_BYTES_SENT => s.dsack_dups;
        "reord_seen"        JSON   "REORD"    (5, 5).right  if KNOWN_BYTES_SENT => s.reord_seen;
        "reordering"        JSON.right                      if KNOWN_INET_DIAG  => s.reordering;
        "rcv_ooopack"       JSON.right                      if KNOWN_SND_WND    => s.rcv_ooopack;

        "srtt_us"           ALL    "RTT"      (5, 6).right  if KNOWN_INET_DIAG  => micros(unless(s.rtt_us, 0));
        "rttvar_us"         JSON   "RTTVAR"   (6, 6).right  if KNOWN_INET_DIAG  => micros(unless(s.rtt_us, 0).and(Some(s.rttvar_us)));
        "min_rtt_us"        JSON   "MINRTT"   (6, 6).right  if KNOWN_INET_DIAG  => micros(unless(s.min_rtt_us, u32::MAX));
        "rcv_rtt_us"        JSON.right                      if KNOWN_INET_DIAG  => micros(unless(s.rcv_rtt_us, 0));
        "rto_us"            JSON   "RTO"      (6, 6).right  if KNOWN_INET_DIAG  => micros(s.rto_us);
        "busy_time_us"      DETAIL "BUSY"     (6, 6).right  if KNOWN_INET_DIAG  => micros(unless(s.busy_us, u64::MAX));
        "rwnd_limited_us"   DETAIL "RWNDLIM"  (7, 7).right  if KNOWN_INET_DIAG  => micros(unless(s.rwnd_limited_us, u64::MAX));
        "sndbuf_limited_us" DETAIL "SNDBUFLIM" (9, 9).right if KNOWN_INET_DIAG  => micros(unless(s.sndbuf_limited_us, u64::MAX));
        "last_data_sent_us" JSON.right                      if KNOWN_SOCKET     => ago(s.data_segs_out, s.last_data_sent_ms);
        "last_data_recv_us" JSON.right                      if KNOWN_SOCKET     => ago(s.data_segs_in, s.last_data_recv_ms);
        "last_ack_recv_us"  JSON.right                      if KNOWN_SOCKET     => ago(s.segs_in, s.last_ack_recv_ms);

        "ca_name"           JSON   "CA"       (8, 8)        if KNOWN_SOCKET     => kernel_name(&s.ca_name);
        "ca_state"          JSON   "CASTATE"  (8, 8)        if KNOWN_INET_DIAG  => ca_state_name(s.ca_state);
        "snd_cwnd"          JSON   "CWND"     (5, 5).right  if KNOWN_INET_DIAG  => s.snd_cwnd;
        "ssthresh"          JSON   "SSTHRESH" (8, 8).right  if KNOWN_INET_DIAG  => unless(s.snd_ssthresh, INFINITE_SSTHRESH);
        "mss"               JSON   "MSS"      (5, 5).right  if KNOWN_INET_DIAG  => s.snd_mss;
        "rcv_mss"           JSON.right                      if KNOWN_INET_DIAG  => s.rcv_mss;
        "advmss"            JSON.right                      if KNOWN_INET_DIAG  => s.advmss;
        "pmtu"              JSON.right                      if KNOWN_INET_DIAG  => s.pmtu;
        "snd_wscale"        JSON   "SWS"      (3, 3).right  if KNOWN_INET_DIAG  => scale(s, s.snd_wscale);
        "rcv_wscale"        JSON   "RWS"      (3, 3).right  if KNOWN_INET_DIAG  => scale(s, s.rcv_wscale);
        "snd_wnd_bytes"     JSON.right                      if KNOWN_SND_WND    => bytes(s.snd_wnd);
        "rcv_wnd_bytes"     JSON.right                      if KNOWN_RCV_WND    => bytes(s.rcv_wnd);
        "rcv_ssthresh_bytes" JSON.right                     if KNOWN_INET_DIAG  => bytes(s.rcv_ssthresh);
        "rcv_space_bytes"   JSON.right                      if KNOWN_INET_DIAG  => bytes(s.rcv_space);
        "pacing_rate_bytes_per_s"   JSON.right              if KNOWN_INET_DIAG  => rate(unless(s.pacing_rate, u64::MAX));
        "delivery_rate_bytes_per_s" JSON   "MBIT/S" (6, 6).right if KNOWN_INET_DIAG => rate(unless(s.delivery_rate, 0).or_else(|| delivery_rate(s.rate_delivered, s.snd_mss, s.rate_interval_us)));
        "delivery_rate_app_limited" JSON                    if KNOWN_INET_DIAG  => s.app_limited != 0;
        "options"           JSON   "OPTIONS"  (16, 16)      if KNOWN_INET_DIAG  => options(s.options);
    }
}

/// How long before CLOSE something last happened, if it ever did.
fn ago(count: u32, ms: u32) -> Value<'static> {
    micros((count != 0).then_some(u64::from(ms) * 1000))
}

/// The shift is defined only where both ends offered the option.
fn scale(body: &info, shift: u8) -> Option<u8> {
    (body.options >> 2 & 1 != 0).then_some(shift)
}

/// The words of all combinations, made once: a row allocates nothing.
fn options(bits: u32) -> Option<&'static str> {
    static WORDS: LazyLock<[String; 256]> = LazyLock::new(|| {
        std::array::from_fn(|bits| {
            let set = OPTIONS
                .iter()
                .enumerate()
                .filter(|(i, _)| bits >> i & 1 == 1);
            set.filter_map(|(_, word)| *word)
                .collect::<Vec<_>>()
                .join(" ")
        })
    });
    unless(WORDS[bits as usize & 0xff].as_str(), "")
}

/// What `struct tcp_info` has of this length, in bytes: it grows with the kernel.
pub(super) const fn known_of(info_bytes: usize) -> u16 {
    const FIELDS: [(usize, u16); 6] = [
        (offset_of!(TcpInfo, delivery_rate), KNOWN_INET_DIAG),
        (offset_of!(TcpInfo, delivered), KNOWN_DELIVERED),
        (offset_of!(TcpInfo, bytes_sent), KNOWN_BYTES_SENT),
        (offset_of!(TcpInfo, snd_wnd), KNOWN_SND_WND),
        (offset_of!(TcpInfo, rcv_wnd), KNOWN_RCV_WND),
        (offset_of!(TcpInfo, total_rto), KNOWN_TOTAL_RTO),
    ];
    let (mut known, mut i) = (0, 0);
    while i < FIELDS.len() && info_bytes > FIELDS[i].0 {
        known |= FIELDS[i].1;
        i += 1;
    }
    known
}

pub(super) fn event(body: &info) -> &'static str {
    EVENTS.get(body.head.event as usize).unwrap_or(&EVENTS[0])
}

/// Every kind of row, with its columns.
pub(super) fn kinds() -> Vec<Kind> {
    const INFO: u16 = known_of(size_of::<TcpInfo>());
    let modes = [
        PROGRAMS,
        with_btf(INFO),
        inet_diag(KNOWN_NETNS | INFO),
        records(0),
    ];
    EVENTS
        .map(|event| Kind::row(event, &columns()).known(&modes))
        .into()
}
