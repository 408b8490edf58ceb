/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The records of the classic tracepoints, as far as they are read, under names of our own: `record_<event>`. Userspace
 * makes a BTF of the running kernel's /sys/kernel/tracing/events/.../format with these names (src/record/format.rs),
 * so the offsets are the kernel's, whatever its release, and what its record lacks is known.
 */
#ifndef TCPTOOLS_RECORD_BPF_H
#define TCPTOOLS_RECORD_BPF_H

#include "filter.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* sock:inet_sock_set_state */
struct record_inet_sock_set_state {
	const void *skaddr;
	int oldstate;
	int newstate;
	__u16 sport;
	__u16 dport;
	__u16 protocol; /* a byte until 5.5 */
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
};

/* tcp:tcp_retransmit_skb */
struct record_tcp_retransmit_skb {
	const void *skaddr;
	int state; /* since 5.0 */
	__u16 sport;
	__u16 dport;
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
	int err; /* since 6.16; before it only what was sent is reported */
};

/* tcp:tcp_retransmit_synack */
struct record_tcp_retransmit_synack {
	const void *skaddr; /* the listener's */
	__u16 sport;
	__u16 dport;
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
};

/* tcp:tcp_send_reset */
struct record_tcp_send_reset {
	const void *skaddr;
	int state; /* since 5.0 */
	__u16 sport; /* until 6.9, as the addresses of 16 bytes */
	__u16 dport;
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
	__u8 saddr[28]; /* since 6.10, which are struct sockaddr_in or _in6; before it 4 bytes */
	__u8 daddr[28];
	int reason; /* since 6.10 */
};

/* tcp:tcp_receive_reset, tcp:tcp_destroy_sock, tcp:tcp_rcv_space_adjust */
struct record_tcp_receive_reset {
	const void *skaddr;
	__u16 sport;
	__u16 dport;
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
	__u64 sock_cookie;
};

struct record_tcp_destroy_sock {
	const void *skaddr;
	__u16 sport;
	__u16 dport;
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
	__u64 sock_cookie;
};

struct record_tcp_rcv_space_adjust {
	const void *skaddr;
	__u16 sport;
	__u16 dport;
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
	__u64 sock_cookie;
};

/* tcp:tcp_probe */
struct record_tcp_probe {
	__u8 saddr[28]; /* struct sockaddr_in or _in6 */
	__u8 daddr[28];
	__u16 sport;
	__u16 dport;
	__u32 data_len; /* 16 bits in 4.18 */
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 snd_cwnd;
	__u32 ssthresh; /* tcp_current_ssthresh(), not snd_ssthresh */
	__u32 snd_wnd;
	__u32 srtt;
	__u32 rcv_wnd;
	__u64 sock_cookie;
	const void *skaddr; /* since 6.10 */
};

#pragma clang attribute pop

/* What happened. */
enum seen_kind { SEEN_STATE, SEEN_RETRANSMIT, SEEN_SYNACK, SEEN_SEND_RESET, SEEN_RECEIVE_RESET, SEEN_DESTROY, SEEN_READ, SEEN_PROBE };

/* One record of any of them. What a kernel's record lacks is 0. */
struct seen {
	__u64 at_ns;  /* CLOCK_BOOTTIME; CLOCK_MONOTONIC in a perf buffer */
	__u64 skaddr; /* 0: not in the record */
	__u64 cookie; /* 0: not in the record */
	struct flow flow;
	__u32 kind;
	__u32 tgid; /* of the task that was running: the owner only where the kind of event says so */
	__u32 tid;
	__u32 reason; /* SEEN_SEND_RESET: enum sk_rst_reason */
	__s32 err;    /* SEEN_RETRANSMIT */
	__u16 protocol;
	__u8 old_state; /* SEEN_STATE */
	__u8 state;     /* SEEN_STATE: the new one */
	__u8 comm[16];  /* the task's, not its thread group's */
	__u32 data_len; /* SEEN_PROBE, as all that follow */
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 snd_cwnd;
	__u32 ssthresh;
	__u32 snd_wnd;
	__u32 srtt_us;
	__u32 rcv_wnd;
};

#endif
