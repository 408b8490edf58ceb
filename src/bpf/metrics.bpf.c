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
#include "kernel/packet.bpf.h"
#include "kernel/reason.bpf.h"
#include "metrics/counters.bpf.h"
#include "segment.bpf.h"
EXPORT_ENUM(outcome);
EXPORT_ENUM(kind);
EXPORT_ENUM(accepted);
EXPORT_ENUM(buffer_event);

const volatile bool reset_has_reason = false; /* tcp_send_reset has its third argument (6.10) */

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

/* ---------------------------------------------------------------- resets */

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

/* ---------------------------------------------------------------- what is thrown away */

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

/* ---------------------------------------------------------------- a look at what is there */

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
