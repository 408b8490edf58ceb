/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The records of the classic tracepoints, named `record_<event>`, with the fields that are used. User space builds BTF
 * with these names from /sys/kernel/tracing/events/.../format (src/fallback/format.rs), so the offsets are those of the
 * running kernel, and missing fields are known.
 */
#ifndef TCPTOOLS_FALLBACK_BPF_H
#define TCPTOOLS_FALLBACK_BPF_H

#include "filter.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpadded" /* parts of the kernel's types */

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
	const void *skbaddr;
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
	const void *req;
	__u16 sport;
	__u16 dport;
	__u8 saddr_v6[16];
	__u8 daddr_v6[16];
};

/* tcp:tcp_send_reset */
struct record_tcp_send_reset {
	const void *skaddr;
	const void *skbaddr;
	int state;   /* since 5.0 */
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

/* sock:sock_exceed_buf_limit */
struct record_sock_exceed_buf_limit {
	char name[32];
	long sysctl_mem[3];
	long allocated;
	int sysctl_rmem;
	int rmem_alloc;
	int sysctl_wmem; /* since 5.0, as all that follow */
	int wmem_alloc;
	int wmem_queued;
	int kind;
};

/* The same before 5.18, and before some updates of older kernels. */
struct record_sock_exceed_buf_limit___pointer {
	const long *sysctl_mem;
};

/* sock:sock_rcvqueue_full */
struct record_sock_rcvqueue_full {
	int rmem_alloc;
	__u32 truesize;
	int sk_rcvbuf;
};

/* udp:udp_fail_queue_rcv_skb */
struct record_udp_fail_queue_rcv_skb {
	int rc;
	__u16 lport; /* until 6.9 */
	__u16 dport; /* since 6.10: the packet's, so the local one */
	__u16 family;
};

#pragma clang diagnostic pop
#pragma clang attribute pop

/* What happened. */
enum trace_kind {
	TRACE_STATE,
	TRACE_RETRANSMIT,
	TRACE_SYNACK,
	TRACE_SEND_RESET,
	TRACE_RECEIVE_RESET,
	TRACE_DESTROY,
	TRACE_READ,
	TRACE_PROBE,
	TRACE_EXCEED_BUF_LIMIT,
	TRACE_RCVQUEUE_FULL,
	TRACE_UDP_FAIL,
};

/* Return addresses on the kernel stack, innermost first. */
enum { CALLS = 8 };

/* An event of any of these tracepoints. Fields missing from the kernel's record are 0. */
struct trace_event {
	__u64 at_ns;  /* CLOCK_BOOTTIME; CLOCK_MONOTONIC in a perf buffer */
	__u64 skaddr; /* 0: not in the record */
	__u64 cookie; /* 0: not in the record */
	struct flow flow;
	__u32 kind;
	__u32 tgid; /* of the current task, which is the owner only for some kinds of events */
	__u32 tid;
	__u32 reason; /* TRACE_SEND_RESET: enum sk_rst_reason */
	__s32 err;    /* TRACE_RETRANSMIT */
	__u16 protocol;
	__u8 old_state; /* TRACE_STATE */
	__u8 state;     /* TRACE_STATE: the new one */
	__u32 data_len; /* TRACE_PROBE, as all that follow the name */
	__u8 comm[16];  /* the task's, not its thread group's; at a multiple of 8, as it is compared in words */
	__u32 snd_nxt;
	__u32 snd_una;
	__u32 snd_cwnd;
	__u32 ssthresh;
	__u32 snd_wnd;
	__u32 srtt_us;
	__u32 rcv_wnd;
	__u32 netns;     /* of any kind that has a socket, with --btf; 0: not known */
	__u32 uid;       /* the same; ~0: not known */
	__u8 in_cgroups; /* likewise: whether config.filter.cgroup matches, if set */
	__u8 pad[3];
	__u32 lost; /* events that were lost before this one, lower half */
	__u32 pad2;
};

/* Byte counters of struct tcp_sock; src/abi/app_bytes.rs derives the application's bytes. */
struct byte_counts {
	__u64 acked;
	__u64 received;
	__u64 sent;
	__u64 retrans;
	__u32 wqueue;  /* write_seq - snd_una */
	__u32 notsent; /* write_seq - snd_nxt */
};

/* Additional fields of TRACE_STATE and TRACE_DESTROY. */
struct close_event {
	struct trace_event trace;
	__u32 calls[CALLS]; /* if asked for, from FIN_WAIT2 to CLOSE, and of TRACE_DESTROY: return addresses */
	/* With --btf, for TRACE_STATE to CLOSE; 0 otherwise, or if not in `known`. */
	struct byte_counts bytes;
	__u32 srtt_us;
	__u32 min_rtt_us; /* ~0: none measured */
	__u32 total_retrans;
	__u32 snd_cwnd;
	__u32 mss;
	__u32 rate_delivered;
	__u32 rate_interval_us;
	__u32 segs_out;
	__u8 ca_name[16];
	__u8 known;
	__u8 err; /* sk_err */
	__u8 fin_received;
	__u8 mptcp; /* a subflow */
	__u8 pad[4];
};

/* close_event.known: err is known; all connection fields are known. */
enum trace_known { KNOWN_ERROR = 1, KNOWN_TCP = 2 };

/*
 * Additional fields where sockets can be read; 0 otherwise, and for fields this kernel lacks. `known`: whether the
 * socket was read.
 */

/* TRACE_RETRANSMIT, TRACE_SYNACK */
struct segment_event {
	struct trace_event trace;
	__u32 seq;
	__u32 end_seq; /* 0 of TRACE_SYNACK, as all that follow up to syn_queue */
	__u32 segs;
	__u32 rto_jiffies;
	__u32 srtt_us;
	__u32 snd_cwnd;
	__u32 in_flight_bytes;
	__u32 undo_marker;
	__u32 sent_jiffies;  /* tcp_sock.lsndtime: this segment's own time */
	__u32 timer_jiffies; /* when the pending timer is due, the lower half */
	__u32 syn_queue;     /* of the listener, as the next two */
	__u32 accept_queue;
	__u32 accept_queue_max;
	__u16 tcp_flags;
	__u8 ca_state;
	__u8 retransmits; /* TRACE_SYNACK: request_sock.num_retrans */
	__u8 pending;
	__u8 has_timer; /* timer_jiffies is known */
	__u8 listener;
	__u8 known;
	__u8 hint; /* TRACE_SYNACK: enum synack_hint (request.bpf.h) */
	__u8 pad[3];
};

/* TRACE_READ: as tcp_rcv_space_adjust() finds the receive buffer (tcprcvspace.bpf.c) */
struct read_event {
	struct trace_event trace;
	__u64 measure_us;
	__u32 copied;
	__u32 queued;
	__s32 space;
	__u32 rcv_rtt_us; /* us << 3 */
	__u32 rcvbuf;
	__u32 rmem_alloc;
	__u32 window_clamp;
	__u32 rcv_ssthresh;
	__u32 rcv_wnd;
	__u32 rmem_max;
	__u8 userlocks;
	__u8 moderated;
	__u8 known;
	__u8 pad[5];
};

/* TRACE_SEND_RESET, TRACE_RECEIVE_RESET */
struct reset_event {
	struct trace_event trace;
	struct byte_counts bytes;
	__u8 sk_state; /* TCP_CLOSE if the socket is closed already */
	__u8 shutdown;
	__u8 fin_received;
	__u8 trigger; /* TRACE_SEND_RESET: flags of the packet that triggered the RST */
	__u8 known;
	__u8 listener; /* as the next three, see struct reset (tcpreset.bpf.c) */
	__u8 aborts;
	__u8 pad;
	__u32 accept_queue;
	__u32 accept_queue_max;
};

/* A buffer or memory limit that was hit; there is no connection. */
struct limit_event {
	struct trace_event trace; /* flow.lport of TRACE_UDP_FAIL; err: its rc */
	__s64 allocated;          /* TRACE_EXCEED_BUF_LIMIT, as all that follow unless they say otherwise */
	__s64 mem[3];
	__u32 minimum;    /* of the direction that was refused */
	__u32 rmem_alloc; /* TRACE_RCVQUEUE_FULL too */
	__u32 wmem_alloc;
	__u32 wmem_queued;
	__u32 rcvbuf;   /* TRACE_RCVQUEUE_FULL */
	__u32 truesize; /* TRACE_RCVQUEUE_FULL */
	__u16 family;   /* TRACE_UDP_FAIL, since 6.10 */
	__u8 sending;
	__u8 pad[5];
	__u8 name[32];
};

#endif
