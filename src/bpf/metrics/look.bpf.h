/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A look at the sockets that are there. Part of metrics.bpf.c. */
#ifndef TCPTOOLS_METRICS_LOOK_BPF_H
#define TCPTOOLS_METRICS_LOOK_BPF_H

#include "counters.bpf.h"

struct listener_now {
	struct head head;
	struct group_key labels;
	__u32 accept_queue;
	__u32 accept_queue_max;
	__u32 syn_queue;
	__u32 drops; /* sk_drops: since the socket was made */
};
EXPORT_TYPE(listener_now);
SEEN_RECORD(listener_now)

static __always_inline void listener_show(struct seq_file *seq, const struct group_key *key, struct sock *sk,
					  struct tcp_sock *tp)
{
	struct listener_now *now = listener_now_seen();
	struct inet_connection_sock *icsk = &tp->inet_conn;

	if (!now)
		return;
	__builtin_memset(&now->head, 0, sizeof(now->head));
	now->head.cookie = cookie_of(sk);
	flow_of(&now->head.flow, sk, tp);
	now->head.netns = netns_of(sk);
	now->head.known = KNOWN_ALL;
	now->labels = *key;
	now->labels.kind = 0;
	now->accept_queue = sk->sk_ack_backlog;
	now->accept_queue_max = sk->sk_max_ack_backlog;
	now->syn_queue = BPF_CORE_READ(icsk, icsk_accept_queue.qlen.counter);
	now->drops = sock_drops(sk);
	bpf_seq_write(seq, now, sizeof(*now));
}

/* The state of what is smaller than a socket, as `ss` has it. */
static __always_inline __u32 small_state(struct sock *sk, __u8 state)
{
	if (state == TCP_NEW_SYN_RECV)
		return TCP_SYN_RECV;
	return BPF_CORE_READ((struct inet_timewait_sock *)sk, tw_substate);
}

static __noinline int small_seen(struct sock *sk, __u8 state)
{
	struct group_key key = {};

	if (!sk)
		return 0;
	if (!plain)
		flow_of(&key.flow, sk, NULL);
	if (labels_of_nobody(&key, plain ? 0 : netns_of(sk)))
		count(&key, COUNT_SOCKETS + (small_state(sk, state) & (STATES - 1)), 1);
	return 0;
}

/*
 * The sockets of the current network namespace, each under its lock since 5.15 (net/ipv4/tcp_ipv4.c:
 * bpf_iter_tcp_seq_show). Before, a connection that ends at this moment may be counted twice.
 */
SEC("?iter/tcp")
int sockets_here(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;
	struct group_key key = {};

	if (!common)
		return 0;
	__u8 state = common->skc_state;
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV) {
		small_seen((struct sock *)common, state);
		return 0;
	}
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(common);
	if (!tp)
		return 0;
	struct sock *sk = (struct sock *)tp;
	if (never_matches(sk, state))
		return 0;
	struct sock_state *s = state_make_as(sk, &ZERO_STATE);
	if (!s)
		return 0;
	may_begin_late(s, sk, tp, state);
	if (!labels_of(&key, sk, tp, s))
		return 0;
	count(&key, COUNT_SOCKETS + (state & (STATES - 1)), 1);
	if (state == TCP_LISTEN)
		listener_show(ctx->meta->seq, &key, sk, tp);
	else if (state != TCP_CLOSE)
		traffic_count(&key, sk, tp, state, &s->tool);
	return 0;
}

#endif
