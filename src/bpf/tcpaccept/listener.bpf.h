/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The queues of a listener as they are now, from its own socket. Part of tcpaccept.bpf.c. */
#ifndef TCPTOOLS_LISTENER_BPF_H
#define TCPTOOLS_LISTENER_BPF_H

#include "tcp.bpf.h"

const volatile __u32 jiffy_us = 4000; /* USEC_PER_SEC / HZ of the running kernel */

#define TIME_UNKNOWN (~0ULL)

/* The two conditions under which a SYN is not queued: net/ipv4/tcp_input.c: tcp_conn_request. */
struct queues {
	__u64 oldest_wait_us; /* since the handshake of the connection that accept() returns next; or TIME_UNKNOWN */
	__u64 syn_cookie_us;  /* since a SYN was last answered with a cookie, up to a second more; or TIME_UNKNOWN */
	__u64 first;          /* address of that connection's request: tells whether accept() took one; 0: none */
	__u64 group;          /* likewise of the SO_REUSEPORT group; 0: none */
	__u32 accept_queue;
	__u32 accept_queue_max;
	__u32 syn_queue;
	__u32 syn_queue_max;
	__u32 fastopen_queue;
	__u32 fastopen_queue_max;
	__u32 drops;      /* sk_drops: since the socket was made */
	__u32 group_size; /* listeners in the group; 0: no SO_REUSEPORT */
	__u32 syncookies; /* net.ipv4.tcp_syncookies */
	__u32 pad;
};

/* How long ago a moment was, by the lower half of the jiffies. */
static __always_inline __u64 since_us(__u32 then)
{
	__u32 now = bpf_jiffies64();

	/* It may be later than `now` was read. */
	return (__s32)(now - then) > 0 ? (__u64)(now - then) * jiffy_us : 0;
}

/*
 * Who waits longest: the queue is in order. A child has sent nothing before a process has it, so its lsndtime is still
 * that of the end of its handshake (net/ipv4/tcp_minisocks.c: tcp_create_openreq_child; tcp_input.c:
 * tcp_rcv_state_process). Nothing is locked: what accept() takes meanwhile is not believed.
 */
static __always_inline void oldest_find(struct queues *q, struct tcp_sock *listener)
{
	struct request_sock *first = BPF_CORE_READ(listener, inet_conn.icsk_accept_queue.rskq_accept_head);
	struct sock *child = first ? BPF_CORE_READ(first, sk) : NULL;

	q->first = 0;
	q->oldest_wait_us = TIME_UNKNOWN;
	if (!child)
		return;
	__u32 since = BPF_CORE_READ((struct tcp_sock *)child, lsndtime);
	__u16 port = BPF_CORE_READ(child, __sk_common.skc_num);
	if (BPF_CORE_READ(listener, inet_conn.icsk_accept_queue.rskq_accept_head) != first ||
	    BPF_CORE_READ(first, sk) != child ||
	    port != BPF_CORE_READ(listener, inet_conn.icsk_inet.sk.__sk_common.skc_num))
		return;
	q->first = (__u64)first ^ ((__u64)since << 32);
	q->oldest_wait_us = since_us(since);
}

/* The listeners of one address share it. */
static __always_inline __u64 cookie_sent_us(struct tcp_sock *listener, struct sock_reuseport *group)
{
	__u32 stamp = BPF_CORE_READ(listener, rx_opt.ts_recent_stamp);

	if (group)
		stamp = BPF_CORE_READ(group, synq_overflow_ts);
	return stamp ? since_us(stamp) : TIME_UNKNOWN;
}

/*
 * SYNs that are queued at most: sk_max_ack_backlog (include/net/inet_connection_sock.h: inet_csk_reqsk_queue_is_full;
 * one more since 6.13). Without cookies also three quarters of net.ipv4.tcp_max_syn_backlog, except from known peers.
 */
static __always_inline __u32 syn_queue_limit(struct sock *listener, const struct queues *q)
{
	struct net *net = BPF_CORE_READ(listener, __sk_common.skc_net.net);
	__u32 backlog = BPF_CORE_READ(net, ipv4.sysctl_max_syn_backlog);
	__u32 unproven = backlog - (backlog >> 2);

	return q->syncookies || q->accept_queue_max < unproven ? q->accept_queue_max : unproven;
}

/* `address`: of the listener, of which `sk` and `tp` may be a copy. */
static __always_inline void queues_fill(struct queues *q, struct sock *sk, struct tcp_sock *tp, __u64 address)
{
	struct inet_connection_sock *icsk = &tp->inet_conn;
	struct tcp_sock *listener = (void *)address;
	struct sock_reuseport *group = BPF_CORE_READ(sk, sk_reuseport_cb);

	q->accept_queue = sk->sk_ack_backlog;
	q->accept_queue_max = sk->sk_max_ack_backlog;
	q->syn_queue = BPF_CORE_READ(icsk, icsk_accept_queue.qlen.counter);
	q->syncookies = syncookies_of(sk);
	q->syn_queue_max = syn_queue_limit(sk, q);
	q->fastopen_queue = BPF_CORE_READ(icsk, icsk_accept_queue.fastopenq.qlen);
	q->fastopen_queue_max = BPF_CORE_READ(icsk, icsk_accept_queue.fastopenq.max_qlen);
	q->drops = sock_drops(sk);
	q->group = (__u64)group;
	q->group_size = group ? BPF_CORE_READ(group, num_socks) : 0;
	q->syn_cookie_us = cookie_sent_us(tp, group);
	q->pad = 0;
	oldest_find(q, listener);
}

#endif
