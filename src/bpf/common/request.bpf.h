/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* State of a connection in the handshake, read by helpers alone: for fallback_socket.bpf.h, too. */
#ifndef TCPTOOLS_REQUEST_BPF_H
#define TCPTOOLS_REQUEST_BPF_H

#include "kernel/kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

/* Why a listener sends a SYN/ACK again, other than a missing ACK. */
enum synack_hint { SYNACK_UNTOLD, SYNACK_DEFER_ACCEPT, SYNACK_ACCEPT_QUEUE_FULL };

/*
 * The kernel notes an ACK that it throws away in two cases: the accept queue is full, and the listener wants data first
 * (net/ipv4/tcp_minisocks.c: tcp_check_req). `full`: the queue is so now.
 */
static __always_inline __u8 synack_hint(struct inet_connection_sock *listener, struct request_sock *req, bool full)
{
	struct inet_request_sock *ireq = (void *)req;

	if (!bpf_core_field_exists(ireq->acked) ||
	    !bpf_core_field_exists(listener->icsk_accept_queue.rskq_defer_accept))
		return SYNACK_UNTOLD;
	if (!BPF_CORE_READ_BITFIELD_PROBED(ireq, acked))
		return SYNACK_UNTOLD;
	if (full || !BPF_CORE_READ(listener, icsk_accept_queue.rskq_defer_accept))
		return SYNACK_ACCEPT_QUEUE_FULL;
	return SYNACK_DEFER_ACCEPT;
}

/* What a listener's reset may be due to, at that moment. */
struct overflow {
	__u32 accept_queue;
	__u32 accept_queue_max;
	bool aborts; /* net.ipv4.tcp_abort_on_overflow, by its first byte: an int before 5.15 or so */
	__u8 pad[3];
};

static __always_inline struct overflow overflow_of(struct sock *listener)
{
	struct overflow now = {
		.accept_queue = BPF_CORE_READ(listener, sk_ack_backlog),
		.accept_queue_max = BPF_CORE_READ(listener, sk_max_ack_backlog),
	};
	struct net *net = BPF_CORE_READ(listener, __sk_common.skc_net.net);
	__u8 on = 0;

	if (bpf_core_field_exists(net->ipv4.sysctl_tcp_abort_on_overflow))
		bpf_core_read(&on, sizeof(on), &net->ipv4.sysctl_tcp_abort_on_overflow);
	now.aborts = on;
	return now;
}

#endif
