/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * metrics: counters and histograms of what the commands show as rows. No event makes a record: user space reads the counters
 * when it is asked for them, after a look at the sockets that are there.
 */
#include "kernel/resent.h"

struct connection {
	__u64 open_ns;  /* entry into SYN_SENT; 0: not seen */
	__u64 start_ns; /* entry into ESTABLISHED; 0: not seen */
	__u64 sent;     /* bytes that are counted, or were before the first sight */
	__u64 received;
	__u32 dsack_dups;   /* likewise */
	__u32 data_segs_in; /* when our FIN was queued */
	__u32 ended;        /* what its end was counted by */
	__u8 flags;
	__u8 pad[3];
	struct resent resent;
};

enum {
	BEGUN = 1,
	ACTIVE_OPEN = 2,
	OPENING = 4, /* an open whose outcome is not known yet */
	CHILD = 8,   /* a listener's, in its handshake */
	RST_SENT = 16,
	RST_RECEIVED = 32,
	MAY_CHANGE = 64,      /* a reset that follows the end changes its reason */
	MAYBE_SPURIOUS = 128, /* tcp_receive_reset may have fired without an RST: see tcpreset.bpf.c */
};

#define TOOL_STATE struct connection
#include "tcp.bpf.h"
#include "owner/ended.bpf.h"
#include "owner/nested.bpf.h"
#include "owner/resent.bpf.h"
#include "bytes.bpf.h"
#include "ending.bpf.h"
#include "metrics/counters.bpf.h"
EXPORT_ENUM(outcome);
EXPORT_ENUM(kind);
EXPORT_ENUM(accepted);
EXPORT_ENUM(buffer_event);

/* ---------------------------------------------------------------- what a connection has carried */

static __always_inline void traffic_of(__u64 *sent, __u64 *received, struct sock *sk, struct tcp_sock *tp, int state,
				       struct connection *conn)
{
	app_bytes(sent, received, sk, tp, state, conn->flags & ACTIVE_OPEN);
}

/* Counts what has come since the last time. `state`: before a close. */
static __always_inline void traffic_count(struct group_key *key, struct sock *sk, struct tcp_sock *tp, int state,
					  struct connection *conn)
{
	__u64 sent, received, sent_before = conn->sent, received_before = conn->received;
	__u32 dups = tp->dsack_dups - conn->dsack_dups;

	traffic_of(&sent, &received, sk, tp, state, conn);
	if (sent > sent_before) {
		conn->sent = sent;
		count(key, COUNT_SENT, sent - sent_before);
	}
	if (received > received_before) {
		conn->received = received;
		count(key, COUNT_RECEIVED, received - received_before);
	}
	if (dups) {
		conn->dsack_dups += dups;
		count(key, COUNT_SPURIOUS, dups);
	}
}

/* A connection that was there before. */
static __always_inline void connection_begin_late(struct connection *conn, struct sock *sk, struct tcp_sock *tp,
						  int state)
{
	conn->flags = BEGUN;
	if (state == TCP_SYN_SENT)
		conn->flags |= OPENING | ACTIVE_OPEN;
	else if (state == TCP_SYN_RECV)
		conn->flags |= CHILD;
	else if (opened_here(tp, state))
		conn->flags |= ACTIVE_OPEN;
	conn->data_segs_in = tp->data_segs_in;
	conn->dsack_dups = tp->dsack_dups;
	traffic_of(&conn->sent, &conn->received, sk, tp, state, conn);
}

static __always_inline void may_begin_late(struct sock_state *s, struct sock *sk, struct tcp_sock *tp, int state)
{
	if (!(s->tool.flags & BEGUN) && tp && state != TCP_CLOSE && state != TCP_LISTEN)
		connection_begin_late(&s->tool, sk, tp, state);
}

/* ---------------------------------------------------------------- following a connection */

static __always_inline void connection_begin(struct sock_state *s, int new)
{
	__builtin_memset(&s->tool, 0, sizeof(s->tool));
	s->tool.flags = BEGUN;
	if (new == TCP_SYN_SENT) {
		s->tool.flags |= OPENING | ACTIVE_OPEN;
		s->tool.open_ns = bpf_ktime_get_boot_ns();
		s->tool.resent.counts_known = 1; /* a child begins with those of its SYN/ACK */
	} else if (new == TCP_SYN_RECV) {
		s->tool.flags |= CHILD;
	}
}

/* TCP_FASTOPEN_CONNECT: the SYN may have waited for the first write. */
static __always_inline bool waited_for_data(struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, fastopen_connect) && BPF_CORE_READ_BITFIELD(tp, syn_fastopen);
}

/* An open has succeeded: ours, or one that a listener's child has accepted. */
static __always_inline void on_open(struct sock_state *s, struct sock *sk, struct tcp_sock *tp)
{
	struct group_key key = {};
	__u64 now = bpf_ktime_get_boot_ns();
	__u64 open_ns = s->tool.open_ns;
	bool opening = s->tool.flags & OPENING;

	s->tool.flags &= ~(OPENING | CHILD | RST_SENT);
	s->tool.start_ns = now;
	if (BPF_CORE_READ_BITFIELD(tp, repair) || !labels_of(&key, sk, tp, s))
		return;
	if (!opening) {
		count(&key, COUNT_ACCEPTED + ACCEPTED_ESTABLISHED, 1);
		return;
	}
	count(&key, COUNT_OPENED + OUTCOME_ESTABLISHED, 1);
	if (open_ns && !waited_for_data(tp))
		count_span(&key, SPAN_HANDSHAKE, now - open_ns);
}

static __always_inline void failure_count(struct group_key *key, struct sock *sk, struct tcp_sock *tp, __u8 flags)
{
	if (flags & CHILD) {
		count(key, COUNT_ACCEPTED + ACCEPTED_ABORTED, 1);
		return;
	}
	int error = connect_error(sk, sk->sk_err);
	__u32 outcome = outcome_of_error(error);
	/* See tcpconnect.bpf.c. */
	if (outcome == OUTCOME_ABORTED && !error && !local_port(sk, tp))
		outcome = OUTCOME_NO_PORT;
	if (!BPF_CORE_READ_BITFIELD(tp, repair))
		count(key, COUNT_OPENED + outcome, 1);
}

static __always_inline void end_count(struct group_key *key, struct sock *sk, struct tcp_sock *tp, int old,
				      struct connection *conn)
{
	__u32 facts = ended_by_socket(sk, tp, conn->data_segs_in, sk->sk_err);
	__u64 start_ns = conn->start_ns;
	__u32 srtt_us = tp->srtt_us >> 3, min_rtt_us = tp->rtt_min.s[0].v;

	if (conn->flags & RST_SENT)
		facts |= ENDED_RST_SENT;
	if (conn->flags & RST_RECEIVED)
		facts |= ENDED_RST_RECEIVED;
	if (is_closing(old)) /* in other states a later reset does not change the reason */
		conn->flags |= MAY_CHANGE;
	conn->ended = ENDED_BY(sk->sk_err, old, facts);
	count(key, conn->ended, 1);
	if (start_ns)
		count_span(key, SPAN_SESSION, bpf_ktime_get_boot_ns() - start_ns);
	if (srtt_us)
		count_span(key, SPAN_SRTT, srtt_us * 1000ULL);
	if (min_rtt_us != ~0U)
		count_span(key, SPAN_MIN_RTT, min_rtt_us * 1000ULL);
}

static __always_inline void on_close(struct sock_state *s, struct sock *sk, struct tcp_sock *tp, int old)
{
	struct group_key key = {};
	__u8 flags = s->tool.flags;

	if (!(flags & BEGUN) || !labels_of(&key, sk, tp, s))
		return;
	if (flags & (OPENING | CHILD))
		failure_count(&key, sk, tp, flags);
	else
		end_count(&key, sk, tp, old, &s->tool);
	traffic_count(&key, sk, tp, old, &s->tool);
}

/* A function, whose stack is not added to that of what is below state_make(). */
static __noinline int changed(struct sock *sk, struct sock_state *s, int old, int new)
{
	struct tcp_sock *tp = sk ? tcp_of(sk) : NULL;

	if (!tp || !s)
		return 0;
	if (owned)
		owner_on_state_change(s, sk, old, new);
	if (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK)
		s->tool.data_segs_in = tp->data_segs_in;
	if (new == TCP_CLOSE) {
		if (old != TCP_LISTEN)
			on_close(s, sk, tp, old);
	} else if (new == TCP_ESTABLISHED || old == TCP_SYN_RECV) {
		if (s->tool.flags & (OPENING | CHILD))
			on_open(s, sk, tp);
	}
	return 0;
}

/* The others change nothing that is kept. */
static __always_inline bool is_followed(int old, int new)
{
	return new == TCP_CLOSE || new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK || new == TCP_SYN_SENT ||
	       new == TCP_LISTEN || new == TCP_ESTABLISHED || (old == TCP_LISTEN && new == TCP_SYN_RECV);
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	struct sock_state *s;

	if (old == new || !is_followed(old, new) || !protocol_matches(sk) || never_matches(sk, new))
		return;
	bool unlistened = old == TCP_LISTEN && new == TCP_CLOSE;
	s = unlistened ? state_find(sk) : state_make(sk);
	if (!s || !claim_change(s, old, new))
		return;
	if (new == TCP_SYN_SENT || new == TCP_LISTEN || (old == TCP_LISTEN && new == TCP_SYN_RECV))
		connection_begin(s, new);
	else if (!(s->tool.flags & BEGUN))
		may_begin_late(s, sk, tcp_of(sk), old);
	changed(sk, s, old, new);
	if (new == TCP_CLOSE)
		state_end(s, sk);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

#define OWN_SET_STATE
#define SOCK_SCAN(sk, tp, s) may_begin_late(s, sk, tp, (sk)->__sk_common.skc_state)
#include "owner/owner.bpf.h"

/* ---------------------------------------------------------------- what is sent again */

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(retransmit_skb, struct sock *sk, struct sk_buff *skb)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct tcp_skb_cb *cb = (void *)__builtin_preserve_access_index(&skb->cb);
	struct group_key key = {};

	if (!tp)
		return 0;
	int err = reports_err ? (int)ctx[2] : 0;
	__u16 flags = skb_tcp_flags(cb);
	__u8 ca_state = ca_state_of(tp);
	__u32 segs = BPF_CORE_READ(cb, tcp_gso_segs);
	struct sock_state *s = state_find(sk);
	__u8 kind = kind_of(tp, flags, ca_state, s);
	if (!is_counted(tp, s, err) || !labels_of(&key, sk, tp, s))
		return 0;
	count(&key, COUNT_RETRANSMITTED + kind, segs);
	return 0;
}

SEC("tp_btf/tcp_retransmit_synack")
int BPF_PROG(retransmit_synack, struct sock *sk, struct request_sock *req)
{
	struct group_key key = {};

	if (!plain)
		flow_of(&key.flow, (struct sock *)req, NULL);
	if (labels_of_flow(&key, sk, plain ? NULL : state_find(sk)))
		count(&key, COUNT_RETRANSMITTED + KIND_SYNACK, 1);
	return 0;
}

#include "metrics/drops.bpf.h"
#include "metrics/look.bpf.h"
#include "metrics/resets.bpf.h"
