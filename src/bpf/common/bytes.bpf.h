/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The application's bytes of a session, from counters that count SYN and FIN as bytes. */
#ifndef TCPTOOLS_BYTES_BPF_H
#define TCPTOOLS_BYTES_BPF_H

#include "tcp.bpf.h"

static __always_inline bool fin_received(struct sock *sk)
{
	/* tcp_fin() alone sets it (net/ipv4/tcp_input.c) */
	return sk->__sk_common.skc_flags & (1UL << SOCK_DONE);
}

static __always_inline bool is_closing(int state)
{
	return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING || state == TCP_LAST_ACK;
}

/*
 * Whether a session opened before the trace is an active open, so that bytes_acked includes its SYN: compares it with
 * the payload that was sent and is not in flight (in these states no FIN is).
 */
static __always_inline bool opened_here(struct tcp_sock *tp, int state)
{
	__u64 payload = tp->bytes_sent - tp->bytes_retrans;
	__u64 acked = tp->bytes_acked + (tp->snd_nxt - tp->snd_una);
	__u64 fin = is_closing(state) && tp->snd_nxt == tp->write_seq;

	return acked - payload > fin;
}

/*
 * bytes_acked includes the local SYN and FIN, bytes_received the peer's FIN, one byte each. `state`: before the close.
 */
static __always_inline void app_bytes(__u64 *tx, __u64 *rx, struct sock *sk, struct tcp_sock *tp, int state,
				      bool active_open)
{
	__u64 acked = tp->bytes_acked;

	if (acked && active_open)
		acked--;
	if (acked && is_closing(state) && tp->snd_una == tp->write_seq)
		acked--;
	*tx = acked;
	*rx = tp->bytes_received;
	if (*rx && fin_received(sk))
		--*rx;
}

#endif
