/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every socket that is in a state now, and for how long. Part of tcpstates.bpf.c.
 *
 * The kernel's tables of TCP sockets are walked in each network namespace, because there are sockets that no event and no
 * file leads to: requests, those in TIME_WAIT, those that nobody has accepted or holds any more. What is left is in a
 * namespace that cannot be entered, or in CLOSE, and is found by its state.
 */
#ifndef TCPTOOLS_ACTIVE_BPF_H
#define TCPTOOLS_ACTIVE_BPF_H

#include "active_owner.bpf.h"
#include "active_since.bpf.h"

#define AGE_UNKNOWN (~0U)

/* Where the kernel keeps it, and for whom. */
enum keeper { KEPT_BY_PROCESS, KEPT_IN_ACCEPT_QUEUE, KEPT_AS_ORPHAN, KEPT_AS_REQUEST, KEPT_IN_TIMEWAIT };
EXPORT_ENUM(keeper);

struct active {
	struct head head;
	__u64 in_state_ns;
	__u64 skaddr;
	__u32 rqueue; /* as `ss` has them: of a listener its accept queue and the limit of that */
	__u32 wqueue;
	__u32 last_data_sent_ms; /* AGE_UNKNOWN: none was */
	__u32 last_data_recv_ms;
	__u32 last_ack_recv_ms;
	__u8 state;    /* as `ss` has it: of a request SYN_RECV, of a TIME_WAIT socket its own */
	__u8 at_least; /* the entry was not seen, and the time is a lower bound */
	__u8 keeper;   /* enum keeper */
	__u8 pad;
};
EXPORT_TYPE(active);
SEEN_RECORD(active)

/* ---------------------------------------------------------------- full sockets */

static __always_inline __u8 keeper_of(struct sock *sk)
{
	if (is_orphan(sk))
		return KEPT_AS_ORPHAN;
	return sk->sk_socket ? KEPT_BY_PROCESS : KEPT_IN_ACCEPT_QUEUE;
}

/* inet_diag's (net/ipv4/tcp_diag.c: tcp_diag_get_info), and tcp_info's (tcp.c: tcp_get_info). */
static __always_inline void traffic_fill(struct active *e, struct sock *sk, struct tcp_sock *tp)
{
	__u32 now = bpf_jiffies64();

	e->rqueue = e->wqueue = 0;
	e->last_data_sent_ms = e->last_data_recv_ms = e->last_ack_recv_ms = AGE_UNKNOWN;
	if (e->state == TCP_LISTEN) {
		e->rqueue = sk->sk_ack_backlog;
		e->wqueue = sk->sk_max_ack_backlog;
		return;
	}
	if (!tp)
		return;
	__s32 unread = tp->rcv_nxt - tp->copied_seq;
	e->rqueue = unread > 0 ? unread : 0; /* after a FIN that was read it is -1 */
	e->wqueue = tp->write_seq - tp->snd_una;
	if (tp->data_segs_out)
		e->last_data_sent_ms = age_ms(now, tp->lsndtime);
	if (tp->data_segs_in)
		e->last_data_recv_ms = age_ms(now, tp->inet_conn.icsk_ack.lrcvtime);
	if (tp->rcv_tstamp)
		e->last_ack_recv_ms = age_ms(now, tp->rcv_tstamp);
}

/* The state of the socket, of which a change to `last` was the last one seen; 0 if unused: never connected, or closed and released by its owner. */
static __always_inline __u32 state_now(struct sock *sk, __u32 last)
{
	__u32 state = last ?: sk->__sk_common.skc_state;

	if (state != TCP_CLOSE)
		return state;
	return last && !(sk->__sk_common.skc_flags & (1UL << SOCK_DEAD)) ? state : 0;
}

static __always_inline bool is_wanted(__u32 state, __u64 in_ns)
{
	return (old_states >> (state & 31) & 1) && in_ns >= min_ns;
}

/* Whether a record was written. */
static __noinline bool show_full(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	__u32 last = s->tool.state;
	__u64 since_ns = s->tool.since_ns;
	struct owner owner;
	struct flow flow;
	__u32 state = state_now(sk, last);
	__u64 now = bpf_ktime_get_boot_ns();
	/* A change on another CPU may be newer than `now`. */
	__u64 in_ns = since_ns && now > since_ns ? now - since_ns : 0;

	if (!state)
		return false;
	flow_of(&flow, sk, tp);
	owner_now(&owner, s, sk, tp);
	__u64 port = port_key(netns_of(sk), flow.lport);
	__u8 keeper = keeper_of(sk);
	if (state == TCP_LISTEN)
		listener_note(&owner, address_seen(), port);
	else if (keeper == KEPT_IN_ACCEPT_QUEUE && owner.source == PID_UNKNOWN)
		owner_from_listener(&owner, port);
	if (!is_wanted(state, in_ns) || !matches(sk, &flow, &owner))
		return false;
	struct active *e = active_seen();
	if (!e)
		return false;
	head_fill_seen(&e->head, now, sk, &flow, &owner, STATE_NOW);
	e->in_state_ns = in_ns;
	e->skaddr = want_skaddr ? address_seen() : 0;
	e->state = state;
	e->at_least = !since_ns || (since_ns & 1);
	e->keeper = keeper;
	e->pad = 0;
	traffic_fill(e, sk, tp);
	return !seen_write(seq, e, sizeof(*e));
}

/* ---------------------------------------------------------------- sockets that are smaller */

static __always_inline void small_fill(struct active *e, __u32 state, __u64 in_ns, bool at_least, __u8 keeper)
{
	e->in_state_ns = in_ns;
	e->rqueue = e->wqueue = 0;
	e->last_data_sent_ms = e->last_data_recv_ms = e->last_ack_recv_ms = AGE_UNKNOWN;
	e->state = state;
	e->at_least = at_least;
	e->keeper = keeper;
	e->pad = 0;
}

/* Whose it was is not known any more: a filter that asks for it matches nothing. */
static __always_inline bool timewait_matches(struct sock *sk, const struct flow *flow)
{
	const volatile struct id_list *list = &config.filter.netns;

	if (config.set.uid || config.set.cgroup || config.set.unit || config.set.container || config.set.pid ||
	    config.set.comm)
		return false;
	if (config.set.netns && has_id(list, netns_of(sk)) == !!list->negate)
		return false;
	return flow_matches(flow);
}

static __noinline void show_timewait(struct seq_file *seq, struct sock *sk)
{
	struct inet_timewait_sock *tw = (void *)sk;
	struct flow flow;

	/* FIN_WAIT2, too, where the process has closed it (net/ipv4/tcp.c: __tcp_close). */
	__u32 state = BPF_CORE_READ(tw, tw_substate);
	__u64 in_ns = timewait_ns(tw, state);
	if (!is_wanted(state, in_ns))
		return;
	flow_of(&flow, sk, NULL);
	if (!timewait_matches(sk, &flow))
		return;
	struct active *e = active_seen();
	if (!e)
		return;
	__builtin_memset(&e->head.owner, 0, sizeof(e->head.owner));
	e->head.boot_ns = bpf_ktime_get_boot_ns();
	e->head.cookie = cookie_of(sk);
	e->head.cgroup = 0;
	e->head.flow = flow;
	e->head.netns = netns_of(sk);
	e->head.uid = ~0U;
	e->head.event = STATE_NOW;
	e->head.known = KNOWN_ALL;
	e->skaddr = want_skaddr ? (__u64)sk : 0;
	small_fill(e, state, in_ns, state != TCP_TIME_WAIT, KEPT_IN_TIMEWAIT);
	bpf_seq_write(seq, e, sizeof(*e));
}

/* Since the first SYN/ACK (net/ipv4/tcp_output.c: tcp_make_synack), in microseconds of CLOCK_MONOTONIC. */
static __noinline void show_request(struct seq_file *seq, struct sock *sk)
{
	__u64 address = (__u64)BPF_CORE_READ(sk, __sk_common.skc_listener);
	__u64 sent_us = BPF_CORE_READ((struct tcp_request_sock *)sk, snt_synack);
	__u64 now_us = bpf_ktime_get_ns() / 1000;
	__u64 in_ns = sent_us && now_us > sent_us ? (now_us - sent_us) * 1000 : 0;
	struct sock *listener = address ? sock_copied(address) : NULL;
	struct owner owner = {};
	struct flow flow;

	if (!listener || !is_wanted(TCP_SYN_RECV, in_ns))
		return;
	flow_of(&flow, sk, NULL);
	owner_from_listener(&owner, address);
	if (!matches(listener, &flow, &owner))
		return;
	struct active *e = active_seen();
	if (!e)
		return;
	head_fill_with(&e->head, bpf_ktime_get_boot_ns(), cookie_of(sk), listener, &flow, &owner, STATE_NOW);
	e->skaddr = want_skaddr ? (__u64)sk : 0;
	small_fill(e, TCP_SYN_RECV, in_ns, !sent_us, KEPT_AS_REQUEST);
	bpf_seq_write(seq, e, sizeof(*e));
}

/* ---------------------------------------------------------------- the looks */

/* The sockets of the current network namespace. */
SEC("?iter/tcp")
int sockets_here(struct bpf_iter__tcp *ctx)
{
	struct sock_common *common = ctx->sk_common;

	if (!common)
		return 0;
	__u8 state = common->skc_state;
	if (state == TCP_TIME_WAIT) {
		show_timewait(ctx->meta->seq, (struct sock *)common);
		return 0;
	}
	if (state == TCP_NEW_SYN_RECV) {
		show_request(ctx->meta->seq, (struct sock *)common);
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
	/*
	 * The iterator holds the socket's lock since 5.15 (net/ipv4/tcp_ipv4.c: bpf_iter_tcp_seq_show). Before, a change of
	 * state between these two lines may be forgotten; and kernels before 5.12 know no atomic exchange.
	 */
	if (!s->tool.since_ns)
		s->tool.since_ns = entered_ns(tp, state);
	cookie_of(sk);
	address_note(sk);
	if (show_full(ctx->meta->seq, sk, tp, s))
		s->tool.look = look.number;
	return 0;
}

/* Those that a look at the namespaces has not shown. */
static __always_inline void show_rest(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	if (s->tool.look != (__u32)look.number)
		show_full(seq, sk, tp, s);
}
EACH_SOCKET(sockets_now, show_rest)

#endif
