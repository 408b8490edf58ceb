/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tcplife: one record per TCP session, when it ends; and, on request, one per session that is still open. */
#include "kernel/kernel.h"

struct connection {
	__u64 start_ns; /* ESTABLISHED, or SYN_SENT until then; the first sight of a session open before the trace */
	__u32 data_segs_in; /* when our FIN was queued */
	__u8 flags;
	__u8 pad[3];
};

#define TOOL_STATE struct connection
#include "tcp.bpf.h"
#include "owner/ended.bpf.h"
#include "owner/nested.bpf.h"
#include "bytes.bpf.h"
#include "ending.bpf.h"
#include "idle.bpf.h"

enum { ACTIVE_OPEN = 1, PARTIAL = 2, RST_SENT = 4, RST_RECEIVED = 8, REPORTED = 16, MAY_CHANGE = 32 };

#define BYTES_UNKNOWN (~0ULL)

/* Which record it is: head.event. */
enum event_kind { SESSION_CLOSED, SESSION_OPEN, SESSION_AMENDED };
EXPORT_ENUM(event_kind);

struct session {
	struct head head;
	__u64 tx_bytes;
	__u64 rx_bytes;
	__u64 duration_ns;
	__u32 srtt_us;    /* 0: none measured */
	__u32 min_rtt_us; /* ~0: none measured */
	__u32 total_retrans;
	__u32 snd_cwnd;
	__u32 mss;
	__u32 rate_delivered;
	__u32 rate_interval_us;
	__u8 ca_name[16];
	__u8 state;    /* before the close */
	__u8 reason;   /* as the next one, decided by the reader, by `ended` (src/commands/tcplife/close_reason.rs) */
	__u8 partial;  /* open before the trace: duration is a lower bound */
	__u8 mptcp;    /* 0 no, 1 subflow, 2 the connection above its subflows */
	__u8 deferred; /* a reset that follows within microseconds may still change the reason */
	__u8 errno_;
	__u16 ended;         /* enum ended */
	__u32 idle_jiffies;  /* since the last data, in either direction; ~0: not known */
	__u64 delivery_rate; /* bytes/s, as inet_diag has it; 0: see rate_delivered */
	__u64 sock;          /* its address: identifies the record to amend, also without a cookie */
};
EXPORT_TYPE(session);

/* Take the statistics for wide rows and JSON. */
const volatile bool detail = false;

/* ---------------------------------------------------------------- how it ended */

/* At the change to CLOSE. */
static __always_inline __u16 ended(struct sock *sk, struct tcp_sock *tp, struct connection *conn, int error)
{
	__u16 bits = ended_by_socket(sk, tp, conn->data_segs_in, error);

	if (conn->flags & RST_SENT)
		bits |= ENDED_RST_SENT;
	if (conn->flags & RST_RECEIVED)
		bits |= ENDED_RST_RECEIVED;
	return bits;
}

/* ---------------------------------------------------------------- the record */

static __always_inline void bytes_of(struct session *e, struct sock *sk, struct tcp_sock *tp, int state,
				     struct connection *conn)
{
	if (tp)
		app_bytes(&e->tx_bytes, &e->rx_bytes, sk, tp, state, conn->flags & ACTIVE_OPEN);
	else if (!mptcp_bytes(sk, &e->tx_bytes, &e->rx_bytes))
		e->tx_bytes = e->rx_bytes = BYTES_UNKNOWN;
	else if (is_closing(state))
		e->tx_bytes -= mptcp_fin_acked(sk);
}

static __always_inline void detail_of(struct session *e, struct tcp_sock *tp)
{
	e->srtt_us = tp->srtt_us >> 3;
	e->min_rtt_us = tp->rtt_min.s[0].v;
	e->total_retrans = tp->total_retrans;
	e->snd_cwnd = tp->snd_cwnd;
	e->mss = tp->mss_cache;
	e->rate_delivered = tp->rate_delivered;
	e->rate_interval_us = tp->rate_interval_us;
	ca_name_of(e->ca_name, tp);
	e->idle_jiffies = idle_jiffies(tp);
}

static __always_inline void session_fill(struct session *e, struct sock *sk, struct tcp_sock *tp, int state,
					 struct connection *conn)
{
	__builtin_memset(&e->tx_bytes, 0, sizeof(*e) - sizeof(e->head));
	bytes_of(e, sk, tp, state, conn);
	e->duration_ns = e->head.boot_ns - conn->start_ns;
	e->state = state;
	e->partial = !!(conn->flags & PARTIAL);
	e->mptcp = tp ? is_mptcp_subflow(tp) : 2;
	e->idle_jiffies = IDLE_UNKNOWN;
	if (detail && tp)
		detail_of(e, tp);
}

/* ---------------------------------------------------------------- following a session */

/* A session that was open before the trace. */
static __always_inline void connection_begin_late(struct connection *conn, struct tcp_sock *tp, int state)
{
	__builtin_memset(conn, 0, sizeof(*conn));
	conn->start_ns = bpf_ktime_get_boot_ns();
	conn->flags = PARTIAL;
	if (!tp)
		return;
	conn->data_segs_in = tp->data_segs_in;
	if (opened_here(tp, state))
		conn->flags |= ACTIVE_OPEN;
}

static __always_inline struct sock_state *state_of(struct sock *sk, int old)
{
	struct sock_state *s = state_make(sk);

	if (s && !s->tool.start_ns && old != TCP_CLOSE && old != TCP_LISTEN)
		connection_begin_late(&s->tool, tcp_of(sk), old);
	return s;
}

static __always_inline void on_open(struct sock_state *s, struct sock *sk, int old, int new)
{
	if (new == TCP_ESTABLISHED) {
		s->tool.start_ns = bpf_ktime_get_boot_ns();
		s->tool.flags &= ~(PARTIAL | RST_SENT);
		if (old == TCP_SYN_SENT)
			s->tool.flags |= ACTIVE_OPEN;
		return;
	}
	__builtin_memset(&s->tool, 0, sizeof(s->tool));
	s->tool.start_ns = bpf_ktime_get_boot_ns();
	if (new == TCP_SYN_SENT)
		s->tool.flags = ACTIVE_OPEN;
	owner_on_state_change(s, sk, old, new);
}

static __always_inline void on_fin_queued(struct sock_state *s, struct sock *sk, int old, int new)
{
	struct tcp_sock *tp = tcp_of(sk);

	owner_on_state_change(s, sk, old, new);
	if (tp)
		s->tool.data_segs_in = tp->data_segs_in;
}

static __always_inline void on_close(struct sock_state *s, struct sock *sk, int old)
{
	struct tcp_sock *tp = tcp_of(sk);
	struct owner owner;
	struct flow flow;

	int error = old == TCP_SYN_SENT ? connect_error(sk, sk->sk_err) : sk->sk_err;
	s->tool.flags |= REPORTED;
	if (is_closing(old) || old == TCP_SYN_RECV) /* in other states a later reset does not change the reason */
		s->tool.flags |= MAY_CHANGE;
	owner_on_state_change(s, sk, old, TCP_CLOSE);
	flow_of(&flow, sk, tp);
	if (!passes_filters(sk, &flow, s, &owner))
		return;
	struct session *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, SESSION_CLOSED);
	session_fill(e, sk, tp, old, &s->tool);
	e->sock = (__u64)sk;
	e->ended = ended(sk, tp, &s->tool, error);
	e->errno_ = error;
	event_submit(e, sizeof(*e));
}

/* The others change nothing that is kept. */
static __always_inline bool is_followed(int old, int new)
{
	return new == TCP_CLOSE || new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK || new == TCP_SYN_SENT ||
	       new == TCP_LISTEN || new == TCP_ESTABLISHED || (old == TCP_LISTEN && new == TCP_SYN_RECV);
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	if (old == new || !is_followed(old, new) || !protocol_matches(sk))
		return;
	if (never_matches(sk, new)) {
		if (new == TCP_CLOSE && old != TCP_LISTEN)
			count_filtered();
		return;
	}
	bool unlistened = old == TCP_LISTEN && new == TCP_CLOSE;
	struct sock_state *s = unlistened ? state_find(sk) : state_of(sk, old);
	if (!s || !claim_change(s, old, new))
		return;
	if (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK)
		on_fin_queued(s, sk, old, new);
	else if (new != TCP_CLOSE)
		on_open(s, sk, old, new);
	else if (!unlistened)
		on_close(s, sk, old);
	if (new == TCP_CLOSE)
		state_end(s, sk);
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* ---------------------------------------------------------------- resets */

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(receive_reset, struct sock *sk)
{
	int state = sk->__sk_common.skc_state;

	if (!protocol_matches(sk) || never_matches(sk, state))
		return 0;
	struct sock_state *s = state_of(sk, state);
	if (s)
		s->tool.flags |= RST_RECEIVED;
	return 0;
}

/* The reset follows the record that it explains: notify user space, which defers such records. */
static __always_inline void amend(struct sock *sk)
{
	struct session *e = event_reserve(sizeof(*e));

	if (!e)
		return;
	__builtin_memset(e, 0, sizeof(*e));
	e->head.boot_ns = bpf_ktime_get_boot_ns();
	e->head.event = SESSION_AMENDED;
	e->sock = (__u64)sk;
	event_submit(e, sizeof(*e));
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(send_reset, struct sock *sk)
{
	if (!sk)
		return 0;
	/* Of a TIME_WAIT or request socket only sock_common may be read; a listener is not a session. */
	int state = sk->__sk_common.skc_state;
	if (state == TCP_TIME_WAIT || state == TCP_NEW_SYN_RECV || state == TCP_LISTEN)
		return 0;
	struct sock_state *s = state_find(sk);
	/* A table may have dropped the socket already; the reader knows whether it has a record of it. */
	if (!s && state == TCP_CLOSE && (config.missing.sk_storage || !config.missing.socket_table))
		amend(sk);
	if (!s)
		return 0;
	/* After CLOSE nothing is written: see state_end(). */
	if (state != TCP_CLOSE)
		s->tool.flags |= RST_SENT;
	else if (s->tool.flags & MAY_CHANGE)
		amend(sk);
	return 0;
}

/* ---------------------------------------------------------------- owners and sessions that are there already */

static __always_inline void sock_scan(struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	int state = sk->__sk_common.skc_state;

	if (!s->tool.start_ns && state != TCP_CLOSE && state != TCP_LISTEN)
		connection_begin_late(&s->tool, tp, state);
}

#define OWN_SET_STATE
#define SOCK_SCAN(sk, tp, s) sock_scan(sk, tp, s)
#include "owner/owner.bpf.h"

static __always_inline void show_open(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct session e;
	struct flow flow;

	int state = sk->__sk_common.skc_state;
	if (state == TCP_CLOSE || state == TCP_LISTEN || (s->tool.flags & REPORTED))
		return;
	struct owner owner;
	struct connection conn = s->tool;
	owner_now(&owner, s, sk, tp);
	flow_of(&flow, sk, tp);
	if (!matches(sk, &flow, &owner))
		return;
	head_fill_seen(&e.head, bpf_ktime_get_boot_ns(), sk, &flow, &owner, SESSION_OPEN);
	session_fill(&e, sk, tp, state, &conn);
	seen_write(seq, &e, sizeof(e));
}
EACH_SOCKET(open_sessions, show_open)
