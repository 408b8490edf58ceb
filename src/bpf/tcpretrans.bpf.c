/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tcpretrans: one record per retransmission, or, for totals, one per socket with the segments it sent and
 * retransmitted.
 */
#include "kernel/resent.h"

struct sent {
	__u32 segs_out; /* retransmissions included */
	__u32 data_segs_out;
	__u32 dsack_dups;     /* segments that the other end had already */
	__u32 reord_seen;     /* times that segments arrived in another order */
	__u32 retrans[KINDS]; /* segments */
};

struct send_stats {
	struct sent reported; /* already reported, or sent before the trace */
	__u32 retrans[KINDS];
	struct resent resent;
	__u8 begun;
	__u8 pad[7];
	/* Whether the socket was there before, and snd_nxt then (tcpretrans/why.bpf.h); 0: it was not, or it is not known. */
	__u64 sent_before;
};

#define TOOL_STATE struct send_stats
#include "tcp.bpf.h"
#include "count.bpf.h"
#include "owner/resent.bpf.h"
#include "request.bpf.h"
#include "stack.bpf.h"
EXPORT_ENUM(kind);

/* Which record it is: head.event. */
enum event_kind { RETRANSMITTED, TOTAL };
EXPORT_ENUM(event_kind);

struct retrans {
	struct head head;
	__u32 seq;
	__u32 len; /* payload, bytes */
	__u32 segs;
	__s32 err; /* 0: sent; below: -errno; above: dropped by the queueing discipline (NET_XMIT_*) */
	__u32 rto_jiffies;
	__u32 srtt_us;
	__u32 snd_cwnd;
	__u32 in_flight_bytes;
	__u32 syn_queue; /* of the listener, as the next two */
	__u32 accept_queue;
	__u32 accept_queue_max;
	__u16 tcp_flags;
	__u8 kind;
	__u8 state;
	__u8 ca_state;
	__u8 attempt; /* 0: not counted */
	__u8 timer;   /* sent by the retransmission timer itself */
	__u8 listener;
	__u8 counted; /* in RetransSegs */
	__u8 hint;    /* enum synack_hint */
	__u8 verdict; /* enum drop_verdict; this and what follows: with --why */
	__u8 forgotten;
	__u8 translated;
	__u8 before_start;
	__u8 pad[2];
	__u32 drop_bytes;  /* how much of it was thrown away, as far as is known */
	__s32 drop_reason; /* of the first drop of it that is known, or that may be: enum skb_drop_reason */
	__u32 drop_netns;
	__u64 drop_place; /* behind the call that threw it away */
	__u64 stack[STACK_DEPTH];
};
EXPORT_TYPE(retrans);
EXPORT_ENUM(synack_hint);

struct total {
	struct head head;
	struct sent sent; /* since the last record of this socket */
};
EXPORT_TYPE(total);

const volatile bool failed = false;    /* show failed attempts */
const volatile bool lossprobe = false; /* show such loss probes */
const volatile bool counting = false;  /* in the kernel, by group_by */
const volatile bool totals = false;    /* one record per socket instead */

#include "tcpretrans/totals.bpf.h"
#include "tcpretrans/why.bpf.h"
EXPORT_ENUM(drop_verdict);
EXPORT_ENUM(drop_table);

/* ---------------------------------------------------------------- following sockets */

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int old, int new)
{
	if (old == new || !protocol_matches(sk) || never_matches(sk, new))
		return 0;
	struct sock_state *s = totals ? state_make(sk) : state_of_follower(sk, old, new);
	if (!s)
		return 0;
	if (new == TCP_SYN_SENT || old == TCP_LISTEN) {
		__builtin_memset(&s->tool, 0, sizeof(s->tool));
		s->tool.begun = 1;
		s->tool.resent.counts_known = new == TCP_SYN_SENT; /* a child begins with those of its SYN/ACK */
	}
	owner_on_state_change(s, sk, old, new);
	if (totals && old != TCP_LISTEN && new != TCP_LISTEN) {
		stats_begin(&s->tool, tcp_of(sk));
		if (new == TCP_CLOSE)
			total_at_close(sk, s);
	}
	if (new == TCP_CLOSE)
		state_end(s, sk);
	return 0;
}

static __always_inline void sock_scan(struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	if (totals && sk->__sk_common.skc_state != TCP_LISTEN)
		stats_begin(&s->tool, tp);
	if (why && tp && !s->tool.begun && !s->tool.sent_before)
		s->tool.sent_before = sent_mark(tp);
}

#define OWN_SET_STATE
#define SOCK_SCAN(sk, tp, s) sock_scan(sk, tp, s)
#include "owner/owner.bpf.h"

/* ---------------------------------------------------------------- segments */

static __always_inline void segment_fill(struct retrans *e, struct tcp_sock *tp, struct tcp_skb_cb *cb)
{
	__u32 end = BPF_CORE_READ(cb, end_seq);

	e->seq = BPF_CORE_READ(cb, seq);
	e->len = end - e->seq - (e->tcp_flags >> 1 & 1) - (e->tcp_flags & 1); /* SYN and FIN count as one each */
	e->rto_jiffies = tp->inet_conn.icsk_rto;
	e->srtt_us = tp->srtt_us >> 3;
	e->snd_cwnd = tp->snd_cwnd;
	e->in_flight_bytes = tp->snd_nxt - tp->snd_una;
	e->syn_queue = e->accept_queue = e->accept_queue_max = 0;
	e->listener = 0;
	e->hint = 0;
	bool timed = e->ca_state == TCP_CA_LOSS;
	e->attempt = timed ? tp->inet_conn.icsk_retransmits : 0;
	/* The timer's handler has cleared the pending event; a retransmission triggered by an ACK leaves it armed. */
	e->timer = timed && e->attempt && !tp->inet_conn.icsk_pending;
}

static __always_inline int segment_sent_again(unsigned long long *ctx, struct sock *sk, struct sk_buff *skb,
					      bool with_why)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct tcp_skb_cb *cb = (void *)__builtin_preserve_access_index(&skb->cb);
	struct owner owner;
	union key_or_look at;
	struct flow *flow = &at.key.flow;

	if (!tp)
		return 0;
	int err = reports_err ? (int)ctx[2] : 0;
	__u16 flags = skb_tcp_flags(cb);
	__u8 ca_state = ca_state_of(tp);
	__u32 segs = BPF_CORE_READ(cb, tcp_gso_segs);
	struct sock_state *s = state_make(sk);
	__u8 kind = kind_of(tp, flags, ca_state, s);
	bool counted = is_counted(tp, s, err);
	if (s)
		owner_learn(s, sk);
	if (totals) {
		if (s)
			stats_begin(&s->tool, tp);
		if (s && counted && kind < KINDS)
			__sync_fetch_and_add(&s->tool.retrans[kind], segs);
		return 0;
	}
	if (!counted && !failed && !(lossprobe && kind == KIND_TLP))
		return 0;
	flow_of(flow, sk, tp);
	if (!passes_filters(sk, flow, s, &owner))
		return 0;
	if (counting) {
		group_fill(&at.key, sk, &owner, 0);
		count_add(&at.key, segs);
		return 0;
	}
	struct retrans *e = event_reserve(SIZE_WITH_STACK(struct retrans));
	if (!e)
		return 0;
	head_fill(&e->head, sk, flow, &owner, RETRANSMITTED);
	e->segs = segs;
	e->err = err;
	e->counted = counted;
	e->tcp_flags = flags;
	e->kind = kind;
	e->state = sk->__sk_common.skc_state;
	e->ca_state = ca_state;
	segment_fill(e, tp, cb);
	__builtin_memset(&e->verdict, 0,
			 __builtin_offsetof(struct retrans, stack) - __builtin_offsetof(struct retrans, verdict));
	if (with_why)
		why_segment(e, s, tp, &at.look);
	STACK_TAKE(ctx, e);
	event_submit(e, SIZE_WITH_STACK(struct retrans));
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(retransmit_skb, struct sock *sk, struct sk_buff *skb)
{
	return segment_sent_again(ctx, sk, skb, false);
}

/* With --why, instead. */
SEC("?tp_btf/tcp_retransmit_skb")
int BPF_PROG(retransmit_skb_why, struct sock *sk, struct sk_buff *skb)
{
	return segment_sent_again(ctx, sk, skb, true);
}

/* ---------------------------------------------------------------- SYN/ACKs */

static __always_inline void synack_fill(struct retrans *e, struct sock *sk, struct request_sock *req)
{
	struct inet_connection_sock *icsk = (void *)sk;

	__builtin_memset(&e->seq, 0, __builtin_offsetof(struct retrans, stack) - sizeof(e->head));
	e->seq = BPF_CORE_READ((struct tcp_request_sock *)req, snt_isn);
	e->segs = 1;
	e->tcp_flags = TCPHDR_SYN | TCPHDR_ACK;
	e->kind = KIND_SYNACK;
	e->state = TCP_SYN_RECV;
	e->attempt = BPF_CORE_READ(req, num_retrans) + 1; /* counted after the event */
	e->counted = 1;
	if (sk->__sk_common.skc_state != TCP_LISTEN) /* a fast-open child sends its own */
		return;
	e->listener = 1;
	e->syn_queue = BPF_CORE_READ(icsk, icsk_accept_queue.qlen.counter);
	e->accept_queue = sk->sk_ack_backlog;
	e->accept_queue_max = sk->sk_max_ack_backlog;
	e->hint = synack_hint(icsk, req, e->accept_queue > e->accept_queue_max);
}

/* The listener is not locked here, and the holder of its lock may be in accept(): use the recorded owner. */
static __always_inline int synack_sent_again(unsigned long long *ctx, struct sock *sk, struct request_sock *req,
					     bool with_why)
{
	struct sock_state *s = state_find(sk);
	struct owner owner;
	union key_or_look at;
	struct flow *flow = &at.key.flow;

	flow_of(flow, (struct sock *)req, NULL);
	if (!passes_filters(sk, flow, s, &owner))
		return 0;
	if (counting) {
		group_fill(&at.key, sk, &owner, 0);
		count_add(&at.key, 1);
		return 0;
	}
	struct retrans *e = event_reserve(SIZE_WITH_STACK(struct retrans));
	if (!e)
		return 0;
	if (owner.source != PID_UNKNOWN)
		owner.source = PID_LISTENER;
	head_fill(&e->head, sk, flow, &owner, RETRANSMITTED);
	synack_fill(e, sk, req);
	if (with_why)
		why_synack(e, req, &at.look);
	STACK_TAKE(ctx, e);
	event_submit(e, SIZE_WITH_STACK(struct retrans));
	return 0;
}

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(retransmit_synack, struct sock *sk, struct request_sock *req)
{
	return synack_sent_again(ctx, sk, req, false);
}

SEC("?tp_btf/tcp_retransmit_synack")
int BPF_PROG(retransmit_synack_why, struct sock *sk, struct request_sock *req)
{
	return synack_sent_again(ctx, sk, req, true);
}

/* ---------------------------------------------------------------- totals of the sockets that are open */

static __always_inline void show_open(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct total e;
	struct flow flow;

	int state = sk->__sk_common.skc_state;
	if (state == TCP_CLOSE || state == TCP_LISTEN || !s->tool.begun)
		return;
	if (!tp)
		return;
	struct owner owner;
	owner_now(&owner, s, sk, tp);
	flow_of(&flow, sk, tp);
	if (!matches(sk, &flow, &owner))
		return;
	struct send_stats stats = s->tool;
	if (!stats_report(&e.sent, &stats, tp))
		return;
	head_fill_seen(&e.head, bpf_ktime_get_boot_ns(), sk, &flow, &owner, TOTAL);
	/* Reported twice if the socket closes on another CPU at this moment: no lock covers both. What finds no room is
	 * discarded, and the socket is visited again (kernel/bpf/bpf_iter.c: bpf_seq_read). */
	if (!seen_write(seq, &e, sizeof(e)))
		s->tool.reported = stats.reported;
}
EACH_SOCKET(open_totals, show_open)
