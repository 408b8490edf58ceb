/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* tcplife: one record per TCP session, when it ends; and, on request, one per session that is still open. */
#include "kernel.h"

struct life {
	__u64 start_ns;     /* ESTABLISHED, or SYN_SENT until then; the first sight of a session open before the trace */
	__u32 data_segs_in; /* when our FIN was queued */
	__u8 flags;
	__u8 reason; /* the close_reason that was reported */
	__u8 pad[2];
};

#define TOOL_STATE struct life
#include "tcp.bpf.h"
#include "nested.bpf.h"
#include "bytes.bpf.h"
#include "ending.bpf.h"

enum { ACTIVE_OPEN = 1, PARTIAL = 2, RST_SENT = 4, RST_RECEIVED = 8, REPORTED = 16 };

#define BYTES_UNKNOWN (~0ULL)

/* Which record it is: head.event. */
enum event_kind { SESSION_CLOSED, SESSION_OPEN, SESSION_AMENDED };

enum close_reason {
	REASON_NONE,
	REASON_FIN_LOCAL,
	REASON_FIN_REMOTE,
	REASON_FIN_BOTH,
	REASON_RST_SENT,
	REASON_RST_RECEIVED,
	REASON_REFUSED,
	REASON_TIMEOUT,
	REASON_UNREACHABLE,
	REASON_ABORTED,
};

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
	__u8 state; /* before the close */
	__u8 reason;
	__u8 partial; /* open before the trace: duration is a lower bound */
	__u8 mptcp;   /* 0 no, 1 subflow, 2 the connection above its subflows */
	__u8 parked;  /* a reset that follows within microseconds may still change the reason */
	__u8 errno_;
	__u8 bare; /* made of tracepoints' records (src/bin/tcplife/record.rs): 0: every field is known; 1: none; 2: what inet_diag has; 3: errno_ */
	__u8 pad;
	__u32 pad2;
	__u64 told_rate; /* bytes/s, where `bare` */
	__u64 sock; /* its address: which record an amendment is of, also where cookies are unknown */
};
EXPORT_TYPE(session);

/* Take the statistics that only wide rows and JSON show. */
const volatile bool detail = false;

/* ---------------------------------------------------------------- how it ended */

struct ending {
	__u8 reason;
	bool parked;
};

/* A FIN has ended it, or seems to: who sent the first one. */
static __always_inline __u8 fin_order(int old)
{
	if (old == TCP_CLOSING)
		return REASON_FIN_BOTH;
	return old == TCP_LAST_ACK ? REASON_FIN_REMOTE : REASON_FIN_LOCAL;
}

/* What sk_err says: set before the change to CLOSE by everything but a FIN, a reset of ours and a local close(). */
static __always_inline __u8 reason_of_error(int error)
{
	if (error == ETIMEDOUT)
		return REASON_TIMEOUT;
	if (error == ECONNABORTED) /* tcp_abort(): ss -K, bpf_sock_destroy() */
		return REASON_ABORTED;
	if (error == ECONNREFUSED) /* ICMP port unreachable; an RST has been seen before */
		return REASON_REFUSED;
	if (error == ECONNRESET || error == EPIPE) /* an RST that came before there was state to note it in */
		return REASON_RST_RECEIVED;
	return REASON_UNREACHABLE;
}

/*
 * Whether sk_err is what ended it. An ICMP error that IP_RECVERR lets the process see ends nothing and may wait there, so
 * neither a close() by the process, nor a FIN that was acknowledged, is due to it. A timeout ends it by the error that
 * is in sk_err_soft, if there is one (net/ipv4/tcp_timer.c: tcp_write_err); IP_RECVERR's is not (tcp_ipv4.c: tcp_v4_err).
 */
static __always_inline bool ended_by_error(struct sock *sk, struct tcp_sock *tp, int old, struct life *life, int error)
{
	if (!error || error == ETIMEDOUT || error == ECONNABORTED || !tp)
		return error;
	if (old == TCP_SYN_SENT || old == TCP_SYN_RECV || error == ECONNRESET || error == EPIPE)
		return true;
	if (sk->sk_err_soft != error)
		return false;
	if (old == TCP_FIN_WAIT2) /* keepalive, which resets first */
		return life->flags & RST_SENT;
	return !(old == TCP_LAST_ACK || old == TCP_CLOSING) || tp->snd_una != tp->write_seq;
}

/* Nothing that was received ended it: a reset of ours is about to leave, or nothing is sent at all. */
static __always_inline struct ending cut_here(struct tcp_sock *tp, int old, struct life *life)
{
	struct ending end = {.reason = REASON_ABORTED};

	if (life->flags & RST_SENT)
		end.reason = REASON_RST_SENT;
	else if (tp && BPF_CORE_READ_BITFIELD(tp, repair)) /* TCP_REPAIR: the connection goes on elsewhere */
		return end;
	else if (!tp || (!is_closing(old) && old != TCP_SYN_RECV)) /* MPTCP: the subflows send the resets */
		end.reason = REASON_RST_SENT;
	else
		end.parked = true;
	return end;
}

/* No error and no reset came before: the first FIN tells, unless it was not even acknowledged. */
static __always_inline struct ending finished(struct sock *sk, struct tcp_sock *tp, int old, struct life *life)
{
	struct ending end = {.reason = fin_order(old)};
	bool unread = tp && tp->data_segs_in != life->data_segs_in;

	if (life->flags & RST_SENT)
		end.reason = REASON_RST_SENT;
	else if (tp && old != TCP_FIN_WAIT2 && tp->snd_una != tp->write_seq)
		return cut_here(tp, old, life);
	else if (old == TCP_FIN_WAIT1 || old == TCP_FIN_WAIT2)
		/* The other end has not finished: a close() with unread data, or data that comes too late, resets. */
		end.parked = !fin_received(sk) && (unread || sk->sk_lock.owned || (tp && tp->linger2 < 0));
	return end;
}

/*
 * The reset that a local close() with unread data, SO_LINGER 0 or a closed listener sends leaves only after the change
 * to CLOSE, so it is told from the states: a session that leaves ESTABLISHED or CLOSE_WAIT straight for CLOSE with no
 * error is one that we reset (net/ipv4/tcp.c: tcp_close, tcp_disconnect). Where that need not be so, the record is
 * parked, and the reset amends it.
 */
static __always_inline struct ending how_it_ended(struct sock *sk, struct tcp_sock *tp, int old, struct life *life,
						  int error)
{
	struct ending end = {};

	if (error == ETIMEDOUT || error == ECONNABORTED) {
		end.reason = reason_of_error(error);
	} else if (life->flags & RST_RECEIVED) {
		end.reason = old == TCP_SYN_SENT ? REASON_REFUSED : REASON_RST_RECEIVED;
		/* Data after shutdown also ends in tcp_reset(), with no RST received: then ours follows. */
		end.parked = is_closing(old) && tp && tp->data_segs_in != life->data_segs_in &&
			     (sk->sk_shutdown & RCV_SHUTDOWN);
	} else if (ended_by_error(sk, tp, old, life, error)) {
		end.reason = reason_of_error(error);
	} else if (old == TCP_SYN_SENT) {
		end.reason = REASON_ABORTED;
	} else {
		end = is_closing(old) ? finished(sk, tp, old, life) : cut_here(tp, old, life);
	}
	return end;
}

/* ---------------------------------------------------------------- the record */

static __always_inline void bytes_of(struct session *e, struct sock *sk, struct tcp_sock *tp, int state,
				     struct life *life)
{
	if (tp)
		app_bytes(&e->tx_bytes, &e->rx_bytes, sk, tp, state, life->flags & ACTIVE_OPEN);
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
	bpf_probe_read_kernel(e->ca_name, sizeof(e->ca_name), tp->inet_conn.icsk_ca_ops->name);
}

static __always_inline void session_fill(struct session *e, struct sock *sk, struct tcp_sock *tp, int state,
					 struct life *life)
{
	__builtin_memset(&e->tx_bytes, 0, sizeof(*e) - sizeof(e->head));
	bytes_of(e, sk, tp, state, life);
	e->duration_ns = e->head.boot_ns - life->start_ns;
	e->state = state;
	e->partial = !!(life->flags & PARTIAL);
	e->mptcp = tp ? is_mptcp_subflow(tp) : 2;
	if (detail && tp)
		detail_of(e, tp);
}

/* ---------------------------------------------------------------- following a session */

/* A session that was open before the trace. */
static __always_inline void life_begin_late(struct life *life, struct tcp_sock *tp, int state)
{
	__builtin_memset(life, 0, sizeof(*life));
	life->start_ns = bpf_ktime_get_boot_ns();
	life->flags = PARTIAL;
	if (!tp)
		return;
	life->data_segs_in = tp->data_segs_in;
	if (opened_here(tp, state))
		life->flags |= ACTIVE_OPEN;
}

static __always_inline struct sock_state *state_of(struct sock *sk, int old)
{
	struct sock_state *s = old == TCP_LISTEN || old == TCP_CLOSE ? NULL : state_find(sk);

	if (s)
		return s;
	s = state_make(sk);
	if (s && old != TCP_CLOSE && old != TCP_LISTEN)
		life_begin_late(&s->tool, tcp_of(sk), old);
	return s;
}

static __always_inline void on_open(struct sock *sk, int old, int new)
{
	struct sock_state *s = state_of(sk, old);

	if (!s || change_taken(s, old, new))
		return;
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
	owner_follow(s, sk, old, new);
}

static __always_inline void on_fin_queued(struct sock *sk, int old, int new)
{
	struct sock_state *s = state_of(sk, old);
	struct tcp_sock *tp = tcp_of(sk);

	if (!s || change_taken(s, old, new))
		return;
	owner_follow(s, sk, old, new);
	if (tp)
		s->tool.data_segs_in = tp->data_segs_in;
}

static __always_inline void on_close(struct sock *sk, int old)
{
	struct sock_state *s = state_of(sk, old);
	struct tcp_sock *tp = tcp_of(sk);
	struct owner owner;
	struct flow flow;

	if (!s || change_taken(s, old, TCP_CLOSE))
		return;
	int error = old == TCP_SYN_SENT ? connect_error(sk, sk->sk_err) : sk->sk_err;
	struct ending end = how_it_ended(sk, tp, old, &s->tool, error);
	s->tool.flags |= REPORTED;
	s->tool.reason = end.reason;
	owner_follow(s, sk, old, TCP_CLOSE);
	flow_of(&flow, sk, tp);
	if (!event_wanted(sk, &flow, s, &owner))
		return;
	struct session *e = event_reserve(sizeof(*e));
	if (!e)
		return;
	head_fill(&e->head, sk, &flow, &owner, SESSION_CLOSED);
	session_fill(e, sk, tp, old, &s->tool);
	e->sock = (__u64)sk;
	e->reason = end.reason;
	e->parked = end.parked;
	e->errno_ = error;
	event_submit(e, sizeof(*e));
}

static __always_inline void on_set_state(struct sock *sk, int old, int new)
{
	if (old == new || !protocol_wanted(sk))
		return;
	if (new == TCP_CLOSE) {
		if (old != TCP_LISTEN)
			on_close(sk, old);
		else
			change_pass(sk, old, new);
	} else if (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK) {
		on_fin_queued(sk, old, new);
	} else if (new == TCP_SYN_SENT || new == TCP_LISTEN || new == TCP_ESTABLISHED ||
		   (new == TCP_SYN_RECV && old == TCP_LISTEN)) {
		on_open(sk, old, new);
	}
}

SET_STATE_PROGRAMS(set_state, on_set_state)

/* ---------------------------------------------------------------- resets */

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(receive_reset, struct sock *sk)
{
	if (!protocol_wanted(sk))
		return 0;
	struct sock_state *s = state_of(sk, sk->__sk_common.skc_state);
	if (s)
		s->tool.flags |= RST_RECEIVED;
	return 0;
}

/* The reset came after the record that it explains: tell userspace, which holds such records back for a moment. */
static __always_inline void amend(struct sock *sk, const struct owner *owner)
{
	struct session *e = event_reserve(sizeof(*e));
	struct flow flow = {};

	if (!e)
		return;
	head_fill(&e->head, sk, &flow, owner, SESSION_AMENDED);
	__builtin_memset(&e->tx_bytes, 0, sizeof(*e) - sizeof(e->head));
	e->sock = (__u64)sk;
	e->reason = REASON_RST_SENT;
	event_submit(e, sizeof(*e));
}

/* What an ending that is reported may turn out to be: a reset of ours, whatever it looked like. */
static __always_inline bool reason_may_change(__u8 reason)
{
	return reason <= REASON_FIN_BOTH || reason == REASON_RST_RECEIVED || reason == REASON_ABORTED;
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
	/* A table has forgotten the socket if it was destroyed first; the reader knows whether it holds a record of it. */
	if (!s && config.lacks.sk_storage && state == TCP_CLOSE)
		amend(sk, &blank_state.owner);
	if (!s)
		return 0;
	s->tool.flags |= RST_SENT;
	__u8 reason = s->tool.reason;
	if ((s->tool.flags & REPORTED) && reason_may_change(reason)) {
		s->tool.reason = REASON_RST_SENT;
		amend(sk, &blank_state.owner);
	}
	return 0;
}

/* ---------------------------------------------------------------- owners and sessions that are there already */

static __always_inline void sock_seed(struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	int state = sk->__sk_common.skc_state;

	if (!s->tool.start_ns && state != TCP_CLOSE && state != TCP_LISTEN)
		life_begin_late(&s->tool, tp, state);
}

#define OWN_SET_STATE
#define SOCK_SEED(sk, tp, s) sock_seed(sk, tp, s)
#include "owner.bpf.h"

static __always_inline void show_open(struct seq_file *seq, struct sock *sk, struct tcp_sock *tp, struct sock_state *s)
{
	struct session e;
	struct flow flow;

	int state = sk->__sk_common.skc_state;
	if (state == TCP_CLOSE || state == TCP_LISTEN || (s->tool.flags & REPORTED))
		return;
	struct owner owner;
	struct life life = s->tool;
	owner_now(&owner, s, sk, tp);
	flow_of(&flow, sk, tp);
	if (!wanted(sk, &flow, &owner))
		return;
	head_fill(&e.head, sk, &flow, &owner, SESSION_OPEN);
	session_fill(&e, sk, tp, state, &life);
	bpf_seq_write(seq, &e, sizeof(e));
}
EACH_SOCKET(open_sessions, show_open)
