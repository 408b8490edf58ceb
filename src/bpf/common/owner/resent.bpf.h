/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Why a segment is sent again, and whether the kernel counts it. TOOL_STATE has a struct resent named `resent`. */
#ifndef TCPTOOLS_RESENT_BPF_H
#define TCPTOOLS_RESENT_BPF_H

#include "kernel/resent.h"
#include "tcp.bpf.h"

const volatile bool reports_err = false; /* tcp_retransmit_skb has its third argument (6.16) */

/*
 * Loss is the state after a timeout, but also of retransmissions without one: after path MTU discovery, and of data
 * sent with a SYN that was not accepted (net/ipv4/tcp_input.c: tcp_simple_retransmit). Those clear undo_marker, as does
 * a timeout in state CWR; then the recorded timeout decides.
 */
static __always_inline bool after_timeout(struct tcp_sock *tp, struct sock_state *s)
{
	if (tp->inet_conn.icsk_retransmits) {
		if (s)
			s->tool.resent.timed_out = 1;
		return true;
	}
	return tp->undo_marker || (s && s->tool.resent.timed_out);
}

/*
 * A probe is sent when its timer is due. It may be pending while something else is retransmitted: before 5.15, data
 * sent with a SYN that was not accepted (net/ipv4/tcp_input.c: tcp_rcv_fastopen_synack). Later kernels are in state
 * Loss then, and the newest have no such field.
 */
static __always_inline bool probe_is_due(struct inet_connection_sock *icsk)
{
	if (icsk->icsk_pending != ICSK_TIME_LOSS_PROBE)
		return false;
	return !bpf_core_field_exists(icsk->icsk_timeout) || (__s64)(bpf_jiffies64() - icsk->icsk_timeout) >= 0;
}

/* A probe timer may be pending while a fast retransmission goes out, so the congestion state comes first. */
static __always_inline __u8 kind_of(struct tcp_sock *tp, __u16 flags, __u8 ca_state, struct sock_state *s)
{
	if (s && ca_state != TCP_CA_LOSS)
		s->tool.resent.timed_out = 0;
	if (flags & TCPHDR_SYN)
		return flags & TCPHDR_ACK ? KIND_SYNACK : KIND_SYN;
	if (ca_state == TCP_CA_LOSS)
		return after_timeout(tp, s) ? KIND_RTO : KIND_OTHER;
	if (ca_state == TCP_CA_RECOVERY)
		return KIND_FAST;
	return probe_is_due(&tp->inet_conn) ? KIND_TLP : KIND_OTHER;
}

/*
 * Whether the kernel counts the attempt in RetransSegs: it does once the segment is built, whatever happens then
 * (net/ipv4/tcp_output.c: __tcp_retransmit_skb). Lower layers may return the same errors as the steps before, so the
 * socket's own counter decides, once it is known.
 */
static __always_inline bool is_counted(struct tcp_sock *tp, struct sock_state *s, int err)
{
	bool early = err == -EBUSY || err == -EAGAIN || err == -EINVAL || err == -ENOMEM || err == -EHOSTUNREACH;

	if (!reports_err || !s)
		return !early;
	__u32 total = tp->total_retrans;
	if (early && s->tool.resent.counts_known)
		early = total == s->tool.resent.total_retrans;
	s->tool.resent.total_retrans = total;
	s->tool.resent.counts_known = 1;
	return !early;
}

#endif
