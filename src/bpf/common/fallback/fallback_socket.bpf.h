/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Fields read from sockets in fallback mode: with the types of a file (--btf), or the kernel's own if only the ring
 * buffer is missing. Without types all of this is dead code. Fields missing from the types stay 0.
 */
#ifndef TCPTOOLS_FALLBACK_SOCKET_BPF_H
#define TCPTOOLS_FALLBACK_SOCKET_BPF_H

#include "kernel/cgroup.bpf.h"
#include "ending.bpf.h"
#include "kernel/packet.bpf.h"
#include "fallback/fallback.bpf.h"
#include "request.bpf.h"
#include <bpf/bpf_core_read.h>

/*
 * A field of the kernel's structs, if the user's file describes them; dead code otherwise. Read with a helper, which
 * libbpf replaces with bpf_probe_read() before 5.5.
 */
#define HAS(ptr, field) bpf_core_field_exists((ptr)->field)
#define TAKE(to, ptr, field)                              \
	do {                                              \
		if (HAS(ptr, field))                      \
			(to) = BPF_CORE_READ(ptr, field); \
	} while (0)

/* Whether the socket matches the record: the last guard against BTF of another kernel. */
static __always_inline bool is_socket(struct sock *sk)
{
	__u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	return family == AF_INET || family == AF_INET6;
}

/* Not inlined: shared by all programs, because every command contains all of these. */
static __noinline void sock_note(struct trace_event *e)
{
	struct sock *sk = (struct sock *)e->skaddr;

	e->uid = ~0U;
	if (!HAS(sk, sk_uid) || !HAS(sk, __sk_common.skc_family) || !sk || !is_socket(sk))
		return;
	TAKE(e->uid, sk, sk_uid.val);
	if (HAS(sk, __sk_common.skc_net))
		e->netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	if (has_zone(&e->flow)) {
		__u32 bound = 0;
		TAKE(bound, sk, __sk_common.skc_bound_dev_if);
		if (bound) /* otherwise a listener's, and the packet has it */
			e->flow.ifindex = bound;
	}
	if (config.set.cgroup)
		e->in_cgroups = has_cgroup(&config.filter.cgroup, sk) != !!config.filter.cgroup.negate;
	if (!e->cookie)
		TAKE(e->cookie, sk, __sk_common.skc_cookie.counter);
}

static __always_inline void bytes_note(struct byte_counts *e, struct tcp_sock *tp)
{
	TAKE(e->acked, tp, bytes_acked);
	TAKE(e->received, tp, bytes_received);
	TAKE(e->sent, tp, bytes_sent);
	TAKE(e->retrans, tp, bytes_retrans);
	TAKE(e->wqueue, tp, write_seq);
	e->notsent = e->wqueue;
	if (HAS(tp, snd_una))
		e->wqueue -= BPF_CORE_READ(tp, snd_una);
	if (HAS(tp, snd_nxt))
		e->notsent -= BPF_CORE_READ(tp, snd_nxt);
}

static __always_inline void connection_note(struct close_event *e, struct tcp_sock *tp)
{
	struct inet_connection_sock *icsk = (void *)tp;

	e->min_rtt_us = ~0U;
	bytes_note(&e->bytes, tp);
	TAKE(e->srtt_us, tp, srtt_us);
	e->srtt_us >>= 3;
	if (HAS(tp, rtt_min.s))
		e->min_rtt_us = BPF_CORE_READ(tp, rtt_min.s[0].v);
	TAKE(e->total_retrans, tp, total_retrans);
	TAKE(e->snd_cwnd, tp, snd_cwnd);
	TAKE(e->mss, tp, mss_cache);
	TAKE(e->rate_delivered, tp, rate_delivered);
	TAKE(e->rate_interval_us, tp, rate_interval_us);
	TAKE(e->segs_out, tp, segs_out);
	if (HAS(tp, is_mptcp))
		e->mptcp = BPF_CORE_READ_BITFIELD_PROBED(tp, is_mptcp);
	if (HAS(icsk, icsk_ca_ops)) {
		const struct tcp_congestion_ops *ops = BPF_CORE_READ(icsk, icsk_ca_ops);
		bpf_probe_read_kernel(e->ca_name, sizeof(e->ca_name), ops->name);
	}
	e->known |= KNOWN_TCP;
}

/* The change to CLOSE. The state is not written yet. */
static __noinline void close_note(struct close_event *e)
{
	struct sock *sk = (struct sock *)e->trace.skaddr;
	struct tcp_sock *tp = (void *)sk;

	if (!HAS(sk, sk_err) || !HAS(sk, __sk_common.skc_state) || !HAS(sk, __sk_common.skc_family) || !is_socket(sk))
		return;
	if (BPF_CORE_READ(sk, __sk_common.skc_state) != e->trace.old_state ||
	    BPF_CORE_READ(sk, __sk_common.skc_dport) != bpf_htons(e->trace.flow.rport))
		return;
	e->err = BPF_CORE_READ(sk, sk_err);
	if (e->trace.old_state == TCP_SYN_SENT || e->trace.old_state == TCP_SYN_RECV)
		e->err = connect_error(sk, e->err);
	e->known = KNOWN_ERROR;
	if (!HAS(sk, __sk_common.skc_flags) || !HAS(tp, bytes_acked) || e->trace.protocol != IPPROTO_TCP)
		return;
	e->fin_received = BPF_CORE_READ(sk, __sk_common.skc_flags) >> SOCK_DONE & 1;
	connection_note(e, tp);
}

/* Whether the record's socket can be read. */
static __always_inline bool is_readable(struct sock *sk)
{
	return HAS(sk, __sk_common.skc_family) && HAS(sk, __sk_common.skc_state) && sk && is_socket(sk);
}

/* As segment_fill() of tcpretrans.bpf.c. */
static __noinline void segment_note(struct segment_event *e, struct sk_buff *skb)
{
	struct tcp_sock *tp = (void *)e->trace.skaddr;
	struct inet_connection_sock *icsk = (void *)tp;
	struct tcp_skb_cb *cb = (void *)skb + bpf_core_field_offset(skb->cb);

	if (!HAS(skb, cb) || !HAS(cb, end_seq) || !HAS(tp, snd_cwnd) || !is_readable((struct sock *)tp))
		return;
	TAKE(e->seq, cb, seq);
	TAKE(e->end_seq, cb, end_seq);
	e->segs = BPF_CORE_READ(cb, tcp_gso_segs);
	e->tcp_flags = skb_tcp_flags(cb);
	TAKE(e->rto_jiffies, icsk, icsk_rto);
	TAKE(e->srtt_us, tp, srtt_us);
	e->srtt_us >>= 3;
	TAKE(e->snd_cwnd, tp, snd_cwnd);
	e->in_flight_bytes = BPF_CORE_READ(tp, snd_nxt) - BPF_CORE_READ(tp, snd_una);
	TAKE(e->undo_marker, tp, undo_marker);
	TAKE(e->sent_jiffies, tp, lsndtime);
	e->ca_state = BPF_CORE_READ_BITFIELD_PROBED(icsk, icsk_ca_state);
	TAKE(e->retransmits, icsk, icsk_retransmits);
	TAKE(e->pending, icsk, icsk_pending);
	if (HAS(icsk, icsk_timeout)) {
		e->timer_jiffies = BPF_CORE_READ(icsk, icsk_timeout);
		e->has_timer = 1;
	}
	e->known = 1;
}

/* As synack_fill() of tcpretrans.bpf.c. */
static __noinline void synack_note(struct segment_event *e, struct request_sock *req)
{
	struct sock *sk = (struct sock *)e->trace.skaddr;
	struct inet_connection_sock *icsk = (void *)sk;

	if (!HAS(req, num_retrans) || !HAS((struct tcp_request_sock *)req, snt_isn) || !is_readable(sk))
		return;
	e->seq = BPF_CORE_READ((struct tcp_request_sock *)req, snt_isn);
	e->retransmits = BPF_CORE_READ(req, num_retrans);
	e->known = 1;
	if (BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN) /* a fast-open child sends its own */
		return;
	e->listener = 1;
	if (HAS(icsk, icsk_accept_queue.qlen.counter))
		e->syn_queue = BPF_CORE_READ(icsk, icsk_accept_queue.qlen.counter);
	TAKE(e->accept_queue, sk, sk_ack_backlog);
	TAKE(e->accept_queue_max, sk, sk_max_ack_backlog);
	e->hint = synack_hint(icsk, req, e->accept_queue > e->accept_queue_max);
}

/* As adjust_fill() of tcprcvspace.bpf.c. */
static __noinline void read_note(struct read_event *e)
{
	struct sock *sk = (struct sock *)e->trace.skaddr;
	struct tcp_sock *tp = (void *)sk;

	if (!HAS(tp, rcvq_space.time) || !HAS(tp, rcv_rtt_est.rtt_us) || !is_readable(sk))
		return;
	__s64 us = bpf_ktime_get_ns() / 1000 - BPF_CORE_READ(tp, rcvq_space.time);
	__u32 copied = BPF_CORE_READ(tp, copied_seq);

	e->measure_us = us > 0 ? us : 0;
	e->copied = copied - BPF_CORE_READ(tp, rcvq_space.seq);
	e->queued = BPF_CORE_READ(tp, rcv_nxt) - copied;
	e->space = BPF_CORE_READ(tp, rcvq_space.space);
	e->rcv_rtt_us = BPF_CORE_READ(tp, rcv_rtt_est.rtt_us);
	TAKE(e->rcvbuf, sk, sk_rcvbuf);
	if (HAS(sk, sk_backlog.rmem_alloc.counter))
		e->rmem_alloc = BPF_CORE_READ(sk, sk_backlog.rmem_alloc.counter);
	TAKE(e->window_clamp, tp, window_clamp);
	TAKE(e->rcv_ssthresh, tp, rcv_ssthresh);
	TAKE(e->rcv_wnd, tp, rcv_wnd);
	if (HAS((struct net *)0, ipv4.sysctl_tcp_rmem)) {
		struct net *net = BPF_CORE_READ(sk, __sk_common.skc_net.net);
		e->rmem_max = BPF_CORE_READ(net, ipv4.sysctl_tcp_rmem[2]);
		e->moderated = BPF_CORE_READ(net, ipv4.sysctl_tcp_moderate_rcvbuf);
	}
	e->userlocks = BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks);
	e->known = 1;
}

/* What tcpreset.bpf.c reads of a session and of the packet. */
static __noinline void reset_note(struct reset_event *e, struct sk_buff *skb)
{
	struct sock *sk = (struct sock *)e->trace.skaddr;
	struct tcp_sock *tp = (void *)sk;

	if (HAS(skb, transport_header) && skb) {
		struct flow flow;
		bool known = packet_flow(&flow, &e->trigger, skb);
		if (known && (!sk || e->trace.state == TCP_LISTEN))
			e->trace.flow = flow;
		if (!sk && HAS(skb, dev))
			e->trace.netns = BPF_CORE_READ(skb, dev, nd_net.net, ns.inum);
	}
	if (!HAS(tp, bytes_retrans) || !HAS(sk, sk_shutdown) || !is_readable(sk))
		return;
	e->sk_state = BPF_CORE_READ(sk, __sk_common.skc_state);
	e->shutdown = BPF_CORE_READ_BITFIELD_PROBED(sk, sk_shutdown);
	e->fin_received = BPF_CORE_READ(sk, __sk_common.skc_flags) >> SOCK_DONE & 1;
	bytes_note(&e->bytes, tp);
	if (e->sk_state == TCP_LISTEN && HAS(sk, sk_max_ack_backlog) && HAS(sk, __sk_common.skc_net)) {
		struct overflow now = overflow_of(sk);
		e->listener = 1;
		e->accept_queue = now.accept_queue;
		e->accept_queue_max = now.accept_queue_max;
		e->aborts = now.aborts;
	}
	e->known = 1;
}

#endif
