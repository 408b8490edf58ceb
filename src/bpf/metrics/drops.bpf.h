/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Segments that are thrown away, and buffers that overflow. Part of metrics.bpf.c. */
#ifndef TCPTOOLS_METRICS_DROPS_BPF_H
#define TCPTOOLS_METRICS_DROPS_BPF_H

#include "kernel/reason.bpf.h"
#include "counters.bpf.h"
#include "segment.bpf.h"

/* Reasons of subsystems, and those that the kernel does not give, are one. */
static __always_inline __u32 dropped(int reason)
{
	__u32 number = reason;

	return COUNT_DROPPED + (number < DROP_REASONS ? number : DROP_REASONS);
}

/* The labels of a segment by its socket, if it has one. */
static __always_inline bool labels_of_segment(struct group_key *key, struct sk_buff *skb, const struct segment *seg,
					      struct sock *rx)
{
	if (plain)
		return true;
	key->flow = seg->flow;
	if (rx && is_full_tcp(rx))
		return labels_of_flow(key, rx, state_find(rx));
	struct sock *sk = rx ?: segment_sock(seg, skb);
	if (!rx && sk && is_full_tcp(sk))
		return labels_of_flow(key, sk, state_peek(sk));
	return labels_of_nobody(key, sk && !is_foreign(sk) ? netns_of(sk) : segment_netns(skb));
}

SEC("tp_btf/kfree_skb")
int BPF_PROG(segment_dropped, struct sk_buff *skb, void *location)
{
	int reason = has_reason ? (int)ctx[2] : -1;
	struct sock *rx = has_rx_sk ? (struct sock *)ctx[3] : NULL;
	struct group_key key = {};
	struct segment seg;

	if (is_hidden(reason) || !segment_read(&seg, skb))
		return 0;
	if (rx && is_foreign(rx)) /* a copy, for a raw or packet socket */
		return 0;
	if (labels_of_segment(&key, skb, &seg, rx))
		count(&key, dropped(reason), segments_of(skb));
	return 0;
}

/* ---------------------------------------------------------------- buffers that overflow, of any protocol */

static __always_inline void buffer_count(struct sock *sk, __u32 event)
{
	struct group_key key = {};

	if (plain || is_inet(sk)) {
		bool is_tcp = !plain && is_full_tcp(sk);
		if (!labels_of(&key, sk, NULL, is_tcp ? state_find(sk) : NULL))
			return;
	} else if (!labels_of_nobody(&key, netns_of(sk))) {
		return;
	}
	count(&key, COUNT_BUFFERS + event, 1);
}

SEC("tp_btf/sock_rcvqueue_full")
int BPF_PROG(rcvqueue_full, struct sock *sk)
{
	buffer_count(sk, BUFFER_RCVQUEUE_FULL);
	return 0;
}

/* -ENOBUFS is what sock_exceed_buf_limit has reported: see sockbuf.bpf.c. */
SEC("tp_btf/udp_fail_queue_rcv_skb")
int BPF_PROG(udp_fail, int rc, struct sock *sk)
{
	if (rc == -ENOMEM)
		buffer_count(sk, BUFFER_UDP_FAIL);
	return 0;
}

SEC("tp_btf/sock_exceed_buf_limit")
int BPF_PROG(exceed_buf_limit, struct sock *sk)
{
	buffer_count(sk, BUFFER_EXCEED_LIMIT);
	return 0;
}

#endif
