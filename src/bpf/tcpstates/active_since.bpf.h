/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Since when a socket is in its state, by what the kernel notes of it. Part of active.bpf.h. */
#ifndef TCPTOOLS_ACTIVE_SINCE_BPF_H
#define TCPTOOLS_ACTIVE_SINCE_BPF_H

#include "tcp.bpf.h"
#include "times.bpf.h"

enum { TIMEWAIT_US = 60000000 }; /* TCP_TIMEWAIT_LEN of include/net/tcp.h */

static __always_inline __u32 age_ms(__u32 now, __u32 then)
{
	return jiffies_us((__u32)(now - then)) / 1000;
}

/* The SYN's time, by the clock of timestamps (net/ipv4/tcp_output.c: tcp_connect). */
static __always_inline __u64 syn_sent_ns(struct tcp_sock *tp)
{
	__u64 now = bpf_ktime_get_ns();

	if (!tp->retrans_stamp)
		return 0;
	if (has_usec_stamps(tp))
		return (__u64)(__u32)((__u32)(now / 1000) - tp->retrans_stamp) * 1000;
	return (__u64)(__u32)((__u32)(now / 1000000) - tp->retrans_stamp) * 1000000;
}

/*
 * When it entered its state at the latest, by what the kernel notes of its traffic; odd: earlier is possible.
 *
 * Before any data, its last data is the end of the handshake (net/ipv4/tcp_input.c: tcp_finish_connect,
 * tcp_rcv_state_process; tcp_minisocks.c: tcp_create_openreq_child). The segment that ends FIN_WAIT1, and the other end's
 * FIN, have an ACK; later ones may have followed.
 */
static __always_inline __u64 entered_ns(struct tcp_sock *tp, __u32 state)
{
	__u64 now = bpf_ktime_get_boot_ns() & ~1ULL;
	__u32 jiffies = bpf_jiffies64();
	__u64 age = 0, exact = 0;

	if (!tp)
		return now | 1;
	__u32 sent = jiffies - tp->lsndtime;
	__u32 received = jiffies - tp->inet_conn.icsk_ack.lrcvtime;
	__u32 acked = jiffies - tp->rcv_tstamp;
	if (state == TCP_ESTABLISHED && !tp->data_segs_out) {
		age = jiffies_us(sent) * 1000;
		exact = 1;
	} else if (state == TCP_ESTABLISHED) {
		age = jiffies_us(received > sent ? received : sent) * 1000;
		exact = !tp->data_segs_in;
	} else if (state == TCP_SYN_SENT) {
		age = syn_sent_ns(tp);
		exact = !!age;
	} else if (state == TCP_FIN_WAIT2 || state == TCP_CLOSING || state == TCP_CLOSE_WAIT) {
		age = jiffies_us(acked) * 1000;
	}
	if (age >= now)
		return now | 1;
	return ((now - age) & ~1ULL) | !exact;
}

/*
 * The timer tells since when it is in TIME_WAIT; it may be overdue. A late segment starts it anew, and with it the state
 * (RFC 9293, 3.6.1). The time for FIN_WAIT2 is not noted, but that of the last entry is, since 6.14.
 */
static __always_inline __u64 timewait_ns(struct inet_timewait_sock *tw, __u32 state)
{
	if (state != TCP_TIME_WAIT)
		return timewait_age_ns(tw);
	__s64 left = BPF_CORE_READ(tw, tw_timer.expires) - bpf_jiffies64();
	__s64 us = TIMEWAIT_US - left * (__s64)jiffy_us;
	return us > 0 ? us * 1000 : 0;
}

#endif
