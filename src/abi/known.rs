// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which fields of a record have a value: `head.known`. The programs of a kernel with type information fill all of them;
//! where only tracepoints' records are read, [`crate::fallback`] sets the bits of what it has.
//!
//! No command has both of two bits with the same number.
//!
//! A column says what it needs ([`Column::needs`](crate::output::Column::needs)), and is unknown without it.

/// Everything: `KNOWN_ALL` of filter.bpf.h.
pub const KNOWN_ALL: u16 = u16::MAX;
/// `head.netns`.
pub const KNOWN_NETNS: u16 = 1;
/// `head.uid`.
pub const KNOWN_UID: u16 = 1 << 1;
/// What only the socket itself has, at the time of the event.
pub const KNOWN_SOCKET: u16 = 1 << 2;
/// `sk_err`.
pub const KNOWN_ERROR: u16 = 1 << 3;
/// What inet_diag has too: `struct tcp_info` up to `tcpi_delivery_rate`, as of Linux 4.9.
pub const KNOWN_INET_DIAG: u16 = 1 << 4;
/// `struct tcp_info` from `tcpi_bytes_sent` to `tcpi_reord_seen`, as of Linux 4.19.
pub const KNOWN_BYTES_SENT: u16 = 1 << 5;
/// `tcpi_rcv_ooopack` and `tcpi_snd_wnd`, as of Linux 5.4.
pub const KNOWN_SND_WND: u16 = 1 << 6;
/// `tcpi_rcv_wnd`, as of Linux 6.2.
pub const KNOWN_RCV_WND: u16 = 1 << 7;
/// `tcpi_total_rto`, as of Linux 6.7.
pub const KNOWN_TOTAL_RTO: u16 = 1 << 8;
/// The bytes of the application.
pub const KNOWN_BYTES: u16 = 1 << 9;
/// What tells how a session ended.
pub const KNOWN_ENDED: u16 = 1 << 10;
/// The packet that is answered.
pub const KNOWN_PACKET: u16 = 1 << 9;
/// Why: the outcome of an open, the kind of a retransmission, the cause of a refusal.
pub const KNOWN_CAUSE: u16 = 1 << 9;
/// Whether a SYN left.
pub const KNOWN_SYN_SENT: u16 = 1 << 10;
/// `sk_rmem_alloc`.
pub const KNOWN_RMEM: u16 = 1 << 11;
/// When data was last sent and received.
pub const KNOWN_IDLE: u16 = 1 << 11;
/// `sk_wmem_alloc` and `sk_wmem_queued`.
pub const KNOWN_WMEM: u16 = 1 << 12;
/// `sk_rcvbuf`.
pub const KNOWN_RCVBUF: u16 = 1 << 13;
/// `sk_protocol`.
pub const KNOWN_PROTOCOL: u16 = 1 << 14;
/// `tcpi_delivered` and `tcpi_delivered_ce`, as of Linux 4.18.
pub const KNOWN_DELIVERED: u16 = 1 << 15;

/// A way to run, and what every row of it has: of a row more may be known, never less.
pub type Mode = (&'static str, u16);

/// The kernel has type information: [`KNOWN_ALL`].
pub const PROGRAMS: Mode = ("programs", KNOWN_ALL);

/// Only the records of tracepoints.
pub const fn records(known: u16) -> Mode {
    ("records", known)
}

/// Records, completed by inet_diag.
pub const fn inet_diag(known: u16) -> Mode {
    ("inet_diag", known)
}

/// Records, completed from the sockets themselves by the types of a file.
pub const fn with_btf(known: u16) -> Mode {
    ("btf", known | KNOWN_NETNS | KNOWN_UID)
}
