/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Resets, sent and received. Part of metrics.bpf.c. */
#ifndef TCPTOOLS_METRICS_RESETS_BPF_H
#define TCPTOOLS_METRICS_RESETS_BPF_H

#include "kernel/packet.bpf.h"
#include "counters.bpf.h"

const volatile bool reset_has_reason = false; /* tcp_send_reset has its third argument (6.10) */

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(receive_reset, struct sock *sk)
{
	struct sock_state *s = state_find(sk);
	struct group_key key = {};
	int state = sk->__sk_common.skc_state;

	if (s) {
		s->tool.flags |= RST_RECEIVED;
		if ((sk->sk_shutdown & RCV_SHUTDOWN) && state != TCP_ESTABLISHED && state != TCP_SYN_SENT)
			s->tool.flags |= MAYBE_SPURIOUS;
	}
	if (labels_of(&key, sk, NULL, s))
		count(&key, COUNT_RESET_RECEIVED, 1);
	return 0;
}

static __always_inline __u32 reset_sent(int reason)
{
	__u32 number = reason;

	return COUNT_RESET_SENT + (number < RESET_REASONS ? number : RESET_REASONS - 1);
}

static __always_inline void reset_without_socket(struct sk_buff *skb, __u32 netns, int reason)
{
	struct group_key key = {};
	__u8 flags = 0;

	if (!plain && !packet_flow(&key.flow, &flags, skb))
		return;
	if (labels_of_nobody(&key, netns))
		count(&key, reset_sent(reason), 1);
}

/* A reset that follows the end shows that we have reset it: the state before stays, what was seen of it does not count. */
static __always_inline void amend(struct group_key *key, struct connection *conn)
{
	__u32 before = conn->ended;

	count(key, before, -1ULL);
	count(key, ENDED_BY(0, before >> 12 & 15, ENDED_RST_SENT), 1);
}

/* What is noted of a socket that sends a reset. */
static __always_inline void reset_note(struct group_key *key, struct sock_state *s, int state, bool answers)
{
	__u8 flags = s->tool.flags;

	if (answers && flags & MAYBE_SPURIOUS)
		count(key, COUNT_RESET_RECEIVED, -1ULL);
	/* After CLOSE nothing is written: see state_end(). A socket resets once. */
	if (state == TCP_CLOSE && flags & MAY_CHANGE)
		amend(key, &s->tool);
	else if (state != TCP_CLOSE && state != TCP_LISTEN)
		s->tool.flags |= RST_SENT;
}

static __always_inline void reset_from_socket(struct sock *sk, struct sk_buff *skb, int reason)
{
	struct sock_state *s = state_find(sk);
	struct group_key key = {};
	int state = sk->__sk_common.skc_state;
	__u8 flags = 0;

	/* A listener answers somebody. */
	if (!plain && (state != TCP_LISTEN || !skb || !packet_flow(&key.flow, &flags, skb)))
		flow_of(&key.flow, sk, NULL);
	if (!labels_of_flow(&key, sk, s))
		return;
	count(&key, reset_sent(reason), 1);
	if (s)
		reset_note(&key, s, state, skb);
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(send_reset, struct sock *sk, struct sk_buff *skb)
{
	int reason = reset_has_reason ? (int)ctx[2] : -1;

	if (!sk) {
		if (skb)
			reset_without_socket(skb, plain ? 0 : BPF_CORE_READ(skb, dev, nd_net.net, ns.inum), reason);
		return 0;
	}
	int state = sk->__sk_common.skc_state;
	if (state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV)
		reset_from_socket(sk, skb, reason);
	else if (skb) /* only sock_common may be read */
		reset_without_socket(skb, plain ? 0 : netns_of(sk), reason);
	return 0;
}

#endif
